"""A method is added by its file and one line of the table; then everything knows it."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]

TOY = '''
"""A toy: how far a patch is from the mean of negatives, learnt step by step."""

from dataclasses import dataclass

import torch
from torch import nn

from patchad.learn.loop import train
from patchad.model.method import Gives, Method, Needs


@dataclass(frozen=True)
class Config:
    epochs: int = 2
    films: int = 0


class Toy(nn.Module):
    unit, pooling = "distance from the mean", ""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(1))
        self.register_buffer("others", torch.zeros(1, dtype=torch.int64))

    def forward(self, patches):
        return (patches.mean((1, 2, 3)) - self.mean).abs()


def learn(module, config, data, run):
    bank = data.bank.to(run.device)

    def losses(drawn, step):
        yield "sgd", (bank.cut(drawn).mean((1, 2, 3)) - module.mean).square().mean()

    train(
        run, {"toy": module}, {"sgd": torch.optim.SGD(module.parameters(), 0.2)},
        epochs=config.epochs, steps=10, draw=lambda step: bank.draw(20, step.generator),
        losses=losses,
    )
    if data.unlabelled is not None:
        module.others.fill_(len(data.unlabelled))


METHOD = Method(
    name="NAME",
    family="reconstruction",
    paper="none",
    needs=Needs("negatives", body_parts=("breast",), unlabelled=UNLABELLED),
    gives=Gives("patch", "a score a patch"),
    config=Config,
    build=lambda config, setting: Toy(),
    learn=learn,
)
'''


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package with two more files and two more lines of the table."""
    folder = tmp_path_factory.mktemp("house")
    for name in ("patchad", "configs"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    methods = folder / "patchad" / "methods"
    table = (methods / "__init__.py").read_text("utf-8")
    lines = ""
    for name, unlabelled in (("toy", "False"), ("toy_unlabelled", "True")):
        source = TOY.replace("NAME", name).replace("UNLABELLED", unlabelled)
        (methods / "reconstruction" / f"{name}.py").write_text(source, "utf-8")
        lines += f'    "{name}": "reconstruction/{name}",\n'
    table, count = re.subn(r'(    "wei2018": [^\n]+\n)', rf"\1{lines}", table)
    assert count == 1
    (methods / "__init__.py").write_text(table, "utf-8")
    return folder


def patchad(house: Path, *words: object) -> subprocess.CompletedProcess[str]:
    code = "from patchad.cli.app import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, words)],
        capture_output=True, text=True, cwd=house,
        env={"PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


SETTINGS = ("--set", "patch_size=32", "--set", "stride=16", "--set", "preprocessing.spacing_mm=0.8",
            "--set", "split.held_out=0.4", "--set", "calibration.folds=0")  # fmt: skip


def test_a_toy_goes_all_the_way(house: Path, study, tmp_path: Path) -> None:
    model, run = tmp_path / "model", tmp_path / "run"
    steps = [
        ("methods",),
        ("train", study.manifest, "--model", model, "--config", "toy", *SETTINGS),
        ("screen", study.manifest, "--model", model, "--out", run),
        ("evaluate", run, "--truth", study.manifest, "--regions", study.regions),
        ("export", run, "--write", "sr,geojson"),
        ("selftest", model, "--on", study.manifest, "--out", tmp_path / "selftest", "--images", 1),
    ]
    outputs = []
    for words in steps:
        done = patchad(house, *words)
        assert done.returncode == 0, f"{words[0]}: {done.stderr}"
        outputs.append(done.stdout)
    assert "toy" in outputs[0]
    assert json.loads((model / "card.json").read_text())["method"] == "toy"
    rows = pd.read_csv(run / "images.csv")
    assert (rows["status"] == "ok").all()
    assert len(list((run / "dicom").rglob("sr.dcm"))) == len(rows)
    assert (run / "evaluation" / "evaluation.json").exists()


def test_a_method_of_unlabelled_films_is_refused_without_and_gets_them(
    house: Path, study, tmp_path: Path
) -> None:
    asked = ("--model", tmp_path / "model", "--config", "toy_unlabelled", *SETTINGS)
    refused = patchad(house, "train", study.manifest, *asked)
    assert refused.returncode == 2
    assert "column split" in refused.stderr
    assert not (tmp_path / "model").exists()
    table = pd.read_csv(study.manifest)
    table["path"] = [str(study.manifest.parent / path) for path in table["path"]]
    table.loc[table["split"] == "test", "split"] = "unlabelled"
    table.to_csv(tmp_path / "manifest.csv", index=False)
    done = patchad(house, "train", tmp_path / "manifest.csv", *asked)
    assert done.returncode == 0, done.stderr
    from safetensors.numpy import load_file

    from patchad.model.folder import read_card
    from patchad.model.trained_on import among
    from patchad.read.read import read_radiograph

    card = read_card(tmp_path / "model")
    assert (
        f"{(table['split'] == 'unlabelled').sum()} unlabelled images were used for training too."
        in (card.notes)
    )
    films = table[table["split"] == "unlabelled"]["path"]
    digests = [read_radiograph(Path(path)).source.digest for path in films]
    assert all(among(card.data.trained_on, digests))  # so that a leak is noticed
    held = load_file(tmp_path / "model" / "weights.safetensors")
    assert held["others"].tolist() == [(table["split"] == "unlabelled").sum()]
