import io
import tarfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from patchad.core.image import Radiograph, Source
from patchad.errors import ImageError
from patchad.prepare.foreground import find_foreground
from patchad.prepare.resize import resize


def radiograph(pixels, view=""):
    source = Source("drawn", "", view=view)
    return Radiograph(np.array(pixels, np.float32), None, source)


def breast(shape=(200, 160), air=0.02, noise=0.0, muscle=False):
    """Half an ellipse on the left edge, brighter inward; returns pixels and the true mask."""
    H, W = shape
    row, col = np.mgrid[:H, :W]
    depth = 1 - np.hypot((row - 0.5 * H) / (0.42 * H), col / (0.7 * W))
    true = depth > 0
    pixels = np.where(true, np.minimum(0.25 + 1.5 * depth, 0.6), air)
    if muscle:
        pixels[(row / (0.6 * H) + col / (0.4 * W) <= 1) & true] += 0.3
    pixels += noise * np.random.default_rng(0).standard_normal(shape)
    return np.clip(pixels, 0, 1), true


def overlap(found, true):
    return (found & true).sum() / (found | true).sum()


@pytest.mark.parametrize("shape", [(20, 30), (128, 128), (300, 200), (1100, 700), (2000, 1500)])
@pytest.mark.parametrize(("air", "noise"), [(0.0, 0.0), (0.08, 0.01)])
def test_the_breast_is_found_at_any_size(shape, air, noise):
    pixels, true = breast(shape, air=air, noise=noise)
    found = find_foreground(radiograph(pixels), "breast")
    # Two pixels of the outline are half the mask of the smallest picture.
    assert overlap(found.mask, true) > (0.8 if max(shape) < 100 else 0.96)
    assert found.method.startswith("breast: Otsu")
    assert air < found.threshold < 0.3
    assert found.measures["area_fraction"] == pytest.approx(found.mask.mean())


def test_the_chest_wall_is_not_eaten():
    pixels, true = breast()
    for picture, edge in ((pixels, 0), (pixels[:, ::-1], -1)):
        mask = find_foreground(radiograph(picture), "breast").mask
        assert mask[:, edge].sum() >= true[:, 0].sum() - 2


@pytest.mark.parametrize("axis", [0, 1])
def test_a_mirrored_image_has_a_mirrored_mask(axis):
    for shape in ((201, 160), (900, 701)):
        pixels, _ = breast(shape, noise=0.01, air=0.05)
        one = find_foreground(radiograph(pixels), "breast").mask
        other = find_foreground(radiograph(np.flip(pixels, axis)), "breast").mask
        assert (np.flip(other, axis) != one).mean() < 1e-3


def test_labels_wedges_scratches_and_rims_stay_out():
    pixels, true = breast((400, 320), air=0.05, noise=0.005)
    rubbish = np.zeros_like(true)
    rubbish[20:70, 230:270] = True  # a sticker
    rubbish[:, 300:318] = True  # a wedge as long as the film, longer than the breast
    rubbish[:3] = True  # a rim that touches breast, sticker and wedge
    rubbish[:, 150:152] = True  # a scratch through the breast
    rubbish[350:360, 200:280] = True  # writing
    pixels = np.where(rubbish, 1, pixels)
    pixels[:, 250:260][25:60] = 0  # letters on the sticker
    film = np.pad(pixels, ((0, 0), (40, 60)))  # and black padding around the film
    mask = find_foreground(radiograph(film), "breast").mask[:, 40:-60]
    skin = ndimage.binary_dilation(true, iterations=2)  # where the scratch enters the breast
    assert (mask & rubbish & ~skin).sum() == 0
    assert overlap(mask, true) > 0.95


def test_the_mask_is_one_piece_without_holes():
    pixels, _ = breast((300, 250))
    pixels[140:160, 40:60] = 0  # a hole in the tissue
    mask = find_foreground(radiograph(pixels), "breast").mask
    assert mask[140:160, 40:60].all()
    assert ndimage.label(mask)[1] == 1


def test_a_black_line_at_the_border_is_no_breast():
    pixels, true = breast((1000, 800))
    pixels[:, 0] = 0
    mask = find_foreground(radiograph(pixels), "breast").mask
    assert not mask[:, 0].any()
    assert mask[:, 2].sum() > 0.9 * true[:, 2].sum()


def test_the_pectoral_muscle_is_kept_and_measured():
    for flip in (False, True):
        with_muscle, true = breast(muscle=True)
        row, col = np.mgrid[:200, :160]
        share = ((row / 120 + col / 64 <= 1) & true).sum() / true.sum()
        picture = with_muscle[:, ::-1] if flip else with_muscle
        found = find_foreground(radiograph(picture), "breast")
        assert found.measures["pectoral_fraction"] == pytest.approx(share, abs=0.05)
        assert overlap(found.mask[:, ::-1] if flip else found.mask, true) > 0.95
    without = find_foreground(radiograph(breast()[0]), "breast")
    assert np.isnan(without.measures["pectoral_fraction"])
    # No muscle reaches into a craniocaudal view.
    craniocaudal = find_foreground(radiograph(with_muscle, view="CC"), "breast")
    assert np.isnan(craniocaudal.measures["pectoral_fraction"])


@pytest.mark.parametrize("part", ["breast", "chest"])
@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_a_constant_image_is_refused(part, value):
    with pytest.raises(ImageError, match=rf"every pixel is {value:g}.*{part}"):
        find_foreground(radiograph(np.full((60, 50), value)), part)


def test_air_with_noise_is_refused():
    noise = np.clip(0.1 + 0.02 * np.random.default_rng(1).standard_normal((700, 600)), 0, 1)
    with pytest.raises(ImageError, match="largest object"):
        find_foreground(radiograph(noise), "breast")


def chest(shape=(256, 256)):
    return 0.3 + 0.4 * np.random.default_rng(2).random(shape)


def test_a_chest_without_margins_is_the_whole_image():
    found = find_foreground(radiograph(chest()), "chest")
    assert found.mask.all()
    assert found.method.startswith("chest")


@pytest.mark.parametrize("colour", [0.0, 1.0])
def test_black_and_white_margins_are_cut_off(colour):
    pixels = chest()
    field = np.zeros((256, 256), bool)
    field[30:-12, 20:-40] = True
    pixels[~field] = colour
    pixels[4:12, 60:100:4] = 0.5  # writing in the margin
    assert overlap(find_foreground(radiograph(pixels), "chest").mask, field) > 0.98


def test_a_slanted_margin_is_cut_off():
    row, col = np.mgrid[:256, :256]
    field = row > 20 + 0.08 * col
    found = find_foreground(radiograph(np.where(field, chest(), 0)), "chest")
    assert overlap(found.mask, field) > 0.98


def test_rims_within_margins_are_cut_off_too():
    pixels = np.pad(np.pad(chest((200, 200)), 12, constant_values=1.0), 20)
    field = np.pad(np.ones((200, 200), bool), 32)
    assert overlap(find_foreground(radiograph(pixels), "chest").mask, field) > 0.96


def test_air_beside_a_body_stays_in_the_field():
    pixels = chest()
    row, col = np.mgrid[:256, :256]
    pixels[row < 60 - np.abs(col - 128) * 0.02 - 200 * (np.abs(col - 128) < 40)] = 0
    body = find_foreground(radiograph(pixels), "chest").mask
    assert body[:, 100:150].all()


@given(
    old=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    new=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    value=st.floats(0, 1, width=32),
)
@settings(max_examples=60)
def test_resizing_keeps_constants(old, new, value):
    out = resize(np.full(old, value, np.float32), new)
    assert out.shape == new
    np.testing.assert_allclose(out, value, atol=1e-6)


def test_resizing_by_hand():
    # Centres of four pixels lie at 0.25, 0.75, 1.25 and 1.75 of two; outside the edge is repeated.
    out = resize(np.array([[0.0, 1.0]], np.float32), (1, 4))
    np.testing.assert_allclose(out, [[0, 0.25, 0.75, 1]])


@pytest.fixture(scope="session")
def mias(real_data):
    path = real_data / "mini-mias" / "all-mias.tar.gz"
    if not path.is_file():
        pytest.skip(f"no {path}: get mini-MIAS and set PATCHAD_DATA")
    with tarfile.open(path) as archive:
        names = sorted(name for name in archive.getnames() if name.endswith(".pgm"))
        info = archive.extractfile("Info.txt") if "Info.txt" in archive.getnames() else None
        text = (info.read() if info else (path.parent / "Info.txt").read_bytes()).decode("latin-1")
        lesions = {}
        for line in text.splitlines():
            words = line.split()
            if len(words) == 7 and words[0].startswith("mdb") and words[4].isdigit():
                lesions.setdefault(words[0], []).append((1023 - int(words[5]), int(words[4])))

        def film(name):
            content = archive.extractfile(name).read()
            return np.asarray(Image.open(io.BytesIO(content)), np.float32) / 255

        yield names, film, lesions


@pytest.mark.real
def test_mini_mias_films_have_one_breast_of_a_plausible_size(mias):
    names, film, _ = mias
    for name in names[::11]:
        found = find_foreground(radiograph(film(name)), "breast")
        assert 0.1 < found.measures["area_fraction"] < 0.92, name
        assert ndimage.label(found.mask)[1] == 1, name


@pytest.mark.real
@pytest.mark.slow
def test_mini_mias_lesions_lie_in_the_breast(mias):
    names, film, lesions = mias
    inside = []
    for name in names:
        centres = lesions.get(name.removesuffix(".pgm"), ())
        if not centres:
            continue
        mask = find_foreground(radiograph(film(name)), "breast").mask
        inside += [mask[centre] for centre in centres]
    assert len(inside) > 40
    assert np.mean(inside) >= 0.97  # mdb212 and mdb214, where present, point at air


@pytest.mark.real
def test_nih_fields_are_most_of_the_image(real_data):
    files = sorted((real_data / "nih-cxr" / "images").glob("*.png"))[::10]
    if not files:
        pytest.skip("no nih-cxr/images in the folder of real data: set PATCHAD_DATA")
    for file in files:
        pixels = np.asarray(Image.open(file).convert("L"), np.float32) / 255
        mask = find_foreground(radiograph(pixels), "chest").mask
        assert mask.mean() > 0.7, file.name
        assert mask[400:624, 400:624].all(), file.name
