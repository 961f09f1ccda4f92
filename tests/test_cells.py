"""Films in cells of 0.8 mm."""

import numpy as np
import torch
from builders import on_cpu

from patchad.core.image import Foreground
from patchad.methods.parts.cells import Cells, cells, enlarged
from patchad.prepare.film import tissue
from patchad.prepare.preprocess import Prepared


def half_a_film() -> Prepared:
    pixels = np.zeros((200, 240), np.float32)
    pixels[40:160, :120] = 0.6
    return Prepared(pixels, Foreground(pixels > 0, "", 0.0), 0.6, (0.4, 0.4))


def test_the_part_with_tissue_is_kept_and_the_air_filled() -> None:
    film = on_cpu(half_a_film(), [tissue, cells])
    part = Cells.of(film)
    assert part.shape == (100, 120)
    assert part.size_mm == (0.8, 0.8)
    whole = part.whole(part.means(film.pixels))
    assert whole.shape == (100, 120)
    # The rim of 1 mm is gone: rows 43..156 of 0.4 mm, which are cells 21.5 to 78.5.
    rows = np.flatnonzero(whole[:, 30].isfinite())
    assert abs(rows[0] - 21.5) <= 0.5
    assert abs(rows[-1] - 77.5) <= 0.5
    # 8 cells are kept around it, but none beyond the image.
    assert (int(part.rows[0]), int(part.cols[0])) == (rows[0] - 8, 0)
    assert (int(part.rows[-1]), len(part.rows)) == (rows[-1] + 8, rows[-1] - rows[0] + 17)
    torch.testing.assert_close(
        part.filled(part.tissue_means(film.pixels, film.tissue)),
        torch.full(part.tissue.shape, 0.6),
    )


def test_the_nearest_tissue_is_the_nearest() -> None:
    found = cells(half_a_film())
    inside = np.argwhere(found["tissue"])
    for place in [(0, 0), (3, 65), (30, 66), (64, 60)]:
        distance = np.linalg.norm(inside - place, axis=1).min()
        there = found["nearest"][(slice(None), *place)]
        assert found["tissue"][tuple(there)]
        assert np.linalg.norm(there - place) == distance


def test_a_map_is_enlarged_from_its_lowest_value_where_it_is_undefined() -> None:
    values = torch.tensor([[2.0, torch.nan], [4.0, 6.0]])
    large = enlarged(values, (4, 4))
    assert large[0].tolist() == [2, 2, 2, 2]
    assert large[3].tolist() == [4, 4.5, 5.5, 6]
