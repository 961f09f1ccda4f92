"""Run folders made by hand, of tiny images whose figures can be computed on paper."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd

from patchad.core.image import Heatmap
from patchad.export.stored_marks import stored_marks
from patchad.export.tiff import write_heatmap
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.rarity import Rarity
from patchad.store.marks_table import write_marks
from patchad.store.run import ImageRow, heatmap_path, patches_path, write_run

SIZE = 40  # of every image, in stored pixels; it was scored at half of that, in patches of 10
CORNERS = ((0, 0), (0, 10), (10, 0), (10, 10))
NAN = math.nan

CALIBRATION = Calibration(
    pooling="max",
    top_k=1,
    patch_shares=Shares((0.0, 5.0), (0.0, 1.0), (0.0, 1.0)),
    patient_scores=(1.0, 4.0),
    patch_threshold=3.0,
    image_threshold=4.5,
    display_range=(0.0, 5.0),
    images=2,
    patients=2,
    patches=8,
    marks=MarkCalibration(
        threshold=3.0,
        per_film=1.0,
        dense=False,
        decides=True,
        stride=10,
        rarity=Rarity((4.0, 6.0), (1.0, 0.5, 0.1), (2.0, 1.0, 0.4), 9, 4),
    ),
)


def make_run(
    folder,
    scores,
    images=None,
    heatmaps=True,
    baselines=None,
    called="run",
    method="wei2018",
    config=None,
    whole=None,
    views=None,
):
    """A run folder by hand.

    ``images`` is where its images are said to lie; ``whole`` has image scores of their own, by
    image, instead of the highest patch; ``views`` the views that were read.
    """
    run, images, whole, views = folder / called, images or folder, whole or {}, views or {}
    rows = []
    for name, values in scores.items():
        values = np.array(values, np.float32)
        given = baselines(values) if baselines else {}
        row, col = np.array(CORNERS).T
        table = pd.DataFrame(
            {
                "row": row, "col": col, "size": 10, "foreground": np.float32(1),
                "score": values, "percentile": values, "x": col * 2.0, "y": row * 2.0,
                "width": 20.0, "height": 20.0,
                "patch_mean": np.float32(0.5), "patch_std": np.nan_to_num(values),
                "gradient_energy": -np.nan_to_num(values), **given,
            }
        )  # fmt: skip
        path = patches_path(run, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(table.to_parquet())  # pyarrow opens no path that isn't UTF-8
        if heatmaps:
            picture = np.kron(values.reshape(2, 2), np.ones((20, 20), np.float32))
            write_heatmap(heatmap_path(run, name), Heatmap(picture, "RMSE"))
        rows.append(
            ImageRow(
                id=name, path=str(images / f"{name}.png"), status="ok", reason="",
                score=whole.get(name, float(np.nanmax(values))), view=views.get(name, ""),
                rows=SIZE, columns=SIZE, n_patches=4,
                scored_rows=SIZE // 2, scored_columns=SIZE // 2, stride=10, flagged=False,
            )
        )  # fmt: skip
    rows.append(ImageRow("broken", str(images / "broken.png"), "failed", "truncated"))
    card = {
        "digest": "d1", "method": method, "score_unit": "RMSE", "patch_size": 10, "stride": 10,
        "config": {"method": method, **(config or {})},
        "calibration": asdict(CALIBRATION),
    }  # fmt: skip
    made = write_run(run, {"card": card}, rows)
    done = [row for row in made.rows if row.status == "ok"]
    write_marks(run, {row.id: stored_marks(made, row, CALIBRATION) for row in done})
    return run
