"""Wei et al.'s figure on INbreast: autoencoder of normal patches against lesions.

Q. Wei, Y. Ren, R. Hou, B. Shi, J. Y. Lo, L. Carin: Anomaly detection for medical images based on a
one-class classification. SPIE Medical Imaging 2018, https://doi.org/10.1117/12.2293408. Data: I. C.
Moreira et al., INbreast, Academic Radiology 19:236-248, 2012.

    python pipelines/inbreast.py DATA --out studies/inbreast
    python pipelines/inbreast.py DATA --by-patch --configs wei2018

DATA is INbreast Release 1.0: ``AllDICOMs/<image>_<case>_MG_<L|R>_<CC|ML>_ANON.dcm``,
``AllXML/<image>.xml`` (outlines) and ``INbreast.csv``. A case's hash is its patient.
"""

import plistlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any
from xml.parsers.expat import ExpatError

import numpy as np
import pandas as pd
import pydicom
import typer
from PIL import Image
from published import (
    Asked,
    Configs,
    Limit,
    OnDevice,
    Out,
    Quick,
    Replication,
    Resume,
    Seeds,
    Sets,
    refused,
    replicate,
)
from published_data import Part, count_notes, read_rows, write_part
from published_tables import PublishedRow
from skimage.draw import polygon
from study import split_patients

from patchad.errors import RequestError

IMAGES = 410
COUNTS = {"films": IMAGES, "BI-RADS 1": 67, "BI-RADS 5": 49}
PUBLISHED = (PublishedRow("Wei et al.", "wei2018", {"patch AUROC": 0.84}, "2018"),)
FEWEST_POINTS = 3  # of an outline; fewer are specks

_FILE = re.compile(r"(?P<image>\d+)_(?P<case>[0-9a-zA-Z]+)_MG_(?P<side>[LR])_(?P<view>CC|ML)_ANON")
_BIRADS = re.compile(r"[0-6][a-c]?")
_POINT = re.compile(r"\(\s*(-?[\d.]+)\s*,\s*(-?[\d.]+)\s*\)")
_PATIENT_NOTES = (
    "Positive are films of BI-RADS 3 to 6; every patient with one is judged, with all films, and "
    "half of the others. Published: 67 films of BI-RADS 1 against 49 of BI-RADS 5, patches split "
    "at random, so neighbours of judged patches were trained on.",
)
# wei2018 keeps its own preparation: the pixels as stored, as published.
_PATCH_NOTES = (
    "As published: 36,013 patches of the 67 films of BI-RADS 1, nine tenths to train on, and 321 "
    "patches of the 49 films of BI-RADS 5. LEAKS: a film's patches are on both sides. Here all "
    "patches of these 67 films are judged, those trained on too, which is easier still than the "
    "published tenth; calibration holds out a tenth of the patches.",
)


def read_release(data: Path, work: Path) -> tuple[pd.DataFrame, pd.DataFrame, list[str]]:
    """The films, the regions of their lesions (masks are written to ``work``), and notes.

    Raises:
        RequestError: a folder or table is missing, or a file can't be understood.
    """
    files = {}
    for path in sorted((data / "AllDICOMs").glob("*.dcm")):
        name = _FILE.fullmatch(path.stem)
        if name is None:
            raise RequestError(f"{path}: its name is not <image>_<case>_MG_<L|R>_<CC|ML>_ANON.dcm")
        files[name["image"]] = path, name
    if not files:
        raise RequestError(f"{data / 'AllDICOMs'} holds no *.dcm: give INbreast Release 1.0")
    table = read_rows(data / "INbreast.csv", ("file name", "bi-rads"))
    scores = dict(zip(table["file name"].str.removesuffix(".dcm"), table["bi-rads"], strict=True))
    rows, regions, notes = [], [], []
    for image, (path, name) in files.items():
        birads = scores.get(image, "").lower()
        if not _BIRADS.fullmatch(birads):
            raise RequestError(
                f"{data / 'INbreast.csv'}: film {image} has BI-RADS {birads or '(none)'}, needed "
                "0 to 6"
            )
        view = "CC" if name["view"] == "CC" else "MLO"
        rows.append(
            {"path": str(path.resolve()), "patient_id": name["case"], "laterality": name["side"],
             "view": view, "birads": birads, "label": _label(birads)}
        )  # fmt: skip
        outlines = data / "AllXML" / f"{image}.xml"
        if outlines.is_file():
            regions += _regions(path, image, read_outlines(outlines), work)
    films = pd.DataFrame(rows)
    found = {
        "films": len(films),
        **{f"BI-RADS {n}": int((films["birads"] == n).sum()) for n in "15"},
    }
    notes += count_notes(found, COUNTS)
    columns = ["path", "x", "y", "width", "height", "mask", "kind"]
    return films, pd.DataFrame(regions, columns=columns), notes


def _label(birads: str) -> str:
    return "unknown" if birads[0] == "0" else "negative" if birads[0] in "12" else "positive"


def read_outlines(path: Path) -> list[tuple[str, list[tuple[float, float]]]]:
    """Kind and points (x, y) of each ROI; the pectoral muscle is none.

    Raises:
        RequestError: the file isn't a property list with ROIs.
    """
    try:
        with path.open("rb") as file:
            content: Any = plistlib.load(file, fmt=plistlib.FMT_XML)
        found = []
        for image in content["Images"]:
            for roi in image["ROIs"]:
                kind = str(roi.get("Name", "")).strip() or "unnamed"
                points = [tuple(map(float, _POINT.fullmatch(p.strip()).groups()))  # type: ignore[union-attr]
                          for p in roi["Point_px"]]  # fmt: skip
                if points and "pectoral" not in kind.lower():
                    found.append((kind, points))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ExpatError) as error:
        raise RequestError(
            f"{path} is no list of outlines, Images[].ROIs[] with Name and Point_px "
            f"({type(error).__name__}: {error}): give INbreast's AllXML"
        ) from None
    return found  # type: ignore[return-value]


def _regions(
    film: Path, image: str, outlines: Sequence[tuple[str, list[tuple[float, float]]]], work: Path
) -> list[tuple[object, ...]]:
    """A row of a table of regions for each ROI: a mask, or a pixel for a speck."""
    if not outlines:
        return []
    header = pydicom.dcmread(film, stop_before_pixels=True, specific_tags=["Rows", "Columns"])
    shape = int(header.Rows), int(header.Columns)
    rows: list[tuple[object, ...]] = []
    for number, (kind, points) in enumerate(outlines):
        xs, ys = np.array(points).T
        if len(points) < FEWEST_POINTS:
            rows += [(str(film.resolve()), int(x), int(y), 1, 1, "", kind) for x, y in points]
            continue
        inside = np.zeros(shape, np.uint8)
        inside[polygon(ys, xs, shape)] = 255
        if not inside.any():  # thinner than a pixel
            rows.append((str(film.resolve()), int(xs[0]), int(ys[0]), 1, 1, "", kind))
            continue
        path = (work / f"{image}-{number}.png").resolve()
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(inside).save(path)
        rows.append((str(film.resolve()), "", "", "", "", str(path), kind))
    return rows


def prepare(
    films: pd.DataFrame, regions: pd.DataFrame, notes: list[str], seed: int, folder: Path, *,
    by_patch: bool = False, limit: int = 0,
) -> list[Part]:  # fmt: skip
    """Write the tables of one seed."""
    if by_patch:
        normal, ill = films[films["birads"] == "1"], films[films["birads"] == "5"]
        train = normal.assign(split="train")
        if limit:
            train, ill = train.head(limit), ill.head(limit)
        judged = pd.concat([train, ill]).assign(split="test")
        rows, limit = pd.concat([train, judged], ignore_index=True), 0
    else:
        films = films[films["label"] != "unknown"]
        positive = {*films["patient_id"][films["label"] == "positive"]}
        tested, aside = split_patients({*films["patient_id"]}, positive, seed)
        splits = ["test" if p in tested else "validation" if p in aside else "train"
                  for p in films["patient_id"]]  # fmt: skip
        rows = films.assign(split=splits)
    # the manifest reads birads too where there is no label; here the label stands
    rows = rows.rename(columns={"birads": "bi_rads"})
    return [write_part(rows, folder, regions=regions, limit=limit, seed=seed, notes=notes)]


def main(
    data: Annotated[Path, typer.Argument(help="INbreast Release 1.0.")],
    by_patch: Annotated[
        bool, typer.Option("--by-patch", help="The published split, which leaks.")
    ] = False,
    out: Out = Path("studies/inbreast"),
    configs: Configs = "",
    seeds: Seeds = "0",
    quick: Quick = False,
    limit: Limit = 0,
    resume: Resume = False,
    device: OnDevice = "auto",
    sets: Sets = [],  # noqa: B006, as typer wants it
) -> None:
    """Train on normal mammograms, and find lesions in others."""
    with refused("inbreast.py"):
        films, regions, notes = read_release(data, out / "masks")
        study = Replication(
            title="INbreast" + (", split by patch" if by_patch else "") + (", quick" * quick),
            use="mammogram",
            prepare=lambda seed, folder: prepare(
                films, regions, notes, seed, folder, by_patch=by_patch, limit=limit
            ),
            published=PUBLISHED,
            notes=_PATCH_NOTES if by_patch else _PATIENT_NOTES,
            overrides={"split": {"by": "patch"}} if by_patch else None,
        )
        asked = Asked(out, configs, seeds, quick, limit, resume, device, tuple(sets))
        print(replicate(study, asked))


if __name__ == "__main__":
    typer.run(main)
