"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with mini-mias, nih-cxr, pydicom-data …; skips where there is none."""
    folder = Path(os.environ.get("PATCHAD_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}: set PATCHAD_DATA to the folder that holds it")
    return folder
