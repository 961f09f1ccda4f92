"""The study on NIH ChestX-ray: Wei et al. (2018) and the trivial baselines, on chest radiographs.

X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers: ChestX-ray8: hospital-scale chest X-ray
database and benchmarks … CVPR 2017, 2097-2106. Provided by the NIH Clinical Center.

    python pipelines/nih_cxr.py DATA --out studies/nih_cxr --quick --finding Pneumonia

DATA is the release's folder: ``images/`` or ``images_001/images/`` …, ``Data_Entry_2017_v2020.csv``
(or ``Data_Entry_2017.csv``) and ``BBox_List_2017.csv``.
"""

import csv
import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from study import Arm, Data, Study, read_seeds, run_study, sample, split_patients
from study_tables import write_table

from patchad.device import choose_device
from patchad.errors import PatchadError, RequestError

log = logging.getLogger("study")

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
BOXES = "BBox_List_2017.csv"
NO_FINDING = "No Finding"
SIDE = 1024  # pixels of every PNG of the release
ADULT, OLDEST = 18, 120  # years; the first release has ages of up to 414
EXTENT_MM = (200, 500)  # of a plausible image side: a cassette is 350 × 430 mm
# The list of boxes and the table name this finding differently.
SAME = {"Infiltrate": "Infiltration"}


@dataclass(frozen=True)
class Entry:
    """A row of the table: ``view`` AP or PA, ``age`` in years, None where it makes no sense.

    ``spacing_mm`` (row, col) is that of the PNG, None where the table's is not plausible.
    """

    image: str
    patient: str
    findings: tuple[str, ...]
    age: int | None
    view: str
    spacing_mm: tuple[float, float] | None


@dataclass(frozen=True)
class Box:
    """A marked finding, in pixels of the PNG from its top-left corner."""

    image: str
    finding: str
    x: float
    y: float
    width: float
    height: float


def read_entries(path: Path) -> list[Entry]:
    """Read ``Data_Entry_2017*.csv``; the names of its pairs are split by commas, or quoted.

    Raises:
        RequestError: a column is missing, or a row has too few cells.
    """
    header, rows = _rows(path)
    where = {name: at for at, name in enumerate(header)}
    names = ("Image Index", "Finding Labels", "Patient ID", "Patient Age", "View Position",
             "OriginalImage[Width", "OriginalImagePixelSpacing[x")  # fmt: skip
    missing = [name for name in names if name not in where]
    if missing:
        raise RequestError(f"{path} lacks {', '.join(missing)}: give the table of the release")
    image, findings, patient, age, view, width, spacing = (where[name] for name in names)
    entries = []
    for number, row in rows:
        if len(row) < spacing + 2:
            raise RequestError(f"{path}, row {number}: {len(row)} cells, the header has more")
        entries.append(
            Entry(
                row[image],
                row[patient],
                tuple(row[findings].split("|")),
                _age(row[age]),
                row[view],
                _png_spacing(row[width : width + 2], row[spacing : spacing + 2]),
            )
        )
    return entries


def read_boxes(path: Path) -> list[Box]:
    """Read ``BBox_List_2017.csv``: x, y, width, height are columns 3 to 6, however they are named.

    Raises:
        RequestError: the columns are others, or a number is missing.
    """
    header, rows = _rows(path)
    if header[:2] != ["Image Index", "Finding Label"] or not header[2:3][0].startswith("Bbox"):
        raise RequestError(f"{path} names {', '.join(header)}: give the list of the release")
    boxes = []
    for number, row in rows:
        try:
            x, y, width, height = (float(cell) for cell in row[2:6])
        except ValueError:
            raise RequestError(
                f"{path}, row {number}: found {row[2:6]}, needed x, y, w, h"
            ) from None
        boxes.append(Box(row[0], SAME.get(row[1], row[1]), x, y, width, height))
    return boxes


def _rows(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header with its quoted pairs taken apart, and the rows with their numbers."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *rows = csv.reader(file)
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} cannot be read as a table: {error}") from None
    names = [name.strip() for name in ",".join(header).split(",")]
    return names, [(number, row) for number, row in enumerate(rows, start=2) if any(row)]


def _age(text: str) -> int | None:
    """Years from ``58`` or ``058Y``; an age in months or days is a child's."""
    found = re.fullmatch(r"0*(\d+)([YMD]?)", text.strip())
    if found is None:
        return None
    years = int(found[1]) if found[2] in ("", "Y") else 0
    return years if years <= OLDEST else None


def _png_spacing(size: Sequence[str], spacing: Sequence[str]) -> tuple[float, float] | None:
    """Spacing (row, col) of the PNG, from width and height of the original and its spacing (x, y).

    The originals were squeezed to 1024 × 1024 without regard to their shape: the round L of an
    original of 2500 × 2048 pixels stands upright in its PNG, that of one of 2048 × 2500 lies.
    """
    try:
        width, height = (float(cell) for cell in size)
        x, y = (float(cell) for cell in spacing)
    except ValueError:
        return None
    extents = (height * y, width * x)
    if not all(EXTENT_MM[0] <= extent <= EXTENT_MM[1] for extent in extents):
        return None
    return extents[0] / SIDE, extents[1] / SIDE


def find_images(data: Path) -> dict[str, Path]:
    """The PNG files below ``data`` by name.

    Raises:
        RequestError: there are none.
    """
    images = {path.name: path.resolve() for path in sorted(data.rglob("*.png"))}
    if not images:
        raise RequestError(f"{data} holds no PNG files: give the folder with the release's images")
    return images


def choose(
    entries: Iterable[Entry], images: Mapping[str, Path], finding: str
) -> tuple[list[tuple[Entry, str]], Counter[str]]:
    """Which images take part, with their label; and why the others don't.

    Args:
        entries: of the table.
        images: by name.
        finding: what makes an image positive; empty: any finding.
    """
    chosen, left_out = [], Counter[str]()
    for entry in entries:
        if entry.image not in images:
            left_out["no such file"] += 1
        elif entry.age is None or entry.age < ADULT:
            left_out["no adult, or age unknown"] += 1
        elif entry.spacing_mm is None:
            left_out["pixel spacing not plausible"] += 1
        elif entry.findings == (NO_FINDING,):
            chosen.append((entry, "negative"))
        elif not finding or finding in entry.findings:
            chosen.append((entry, "positive"))
        else:
            left_out["another finding"] += 1
    return chosen, left_out


def view_auroc(rows: Sequence[tuple[Entry, str]]) -> float:
    """How well "it is a PA view" ranks positive above negative images: 0.5 says nothing.

    Of a yes-or-no score: ½ + (share of PA among positives − among negatives) / 2. Below 0.5, the
    AP view speaks for a finding.
    """
    share = {}
    for label in ("positive", "negative"):
        views = [entry.view == "PA" for entry, own in rows if own == label]
        share[label] = sum(views) / len(views) if views else float("nan")
    return 0.5 + (share["positive"] - share["negative"]) / 2


def prepare(
    chosen: Sequence[tuple[Entry, str]],
    boxes: Sequence[Box],
    images: Mapping[str, Path],
    seed: int,
    folder: Path,
    *,
    patients: int,
) -> Data:
    """Write manifest, test manifests (all, AP, PA) and regions for one seed.

    All boxes of an image are regions, whatever finding made it positive: what is marked as
    something else isn't normal either.

    Args:
        chosen: from :func:`choose`.
        boxes: of the release.
        images: by name.
        seed: decides the split, and which patients take part.
        folder: to write into.
        patients: how many take part; those who have boxes always do.
    """
    boxed = {box.image for box in boxes}
    marked = {entry.patient for entry, _ in chosen if entry.image in boxed}
    part = marked | sample((entry.patient for entry, _ in chosen), patients, seed)
    chosen = [row for row in chosen if row[0].patient in part]
    positive = {entry.patient for entry, label in chosen if label == "positive"}
    tested, aside = split_patients(part, positive, seed)
    manifest, test = [], []
    for entry, label in chosen:
        split = ("test" if entry.patient in tested
                 else "validation" if entry.patient in aside else "train")  # fmt: skip
        spacing = " ".join(f"{mm:.6g}" for mm in entry.spacing_mm or ())
        row = (images[entry.image], entry.patient, label, split, entry.view, spacing,
               "|".join(entry.findings), entry.age)  # fmt: skip
        manifest.append(row)
        if split == "test":
            test.append((entry, label))
    columns = ("path", "patient_id", "label", "split", "view", "spacing_mm", "findings", "age")
    write_table(folder / "manifest.csv", columns, manifest)
    subsets = {}
    for view in ("", "AP", "PA"):
        rows = [row for row in manifest if row[3] == "test" and (not view or row[4] == view)]
        path = folder / (f"test-{view}.csv" if view else "test.csv")
        write_table(path, columns, rows)
        if view and {row[2] for row in rows} == {"positive", "negative"}:
            subsets[view] = path
    positives = {entry.image for entry, label in test if label == "positive"}
    regions = [(images[b.image], b.x, b.y, b.width, b.height, b.finding)
               for b in boxes if b.image in positives]  # fmt: skip
    write_table(folder / "regions.csv", ("path", "x", "y", "width", "height", "kind"), regions)
    counts = Counter((row[3], row[2], row[4]) for row in manifest)
    facts: dict[str, float] = {
        f"{split}, {label}, {view}": counts[split, label, view]
        for split, label in (("train", "negative"), ("validation", "negative"),
                             ("test", "negative"), ("test", "positive"))
        for view in ("AP", "PA")
    }  # fmt: skip
    return Data(
        training=folder / "manifest.csv",
        test=folder / "test.csv",
        regions=folder / "regions.csv",
        subsets=subsets,
        facts={**facts, "regions": len(regions), "image AUROC of «PA» alone": view_auroc(test)},
    )


# What both settings share: the originals' pixels differ in size and shape, so all images are
# brought to one spacing; the local radius is as many pixels as on mini-MIAS (6.4 mm at 0.2 mm).
CHEST = (
    "preprocessing.body_part=chest",
    "preprocessing.spacing_mm=0.4",
    "preprocessing.local_radius_mm=12.8",
)
MOST_PATIENTS = 3000  # of the release's 30,805: their negatives fit into 8 GB on a GPU
QUICK = ("wei2018.epochs=60", "wei2018.batch_size=50", "wei2018.patches_per_epoch=800")
QUICK_CUTS = (
    "60 epochs of 800 patches in batches of 50 (960 steps), instead of 500 epochs of as many "
    "patches as tile the training images, in batches of 200.",
)
_NOTES = (
    "Labels were mined from reports, so some are wrong. Boxes mark some findings of some images: "
    "a patch outside of them may well show disease, within-image figures are a lower bound.",
    "AP views are mostly taken in bed, of sicker patients, so the view alone may tell something "
    "of the label: see the last column of the data. Figures of one view alone are free of that.",
)


def main(
    data: Annotated[Path, typer.Argument(help="The release's folder.")],
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("studies/nih_cxr"),
    quick: Annotated[
        bool, typer.Option("--quick", help="For 2 cores: a shorter training.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Each changes split, patches and weights.")] = "0,1,2",
    finding: Annotated[str, typer.Option(help="What is positive; any finding by default.")] = "",
    patients: Annotated[int, typer.Option(help="How many take part.")] = MOST_PATIENTS,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start anew.")] = False,
) -> None:
    """Train on adults without finding, screen the others, AP and PA together and apart."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        table = next((data / name for name in TABLES if (data / name).exists()), None)
        if table is None:
            raise RequestError(
                f"{data} holds none of {', '.join(TABLES)}: give the release's folder"
            )
        images, boxes = find_images(data), read_boxes(data / BOXES)
        chosen, left_out = choose(read_entries(table), images, finding)
        if not any(label == "positive" for _, label in chosen):
            raise RequestError(f"no adult's image has {finding or 'a finding'}: see {table.name}")
        told = ", ".join(f"{why}: {count}" for why, count in left_out.items()) or "none"
        study = Study(
            title=f"NIH ChestX-ray, {finding or 'any finding'}" + (", quick" if quick else ""),
            arms=tuple(
                Arm(config, intensity, (*CHEST, *(QUICK if quick else ())))
                for intensity in ("voi", "local")
                for config in ("wei2018", "wei2018_leaky")
            ),
            seeds=read_seeds(seeds),
            prepare=lambda seed, folder: prepare(
                chosen, boxes, images, seed, folder, patients=patients
            ),
            cuts=QUICK_CUTS if quick else (),
            notes=(
                *_NOTES,
                f"At most {patients} patients, those with boxes before others. Images left out: "
                f"{told}.",
            ),
        )
        print(
            run_study(study, out, device=choose_device(device), resume=resume, overwrite=overwrite)
        )
    except PatchadError as error:
        typer.echo(f"nih_cxr.py: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
