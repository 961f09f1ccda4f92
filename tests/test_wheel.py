"""The package as a user gets it: built, installed away from this checkout, and run."""

import os
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFIGS = sorted(
    str(path.relative_to(ROOT / "configs")) for path in (ROOT / "configs").rglob("*.toml")
)
pytestmark = pytest.mark.slow


def run(command, cwd, **options):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder with the source archive, and the wheel that was built from it alone."""
    folder = tmp_path_factory.mktemp("dist")
    run([sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT], folder)
    return folder


@pytest.fixture(scope="module")
def installed(built, tmp_path_factory):
    """A function that runs a command of a fresh environment with the wheel, far from here."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    (wheel,) = built.glob("*.whl")
    python = folder / "venv" / "bin" / "python"
    install = ["install", "--quiet", "--no-deps", "--no-index", wheel]
    run([sys.executable, "-m", "pip", "--python", python, *install], folder)
    # The dependencies are borrowed from this environment. A plain path, unlike a .pth file there,
    # does not bring in the editable install of this checkout.
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def call(name, *arguments):
        return run([folder / "venv" / "bin" / name, *arguments], folder, env=kept)

    return call


def test_the_wheel_holds_the_package_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0].partition("-")[0] for name in names} == {"patchad"}
    sources = [path for path in (ROOT / "patchad").rglob("*") if path.is_file()]
    wanted = {
        str(path.relative_to(ROOT)) for path in sources if "__pycache__" not in path.parts
    } | {f"patchad/configs/{name}" for name in CONFIGS}
    assert {name for name in names if name.startswith("patchad/")} == wanted
    assert "patchad/py.typed" in wanted
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_source_archive_holds_what_its_tests_need(built):
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {name.partition("/")[2] for name in content.getnames()}
    assert {"Makefile", "constraints.txt", "LICENSE", "README.md", "tests/conftest.py"} <= names
    assert not any(name.startswith((".venv", ".git/", "demo/", "dist/")) for name in names)


def test_the_installed_command_answers(installed):
    code = "import patchad, pathlib; print(pathlib.Path(patchad.__file__).parents[4])"
    assert Path(installed("python", "-c", code).strip()).name == "venv"
    assert "screen" in installed("patchad", "--help")
    assert "wei2018" in installed("patchad", "methods")


def test_the_installed_package_finds_its_configurations(installed):
    code = (
        "from patchad.model.configurations import packaged, read_file; "
        "print(*sorted(path.name for path in packaged().values())); "
        "assert read_file(packaged()['chest'])['preprocessing']['body_part'] == 'chest'"
    )
    assert installed("python", "-c", code).split() == [name for name in CONFIGS if "/" not in name]
