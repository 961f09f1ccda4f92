import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch
from builders import CALIBRATION, CARD, prepared
from torch import nn

from patchad import __version__
from patchad.core.grid import PatchGrid
from patchad.core.image import PatchScores
from patchad.engine.screener import Screener
from patchad.errors import ImageError, ModelError, OutputError
from patchad.model import scoring
from patchad.model.card import ModelCard, card_as_dict, versions
from patchad.model.detector import Detector
from patchad.model.folder import read_card, read_model, save
from patchad.model.method import Gives, Method, Needs


class Mean(nn.Module):
    """Scores a patch by its mean pixel times its one weight, and remembers the batches."""

    unit, pooling = "mean pixel × gain", ""

    def __init__(self, gain: float = 2.0) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(gain))
        # As it may come from a network: a view that is not contiguous.
        self.register_buffer("rows", torch.arange(6.0).reshape(2, 3).T)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, patches):
        self.seen.append(tuple(patches.shape))
        return self.gain * patches.mean((1, 2, 3))


FAKE = Method(
    name="fake",
    family="reconstruction",
    paper="none",
    needs=Needs("nothing"),
    gives=Gives("patch", "a score a patch"),
    config=type(None),
    build=lambda config, setting: Mean(),
    learn=lambda module, config, data, run: None,
)


def fake(card: ModelCard = CARD, gain: float = 2.0) -> Detector:
    return Detector(card, FAKE, None, Mean(gain).requires_grad_(False))


def scored(detector: Detector, pixels, mask, grid) -> PatchScores:
    return Screener(detector).score(prepared(pixels, mask), grid).scores


def change(path, **values):
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_scores_are_those_of_each_patch_in_grid_order():
    pixels = np.arange(6, dtype=np.float32).reshape(2, 3) / 10
    found = scored(fake(), pixels, np.ones((2, 3), bool), PatchGrid((2, 3), 2, 1))
    np.testing.assert_allclose(found.values, [0.4, 0.6], rtol=1e-6)  # 2 × mean of 0 1 3 4, 1 2 4 5
    assert found.values.dtype == np.float32
    assert found.foreground.tolist() == [1, 1]


def test_patches_with_too_little_foreground_are_not_scored():
    mask = np.zeros((2, 6), bool)
    mask[:, 0] = True  # half of the first patch: just enough
    mask[0, 2] = True  # a quarter of the second
    detector = fake()
    found = scored(detector, np.ones((2, 6), np.float32), mask, PatchGrid((2, 6), 2, 2))
    assert found.foreground.tolist() == [0.5, 0.25, 0]
    np.testing.assert_array_equal(found.values, np.array([2, np.nan, np.nan], np.float32))
    assert detector.module.seen == [(1, 1, 2, 2)]


def test_an_image_without_foreground_is_not_scored_at_all():
    detector = fake()
    found = scored(
        detector, np.ones((4, 4), np.float32), np.zeros((4, 4), bool), PatchGrid((4, 4), 2, 2)
    )
    assert np.isnan(found.values).all()
    assert detector.module.seen == []


def test_the_batch_size_changes_nothing_but_the_batches(monkeypatch):
    pixels = np.random.default_rng(0).random((7, 9), np.float32)
    grid, mask = PatchGrid((7, 9), 2, 2), np.ones((7, 9), bool)
    one, many = fake(), fake()
    whole = scored(many, pixels, mask, grid).values
    monkeypatch.setattr(scoring, "AT_ONCE", 3)
    np.testing.assert_array_equal(scored(one, pixels, mask, grid).values, whole)
    assert [shape[0] for shape in one.module.seen] == [3, 3, 3, 3, 3, 3, 2]
    assert [shape[0] for shape in many.module.seen] == [20]


def test_scores_that_are_not_numbers_are_refused():
    pixels, mask = np.ones((2, 2), np.float32), np.ones((2, 2), bool)
    with pytest.raises(ModelError, match="not numbers"):
        scored(fake(gain=float("nan")), pixels, mask, PatchGrid((2, 2), 2, 2))


def test_a_model_comes_back_as_it_was_saved(tmp_path):
    folder = tmp_path / "new" / "model"
    written = save(fake(), folder)
    card, tensors = read_model(folder)
    weights = (folder / "weights.safetensors").read_bytes()
    assert card == written
    assert card == dataclasses.replace(CARD, weights_sha256=hashlib.sha256(weights).hexdigest())
    assert tensors["gain"] == 2
    assert tensors["rows"].tolist() == [[0, 3], [1, 4], [2, 5]]
    assert {path.name for path in folder.iterdir()} == {"card.json", "weights.safetensors"}


def test_the_same_model_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        save(fake(), tmp_path / name)
    for file in ("card.json", "weights.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_the_digest_names_the_model_in_results(tmp_path):
    card = save(fake(), tmp_path)
    digest = card_as_dict(card)["digest"]
    assert json.loads((tmp_path / "card.json").read_text())["digest"] == digest
    assert card_as_dict(read_card(tmp_path))["digest"] == digest
    assert card_as_dict(dataclasses.replace(card, seed=8))["digest"] != digest


def test_a_model_that_is_still_training_has_no_calibration(tmp_path):
    save(fake(dataclasses.replace(CARD, calibration=None)), tmp_path)
    card = read_card(tmp_path)
    assert card.calibration is None
    with pytest.raises(ModelError, match="finish its training"):
        _ = card.calibrated
    assert CARD.calibrated is CALIBRATION


def test_a_folder_without_a_model_says_how_to_train_one(tmp_path):
    with pytest.raises(ModelError, match=r"it does not exist.*patchad train SOURCE --model"):
        read_model(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "content", ["", "not JSON", "[1, 2]", '"text"', "null", "\udcff", "[" * 100_000]
)
def test_a_foreign_card_is_refused(tmp_path, content):
    (tmp_path / "card.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ModelError, match=r"card\.json is not the card of a model"):
        read_card(tmp_path)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_older_formats_are_refused_with_the_reason_and_the_remedy(tmp_path, number):
    (tmp_path / "card.json").write_text(json.dumps({"format": number}))
    with pytest.raises(ModelError, match=rf"format {number}, .*reads 4.*train again"):
        read_card(tmp_path)


@pytest.mark.parametrize("made_with", ["9.9", None, [], {}])
def test_a_card_of_another_format_is_refused_whatever_it_holds(tmp_path, made_with):
    (tmp_path / "card.json").write_text(json.dumps({"format": 99, "versions": made_with}))
    with pytest.raises(ModelError, match=rf"format 99.*\({__version__}\) reads 4.*\(unknown\)"):
        read_card(tmp_path)


def test_a_card_of_another_format_names_the_version_to_use(tmp_path):
    save(fake(), tmp_path)
    change(tmp_path / "card.json", format=2, versions={"patchad": "7.1"})
    with pytest.raises(ModelError, match=r"trained with \(7\.1\)"):
        read_card(tmp_path)


@pytest.mark.parametrize(
    "values", [{"seed": 8}, {"digest": "0" * 64}, {"digest": None}, {"unknown": 1}]
)
def test_a_card_that_was_changed_is_refused(tmp_path, values):
    save(fake(), tmp_path)
    change(tmp_path / "card.json", **values)
    with pytest.raises(ModelError, match=r"card\.json was changed"):
        read_model(tmp_path)


def test_a_card_with_a_fitting_digest_must_still_be_a_card(tmp_path):
    content = {"format": 4, "method": "fake"}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (tmp_path / "card.json").write_text(json.dumps(content | {"digest": digest}))
    with pytest.raises(ModelError, match="not a card that patchad"):
        read_card(tmp_path)


def test_weights_that_were_changed_or_are_missing_are_refused(tmp_path):
    save(fake(), tmp_path)
    weights = tmp_path / "weights.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ModelError, match=r"weights\.safetensors is not the file.*SHA-256"):
        read_model(tmp_path)
    weights.unlink()
    with pytest.raises(ModelError, match=r"No such file.*is the folder complete"):
        read_model(tmp_path)


def test_weights_that_are_no_safetensors_are_refused(tmp_path):
    card = dataclasses.replace(CARD, weights_sha256=hashlib.sha256(b"pickled").hexdigest())
    (tmp_path / "weights.safetensors").write_bytes(b"pickled")
    (tmp_path / "card.json").write_text(json.dumps(card_as_dict(card)))
    with pytest.raises(ModelError, match="not a safetensors file"):
        read_model(tmp_path)


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "model").touch()
    with pytest.raises(OutputError, match=r"model/weights\.safetensors could not be written"):
        save(fake(), tmp_path / "model")


def test_versions_are_those_installed():
    assert versions()["patchad"] == __version__
    assert versions()["torch"].startswith(torch.__version__)


def test_too_little_memory_says_what_to_do():
    detector = fake()

    def full(patches):
        raise torch.OutOfMemoryError

    detector.module.forward = full
    with pytest.raises(ImageError, match=r"too little memory for this image.*--device cpu"):
        scored(
            detector, np.ones((4, 4), np.float32), np.ones((4, 4), bool), PatchGrid((4, 4), 2, 2)
        )
