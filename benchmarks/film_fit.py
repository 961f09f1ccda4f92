"""What the check of a film's looks refuses: wrong films, and right ones.

    python benchmarks/film_fit.py DATA --out table.md

DATA holds ``mini-mias/all-mias.tar.gz``, ``nih-cxr/``, ``pydicom-data/`` and ``medmnist/``. No
detector is trained: the looks of some negatives are learnt, and all other films checked. Films are
halved first, which saves time and changes little, since looks are measured on small copies.
"""

import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import pydicom
import typer
from numpy.typing import NDArray
from scipy import ndimage

from patchad.core.image import Radiograph, Source
from patchad.errors import PatchadError
from patchad.model.fit import Fit, fit_of, misfit
from patchad.phantoms.phantom import phantom_set
from patchad.prepare.foreground import BodyPart
from patchad.prepare.look import Look
from patchad.prepare.preprocess import Preprocessing, prepare
from patchad.prepare.resize import resize
from patchad.read.read import read_radiograph

Picture = NDArray[np.float32]

SPLITS = 10
NEGATIVES = (20, 40, 80)
EVERY = 4  # one in four films is changed in all ways
ADULT = 18  # years


@dataclass(frozen=True)
class Film:
    """A film of the right kind: its patient, whether it may be learnt from, and its pixels."""

    patient: str
    negative: bool
    pixels: Picture


def mias(data: Path, folder: Path) -> list[Film]:
    """The films of mini-MIAS, all negatives here: a lesion doesn't make a film a wrong one."""
    with tarfile.open(data / "mini-mias" / "all-mias.tar.gz") as archive:
        members = [m for m in archive if m.name.endswith(".pgm")]
        archive.extractall(folder, members, filter="data")
    paths = sorted(folder.rglob("mdb*.pgm"))
    return [Film(str((int(p.stem[3:]) + 1) // 2), True, _halved(p)) for p in paths]


def nih(data: Path) -> list[Film]:
    """The adults of NIH ChestX-ray; those without finding may be learnt from."""
    table = (data / "nih-cxr" / "Data_Entry_2017_v2020.csv").read_text("utf-8").splitlines()
    rows = {row.split(",")[0]: row.split(",") for row in table[1:]}
    paths = sorted((data / "nih-cxr" / "images").glob("*.png"))
    return [
        Film(p.name[:8], rows[p.name][1] == "No Finding", _halved(p))
        for p in paths
        if int(rows[p.name][4]) >= ADULT
    ]


def phantoms(folder: Path, body_part: BodyPart) -> list[Film]:
    """Phantoms of 50 patients, as DICOM."""
    phantom_set(folder, body_part=body_part, train_patients=50, test_patients=0, shape=(512, 416))
    paths = sorted(folder.rglob("*.dcm"))
    return [Film(p.parent.name, True, read_radiograph(p).pixels) for p in paths]


def _halved(path: Path) -> Picture:
    pixels = read_radiograph(path).pixels
    return resize(pixels, (pixels.shape[0] // 2, pixels.shape[1] // 2))


def changed(pixels: Picture) -> Iterator[tuple[str, Picture]]:
    """The same film, wrong in many ways."""
    rows, cols = pixels.shape
    yield "inverted", 1 - pixels
    yield "turned by 90°", np.rot90(pixels)
    yield "turned by 270°", np.rot90(pixels, 3)
    yield "turned by 180°", np.rot90(pixels, 2)
    yield "mirrored", pixels[:, ::-1]
    yield "label mask of 4 greys", (np.floor(pixels * 3.99) / 3).astype(np.float32)
    yield "the middle quarter alone", pixels[rows // 4 : -rows // 4, cols // 4 : -cols // 4]
    yield "padded to twice its size", np.pad(pixels, [(rows // 2,) * 2, (cols // 2,) * 2])
    yield "two beside each other", np.concatenate([pixels[:, ::-1], pixels], 1)
    for side in (16, 32, 64, 128):
        yield f"at {side} × {side} pixels", resize(pixels, (side, side))


def foreign(data: Path) -> Iterator[tuple[str, Picture]]:
    """Images that are not films of either kind."""
    rng = np.random.default_rng(0)
    for _ in range(10):
        yield "blank", np.full((512, 512), rng.random(), np.float32)
        yield "noise", rng.random((512, 512), np.float32)
        slope = np.add.outer(np.arange(400) * rng.random(), np.arange(300) * rng.random())
        yield "gradient", (slope / slope.max()).astype(np.float32)
        soft = ndimage.gaussian_filter(rng.standard_normal((512, 512)), 40)
        yield "clouds", np.clip(0.5 + 20 * soft, 0, 1).astype(np.float32)
    for path in sorted((data / "pydicom-data").glob("*.dcm")):
        try:
            header = pydicom.dcmread(path)
            stored = header.pixel_array.astype(np.float64)
        except Exception:  # many of these files are damaged on purpose
            continue
        modality = str(header.get("Modality", ""))
        if (
            stored.ndim == 2
            and modality in ("CT", "MR", "US", "NM")
            and stored.max() > stored.min()
        ):
            scaled = (stored - stored.min()) / (stored.max() - stored.min())
            yield f"{modality} slice", scaled.astype(np.float32)
    with np.load(data / "medmnist" / "pneumoniamnist.npz") as arrays:
        images = next(arrays[name] for name in arrays.files if "images" in name)
    for image in images[:40]:
        yield "medmnist, 28 × 28", (image / 255).astype(np.float32)


def look(pixels: Picture, body_part: BodyPart) -> Look | None:
    """None if no foreground is found: such an image is refused before this check."""
    whole = Radiograph(np.ascontiguousarray(pixels, np.float32), None, Source("", ""))
    try:
        return prepare(whole, Preprocessing(body_part=body_part)).look
    except PatchadError:
        return None


@dataclass(frozen=True)
class Kind:
    """Films that are right for a model, and those that are wrong, by fault."""

    name: str
    body_part: BodyPart
    right: list[tuple[Film, Look | None]]
    wrong: Mapping[str, list[Look | None]]


def kind_of(
    name: str,
    body_part: BodyPart,
    films: Mapping[str, list[Film]],
    others: list[tuple[str, Picture]],
) -> Kind:
    """Measure everything as a model of ``body_part`` would."""
    wrong: dict[str, list[Look | None]] = {}
    for other, strange in films.items():
        if other != name:
            wrong[other] = [look(film.pixels, body_part) for film in strange[::2]]
    for film in films[name][::EVERY]:
        for how, pixels in changed(film.pixels):
            wrong.setdefault(how, []).append(look(pixels, body_part))
    for how, pixels in others:
        wrong.setdefault(how, []).append(look(pixels, body_part))
    return Kind(name, body_part, [(f, look(f.pixels, body_part)) for f in films[name]], wrong)


def refused(found: Look | None, fit: Fit, body_part: BodyPart) -> bool:
    """Whether a model would refuse a film."""
    return found is None or bool(misfit(found, fit, body_part))


def judged(kind: Kind, count: int) -> dict[str, float]:
    """Share refused by fault, over splits by patient; ``right`` is for held-out films."""
    rates: dict[str, list[bool]] = {}
    for seed in range(SPLITS):
        patients = sorted({film.patient for film, _ in kind.right})
        order = {p: n for n, p in enumerate(np.random.default_rng(seed).permutation(patients))}
        drawn = sorted((f for f in kind.right if f[0].negative), key=lambda f: order[f[0].patient])
        learnt = {film.patient for film, _ in drawn[:count]}
        fit = fit_of([(found, film.patient) for film, found in drawn[:count]])
        assert fit is not None
        aside = [found for film, found in kind.right if film.patient not in learnt]
        for how, looks in {"right": aside, **kind.wrong}.items():
            rates.setdefault(how, []).extend(refused(x, fit, kind.body_part) for x in looks)
    return {how: float(np.mean(found)) for how, found in rates.items()}


def table(results: Mapping[tuple[str, int], Mapping[str, float]]) -> str:
    """Percent refused as Markdown: a row per fault, a column per model."""
    hows = dict.fromkeys(how for rates in results.values() for how in rates)
    names = [f"{name}, {count}" for name, count in results]
    lines = [f"| refused, % | {' | '.join(names)} |", "|---|" + "---:|" * len(names)]
    for how in hows:
        cells = (rates.get(how) for rates in results.values())
        line = " | ".join("" if cell is None else f"{100 * cell:.1f}" for cell in cells)
        lines.append(f"| {how} | {line} |")
    return "\n".join(lines) + "\n"


def main(
    data: Annotated[Path, typer.Argument(help="The folder with mini-mias, nih-cxr …")],
    out: Annotated[
        Path | None, typer.Option(help="Where the table goes, besides the screen.")
    ] = None,
) -> None:
    """Measure all films, learn from some, check the others, and print a table."""
    with tempfile.TemporaryDirectory() as folder:
        films = {
            "mini-MIAS": mias(data, Path(folder)),
            "NIH chest": nih(data),
            "breast phantoms": phantoms(Path(folder) / "breasts", "breast"),
            "chest phantoms": phantoms(Path(folder) / "chests", "chest"),
        }
    others = list(foreign(data))
    results = {}
    for name in films:
        kind = kind_of(name, "chest" if "chest" in name else "breast", films, others)
        for count in NEGATIVES:
            results[name, count] = judged(kind, count)
            print(name, count, {how: round(100 * x, 1) for how, x in results[name, count].items()})
    print(table(results))
    if out is not None:
        out.write_text(table(results), "utf-8")


if __name__ == "__main__":
    typer.run(main)
