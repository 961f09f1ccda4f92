"""Fixtures that several test files share."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from patchad.commands.train import train
from patchad.methods.configure import read_config
from patchad.model.config import Config
from patchad.phantoms.phantom import phantom_set

settings.register_profile("ci", deadline=None, derandomize=True)


@dataclass(frozen=True)
class Study:
    """Small phantoms of breasts as DICOM, and a model trained on the negative ones of ``train``."""

    folder: Path
    manifest: Path
    regions: Path
    model: Path
    config: Config


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with mini-mias, nih-cxr, pydicom-data …; skips where there is none."""
    folder = Path(os.environ.get("PATCHAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set PATCHAD_DATA to the folder that holds it")
    return folder


@pytest.fixture(scope="session")
def tiny_config() -> Config:
    """The leaky network on patches of 32 pixels, trained for a moment."""
    return read_config(
        "wei2018_leaky",
        [
            "patch_size=32",
            "stride=16",
            "split.held_out=0.4",
            "wei2018.epochs=4",
            "wei2018.batch_size=50",
            "wei2018.patches_per_epoch=1000",
            "wei2018.learning_rate=0.005",
        ],
    )


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> Study:
    """Six training and four test patients, two images each, 256 x 208 pixels of 0.8 mm."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("study")
    manifest, regions = phantom_set(
        folder / "phantoms", train_patients=6, test_patients=4, shape=(256, 208)
    )
    model = folder / "model"
    train(manifest, model, tiny_config, device=torch.device("cpu"))
    return Study(folder / "phantoms", manifest, regions, model, tiny_config)
