r"""The study on NIH ChestX-ray: Wei et al. (2018) and the trivial baselines, on chest radiographs.

X. Wang, Y. Peng, L. Lu, Z. Lu, M. Bagheri, R. M. Summers: ChestX-ray8: hospital-scale chest X-ray
database and benchmarks … CVPR 2017, 2097-2106. Provided by the NIH Clinical Center.

    python pipelines/nih_cxr.py DATA --out studies/nih_cxr --quick --finding Pneumonia
    python pipelines/nih_cxr.py DATA --out studies/nih-cross --quick --finding Pneumonia \
        --cross-validate 3
    python pipelines/nih_cxr.py DATA --anomaly-rate 0,0.2,0.4,0.6,0.8,1 --out studies/nih-rate
    python pipelines/nih_cxr.py DATA --unseen Mass,Nodule --out studies/nih-unseen

DATA is the release's folder: ``images/`` or ``images_001/images/`` …, ``Data_Entry_2017_v2020.csv``
(or ``Data_Entry_2017.csv``) and ``BBox_List_2017.csv``.
"""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from benchmark import AnomalyRate, Unseen, read_rates, rows_for
from cross_tables import Column
from cross_validation import CrossArm, CrossStudy, run_cross_validation
from folds import Folds, write_folds, write_tables
from nih_release import BOXES, TABLES, Box, Entry, find_images, read_boxes, read_entries
from published import Asked, Configs, Limit, Replication, replicate
from study import Arm, Data, Study, read_seeds, run_study, sample, split_patients
from study_tables import write_table
from unlabelled_sets import Sizes, Stock, parts_of

from patchad.device import choose_device
from patchad.errors import PatchadError, RequestError

log = logging.getLogger("study")

NO_FINDING = "No Finding"
ADULT = 18  # years


def choose(
    entries: Iterable[Entry], images: Mapping[str, Path], finding: str
) -> tuple[list[tuple[Entry, str]], Counter[str]]:
    """The images of the study with their labels, and counts of why others are left out.

    Args:
        entries: of the table.
        images: by name.
        finding: the finding of positive images; empty for any.
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
    """How well "it is a PA view" ranks positive above negative images: 0.5 means not at all.

    For a binary score: ½ + (share of PA among positives − among negatives) / 2. Below 0.5, the
    AP view indicates a finding.
    """
    share = {}
    for label in ("positive", "negative"):
        views = [entry.view == "PA" for entry, own in rows if own == label]
        share[label] = sum(views) / len(views) if views else float("nan")
    return 0.5 + (share["positive"] - share["negative"]) / 2


def take_part(
    chosen: Sequence[tuple[Entry, str]], boxes: Sequence[Box], patients: int, seed: int
) -> list[tuple[Entry, str]]:
    """The images of at most ``patients`` patients; those who have boxes are always included."""
    boxed = {box.image for box in boxes}
    marked = {entry.patient for entry, _ in chosen if entry.image in boxed}
    part = marked | sample((entry.patient for entry, _ in chosen), patients, seed)
    return [row for row in chosen if row[0].patient in part]


def deal(
    chosen: Sequence[tuple[Entry, str]],
    boxes: Sequence[Box],
    images: Mapping[str, Path],
    seed: int,
    folder: Path,
    *,
    patients: int,
    folds: int,
) -> Folds:
    """Write the tables of a cross-validation; AP and PA views are also evaluated separately.

    As :func:`prepare`, but all patients are divided into folds, and every image is scored.
    """
    chosen = take_part(chosen, boxes, patients, seed)
    rows, regions = tables(chosen, boxes, images)
    subsets = {view: rows["view"] == view for view in ("AP", "PA")}
    dealt = write_folds(
        rows,
        regions,
        folder,
        folds=folds,
        seed=seed,
        subsets={v: own for v, own in subsets.items() if rows["label"][own].nunique() == 2},
    )
    return replace(dealt, facts={**dealt.facts, "image AUROC of «PA» alone": view_auroc(chosen)})


def tables(
    chosen: Sequence[tuple[Entry, str]], boxes: Sequence[Box], images: Mapping[str, Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a manifest and of its regions; arguments as of :func:`prepare`."""
    rows = pd.DataFrame(
        {
            "path": images[entry.image],
            "patient_id": entry.patient,
            "label": label,
            "view": entry.view,
            "spacing_mm": " ".join(f"{mm:.6g}" for mm in entry.spacing_mm or ()),
        }
        for entry, label in chosen
    )
    positives = {entry.image for entry, label in chosen if label == "positive"}
    regions = [
        (images[b.image], b.x, b.y, b.width, b.height, b.finding)
        for b in boxes
        if b.image in positives
    ]
    return rows, pd.DataFrame(regions, columns=["path", "x", "y", "width", "height", "kind"])


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

    All boxes of an image are regions, not only those of the finding: the others aren't normal
    either.

    Args:
        chosen: from :func:`choose`.
        boxes: of the release.
        images: by name.
        seed: of the split, and of the choice of patients.
        folder: to write into.
        patients: the most patients; those who have boxes are always included.
    """
    chosen = take_part(chosen, boxes, patients, seed)
    part = {entry.patient for entry, _ in chosen}
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


# For both settings: the originals' pixels differ in size and shape, so all images are resampled to
# one spacing; the local radius is as many pixels as on mini-MIAS (6.4 mm at 0.2 mm).
CHEST = (
    "preprocessing.body_part=chest",
    "preprocessing.spacing_mm=0.4",
    "preprocessing.local_radius_mm=12.8",
)
MOST_PATIENTS = 3000  # of the release's 30,805: their negatives fit into 8 GB on a GPU
QUICK = ("wei2018.epochs=60", "wei2018.batch_size=50", "wei2018.patches_per_epoch=800")
QUICK_CUTS = (
    "60 epochs of 800 patches in batches of 50 (960 steps), instead of 500 epochs of all the "
    "patches that tile the training images, in batches of 200.",
)
CROSS_ARMS = (
    CrossArm("chest", "chest"),
    CrossArm("position_gaussian", "chest", member="position_gaussian"),
    CrossArm("dae", "chest", member="dae"),
    CrossArm("synthetic_opacities", "chest", member="synthetic_opacities"),
    CrossArm(
        "wei2018_leaky",
        "wei2018_leaky",
        ("preprocessing.intensity=local", *CHEST),
        standardise=True,
    ),
)
CROSS_COLUMNS = {
    "image AUROC": Column("image", "auroc"),
    "… AP": Column("image", "auroc", subset="AP"),
    "… PA": Column("image", "auroc", subset="PA"),
    "patient AUROC": Column("patient", "auroc"),
    "places, by film": Column("places", "by_film"),
    "places, pooled": Column("places", "pooled"),
    "patch AUROC": Column("patch", "auroc"),
    "pointing game": Column("pointing", "hits"),
    "seconds an image": Column("seconds", "image"),
    "… to score": Column("seconds", "scoring"),
    "seconds to train": Column("seconds", "training"),
}
CROSS_NOTES = (
    "Places: AUROC of the heatmap's values in boxes against outside of them, on positive films "
    "that have boxes and only where the heatmap is defined: inside the lungs for the chest "
    "detectors, over the whole field for wei2018, whose figure is not comparable with theirs. By "
    "film: the mean of the films' AUROCs.",
)
_NOTES = (
    "Labels were mined from reports, so some are wrong. Boxes mark some findings of some images: "
    "a patch outside of them may show disease, so within-image figures are a lower bound.",
    "AP views are mostly taken in bed, of sicker patients, so the view alone may predict "
    "the label: see the last column of the data. Figures of a single view avoid that.",
)


SIZES = Sizes(4000, 4000, 1000)  # as DDAD's on VinDr-CXR; there is no paper's on this release


def stock_of(
    chosen: Sequence[tuple[Entry, str]], boxes: Sequence[Box], images: Mapping[str, Path]
) -> Stock:
    """The images with their findings, for DDAD's ablations; arguments as of :func:`prepare`."""
    rows, regions = tables(chosen, boxes, images)
    kinds = [() if label == "negative" else entry.findings for entry, label in chosen]
    return Stock(rows.assign(kinds=kinds), regions, _NOTES[:1])


def _included(patients: int, left_out: str) -> str:
    return f"At most {patients} patients, those with boxes first. Images left out: {left_out}."


def _cut(arm: CrossArm) -> CrossArm:
    """The arm in the quick setting."""
    quick = QUICK if arm.config.startswith("wei2018") else ()
    return replace(arm, overrides=(*arm.overrides, *quick))


def main(
    data: Annotated[Path, typer.Argument(help="The release's folder.")],
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("studies/nih_cxr"),
    quick: Annotated[
        bool, typer.Option("--quick", help="For 2 cores: a shorter training.")
    ] = False,
    seeds: Annotated[str, typer.Option(help="Each changes split, patches and weights.")] = "0,1,2",
    finding: Annotated[str, typer.Option(help="Of positive images; any finding by default.")] = "",
    patients: Annotated[int, typer.Option(help="The most patients.")] = MOST_PATIENTS,
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
    cross_validate: Annotated[
        int, typer.Option(help="Folds by patient; every image is then scored. 0: one split.")
    ] = 0,
    arms: Annotated[str, typer.Option(help="Of a cross-validation: a,b; all by default.")] = "",
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Write manifest and regions, for compare.py.")
    ] = False,
    unlabelled: Annotated[
        float, typer.Option(help="In these tables: share of patients without boxes, unlabelled.")
    ] = 0.0,
    anomaly_rate: AnomalyRate = "",
    unseen: Unseen = "",
    configs: Configs = "",
    limit: Limit = 0,
) -> None:
    """Train on adults without finding, screen the others, AP and PA together and separately."""
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
        reasons = ", ".join(f"{why}: {count}" for why, count in left_out.items()) or "none"
        if tables_only:
            part = take_part(chosen, boxes, patients, 0)
            write_tables(*tables(part, boxes, images), out, unlabelled)
            return
        if anomaly_rate or unseen:
            rates = read_rates(anomaly_rate) if anomaly_rate else ()
            published = rows_for("nih", rates, unseen)
            stock = stock_of(take_part(chosen, boxes, patients, 0), boxes, images)
            ablation = Replication(
                title="NIH ChestX-ray, "
                + (f"unseen: {unseen}" if unseen else "anomaly rate")
                + (", quick" if quick else ""),
                use="chest",
                prepare=lambda seed, folder: parts_of(
                    stock, SIZES, seed, folder, rates=rates, unseen=unseen, limit=limit
                ),
                published=published,
                notes=(_included(patients, reasons),),
            )
            print(replicate(ablation, Asked(out, configs, seeds, quick, limit, resume, device)))
            return
        if cross_validate:
            cross = CrossStudy(
                title=f"NIH ChestX-ray, {finding or 'any finding'}, {cross_validate} folds"
                + (", quick" if quick else ""),
                arms=tuple(_cut(arm) if quick else arm for arm in CROSS_ARMS),
                seeds=read_seeds(seeds),
                deal=lambda seed, folder: deal(
                    chosen, boxes, images, seed, folder, patients=patients, folds=cross_validate
                ),
                columns=CROSS_COLUMNS,
                kinds=("heatmap",),
                cuts=tuple(f"wei2018_leaky: {cut}" for cut in QUICK_CUTS) if quick else (),
                notes=(*_NOTES, *CROSS_NOTES, _included(patients, reasons)),
            )
            on = choose_device(device)
            print(run_cross_validation(cross, out, device=on, arms=arms, resume=resume))
            return
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
            notes=(*_NOTES, _included(patients, reasons)),
        )
        print(run_study(study, out, device=choose_device(device), resume=resume))
    except PatchadError as error:
        typer.echo(f"nih_cxr.py: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
