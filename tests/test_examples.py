"""Every example runs as its first lines say."""

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_none_is_left_out() -> None:
    tested = {
        "film_artefacts.py",
        "foreground_sheet.py",
        "from_python.py",
        "phantom_sheet.py",
    }
    assert {path.name for path in EXAMPLES.glob("*.py")} == tested


@pytest.mark.slow
def test_film_artefacts_and_their_foregrounds(tmp_path: Path) -> None:
    run("film_artefacts.py", tmp_path / "films")
    assert len(list((tmp_path / "films").iterdir())) == 8
    run("foreground_sheet.py", tmp_path / "films", "--out", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 400


@pytest.mark.slow
def test_phantom_sheet(tmp_path: Path) -> None:
    run("phantom_sheet.py", tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert min(sheet.size) > 400


def test_from_python(tmp_path: Path) -> None:
    told = run("from_python.py", tmp_path)
    assert "heatmap (256, 208), RMSE" in told
    assert "highest patch at x" in told
