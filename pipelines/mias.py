"""The study on mini-MIAS: Wei et al. (2018) and the trivial baselines, on film mammograms.

Suckling et al., "The Mammographic Image Analysis Society Digital Mammogram Database", Excerpta
Medica International Congress Series 1069 (1994) 375-378. Its licence: research only; cite.

    python pipelines/mias.py all-mias.tar.gz --out studies/mias --quick --seeds 0,1,2
    python pipelines/mias.py all-mias.tar.gz --out studies/mias-cross --quick --cross-validate 3

DATA is ``all-mias.tar.gz`` or the folder it was extracted to; ``Info.txt`` may be next to it.
"""

import logging
import re
import tarfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from cross_tables import Column
from cross_validation import CrossArm, CrossStudy, run_cross_validation
from folds import Folds, write_folds, write_tables
from study import Arm, Data, Study, read_seeds, run_study, split_patients
from study_tables import write_table

from patchad.device import choose_device
from patchad.errors import PatchadError, RequestError

log = logging.getLogger("study")

SIDE = 1024  # pixels of every film
SPACING_MM = 0.2
KINDS = ("CALC", "CIRC", "SPIC", "MISC", "ARCH", "ASYM")
# Their circles lie in air: mdb212 at (687, 882), mdb214 at (582, 916).
IN_AIR = ("mdb212", "mdb214")
SMALLEST_RADIUS = 12  # pixels, 2.4 mm: a circle that small can't be trusted to lie on its lesion

_ROW = re.compile(
    r"^(?P<film>mdb\d{3})\s+(?P<tissue>[FGD])\s+(?P<kind>NORM|" + "|".join(KINDS) + r")"
    r"(?:\s+(?P<severity>[BM]))?(?:\s+(?P<rest>\S.*?))?\s*$"
)


@dataclass(frozen=True)
class Finding:
    """A row of Info.txt; ``circle`` is (x, y, radius) in pixels, y from the bottom, or None."""

    film: str
    tissue: str
    kind: str
    severity: str
    circle: tuple[int, int, int] | None

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The circle's box (x, y, width, height) from the top-left corner; None if unreliable.

        The origin is at the bottom left: row = 1023 − y. Pixel r has its centre at r + 0.5.
        """
        if self.circle is None or self.film in IN_AIR:
            return None
        x, y, radius = self.circle
        if radius < SMALLEST_RADIUS:
            return None
        return x + 0.5 - radius, (SIDE - 1 - y) + 0.5 - radius, 2 * radius, 2 * radius


def parse_info(text: str) -> list[Finding]:
    """The rows of Info.txt, in order.

    A line that ends after the abnormality, or has ``*NOTE 3*``, has no coordinates.

    Raises:
        RequestError: a line about a film can't be parsed, or there is none.
    """
    findings = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("mdb"):
            continue
        row = _ROW.match(line)
        numbers = re.findall(r"-?\d+", row["rest"] or "") if row else []
        without = row is not None and (row["rest"] or "*NOTE").startswith("*NOTE")
        if row is None or not (without or len(numbers) == 3):
            raise RequestError(
                f"Info.txt, line {number}: found {line.strip()!r}; needed: film, tissue F/G/D, "
                "kind, severity B/M, and x y radius or nothing"
            )
        circle = None if without else (int(numbers[0]), int(numbers[1]), int(numbers[2]))
        findings.append(
            Finding(row["film"], row["tissue"], row["kind"], row["severity"] or "", circle)
        )
    if not findings:
        raise RequestError("Info.txt names no film: give the one that comes with mini-MIAS")
    return findings


def patient_of(film: str) -> str:
    """Films 2k − 1 and 2k are of patient k.

    Which is left is unclear: by Info.txt the even ones, by the films' stickers the odd ones.
    """
    return f"p{(int(film[3:]) + 1) // 2:03d}"


def locate(data: Path, out: Path) -> tuple[list[Finding], dict[str, Path]]:
    """The rows of Info.txt, and the films by name; a tarball is extracted to ``out/films`` once.

    Raises:
        RequestError: something is missing, or the archive is damaged.
    """
    folder = data
    if data.is_file():
        folder = out / "films"
        try:
            with tarfile.open(data) as archive:
                members = [m for m in archive if m.isfile() and not _extracted(folder, m)]
                archive.extractall(folder, members, filter="data")
        except (tarfile.TarError, EOFError, OSError) as error:
            raise RequestError(
                f"{data} is not a complete tar archive ({error}): fetch it again"
            ) from None
    info = next((p for p in (folder / "Info.txt", data.parent / "Info.txt") if p.exists()), None)
    films = {path.stem: path.resolve() for path in sorted(folder.rglob("mdb*.pgm"))}
    if info is None or not films:
        raise RequestError(
            f"{data} holds {'no Info.txt' if info is None else 'no mdb*.pgm'}: give mini-MIAS as "
            "it is distributed"
        )
    return parse_info(info.read_text("utf-8", errors="replace")), films


def _extracted(folder: Path, member: tarfile.TarInfo) -> bool:
    there = folder / member.name
    return there.is_file() and there.stat().st_size == member.size


def prepare(
    findings: Sequence[Finding], films: Mapping[str, Path], seed: int, folder: Path
) -> Data:
    """Write manifest, test manifest and regions for one seed.

    Test: every patient with an abnormal film (with both films), and half of the others.
    """
    rows: dict[str, list[Finding]] = {}
    for finding in findings:
        if finding.film in films:
            rows.setdefault(finding.film, []).append(finding)
    abnormal = {patient_of(f.film) for f in findings if f.kind != "NORM"}
    tested, aside = split_patients({patient_of(film) for film in rows}, abnormal, seed)
    manifest = []
    for film, found in sorted(rows.items()):
        kinds = [f.kind for f in found if f.kind != "NORM"]
        patient = patient_of(film)
        split = "test" if patient in tested else "validation" if patient in aside else "train"
        manifest.append(
            (
                films[film],
                patient,
                "positive" if kinds else "negative",
                split,
                "MLO",
                SPACING_MM,
                found[0].tissue,
                "+".join(dict.fromkeys(kinds)),
                "+".join(dict.fromkeys(f.severity for f in found if f.severity)),
            )
        )
    columns = ("path", "patient_id", "label", "split", "view", "spacing_mm",
               "tissue", "kind", "severity")  # fmt: skip
    test = [row for row in manifest if row[3] == "test"]
    regions = [(films[f.film], *f.box, f.kind) for found in rows.values() for f in found if f.box]
    write_table(folder / "manifest.csv", columns, manifest)
    write_table(folder / "test.csv", columns, test)
    write_table(folder / "regions.csv", ("path", "x", "y", "width", "height", "kind"), regions)
    splits = Counter((row[3], row[2]) for row in manifest)
    return Data(
        training=folder / "manifest.csv",
        test=folder / "test.csv",
        regions=folder / "regions.csv",
        subsets={},
        facts={
            "training films": splits["train", "negative"],
            "validation films": splits["validation", "negative"],
            "test films, normal": splits["test", "negative"],
            "test films, abnormal": splits["test", "positive"],
            "regions": len(regions),
            "test patients": len({row[1] for row in test}),
        },
        notes=(f"Abnormalities without a region: {'; '.join(_unmarked(findings, films))}.",),
    )


def deal(
    findings: Sequence[Finding], films: Mapping[str, Path], seed: int, folder: Path, folds: int
) -> Folds:
    """Write the tables of a cross-validation; kinds of lesions are grouped by ``GROUPS``."""
    return write_folds(
        *tables(findings, films),
        folder,
        folds=folds,
        seed=seed,
        subsets={},
        notes=(f"Abnormalities without a region: {'; '.join(_unmarked(findings, films))}.",),
    )


def tables(
    findings: Sequence[Finding], films: Mapping[str, Path]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of a manifest and of its regions, with kinds grouped by ``GROUPS``."""
    rows = [
        {
            "path": films[film],
            "patient_id": patient_of(film),
            "label": "negative" if kind == "NORM" else "positive",
            "view": "MLO",
            "spacing_mm": SPACING_MM,
        }
        for film, kind in sorted({f.film: f.kind for f in findings}.items())
        if film in films
    ]
    boxes = [(films[f.film], *f.box, GROUPS[f.kind]) for f in findings if f.film in films and f.box]
    columns = ["path", "x", "y", "width", "height", "kind"]
    return pd.DataFrame(rows), pd.DataFrame(boxes, columns=columns)


def _unmarked(findings: Sequence[Finding], films: Mapping[str, Path]) -> list[str]:
    """Why abnormalities have no region, a sentence each with its films."""
    reasons: dict[str, list[str]] = {}
    for f in findings:
        if f.film not in films or f.kind == "NORM" or f.box is not None:
            continue
        if f.circle is None:
            why = "no coordinates"
        elif f.film in IN_AIR:
            why = "the circle lies in air"
        else:
            why = f"radius under {SMALLEST_RADIUS} pixels"
        reasons.setdefault(why, []).append(f.film)
    return [f"{why}: {', '.join(dict.fromkeys(names))}" for why, names in sorted(reasons.items())]


# About 700 patches tile the training films: 4 steps per epoch at the paper's batch size. Smaller
# batches give more steps, and the network needs a few hundred to learn anything.
QUICK = ("wei2018.epochs=60", "wei2018.batch_size=50")
QUICK_CUTS = (
    "60 epochs in batches of 50 (about 900 steps), instead of the paper's 500 in batches of 200.",
)
PUBLISHED = {"Wei et al. 2018, as published, on INbreast": "0.84"}  # in their abstract
GROUPS = {
    "CALC": "CALC",
    **dict.fromkeys(("CIRC", "SPIC", "MISC"), "mass"),
    **dict.fromkeys(("ARCH", "ASYM"), "ARCH, ASYM"),
}
# All on one grid, so that patches and marks are the same; members need no training of their own.
CROSS_ARMS = (
    CrossArm("mammography", "mammography"),
    CrossArm("mammography-two-breasts", "mammography", two_breasts=True),
    CrossArm("convergence", "mammography", member="convergence"),
    CrossArm("calcification", "mammography", member="calcification"),
    CrossArm("synthetic_lesions", "mammography", member="synthetic_lesions"),
    CrossArm("wei2018_leaky", "wei2018_leaky", ("stride=32",), standardise=True),
)
CROSS_COLUMNS = {
    "patch AUROC": Column("patch", "auroc"),
    "… CALC": Column("patch", "auroc", "CALC"),
    "… masses": Column("patch", "auroc", "mass"),
    "… ARCH, ASYM": Column("patch", "auroc", "ARCH, ASYM"),
    "within-image AUROC": Column("patch", "within_image_auroc"),
    "image AUROC": Column("image", "auroc"),
    "patient AUROC": Column("patient", "auroc"),
    "pointing game": Column("pointing", "hits"),
    "lesions found at 0.5 false marks": Column("froc", "sensitivity_at_0.5"),
    "… at 1": Column("froc", "sensitivity_at_1"),
    "… at 2": Column("froc", "sensitivity_at_2"),
    "seconds an image": Column("seconds", "image"),
    "… to score": Column("seconds", "scoring"),
    "seconds to train": Column("seconds", "training"),
}
CROSS_NOTES = (
    "Films of 1994, digitised at 0.2 mm and 8 bit. Masses are CIRC, SPIC and MISC. False marks are "
    "counted on normal films, a film each.",
)
NOTES = (
    "Test: all patients with an abnormal film, with both their films, and half of the others. So "
    "many negative films are the other breast of a patient with a lesion.",
    "Wei et al. tested on digital mammograms (INbreast), patches split at random; these are "
    "digitised films of 1994 at 0.2 mm and 8 bit, split by patient: the two lines differ in more "
    "than the code.",
)


def _cut(arm: CrossArm) -> CrossArm:
    """The arm in the quick setting."""
    quick = QUICK if arm.config.startswith("wei2018") else ()
    return replace(arm, overrides=(*arm.overrides, *quick))


def main(
    data: Annotated[Path, typer.Argument(help="all-mias.tar.gz, or its extracted folder.")],
    out: Annotated[Path, typer.Option(help="The folder to work in.")] = Path("studies/mias"),
    quick: Annotated[bool, typer.Option("--quick", help="For 2 cores: fewer epochs.")] = False,
    seeds: Annotated[str, typer.Option(help="Each changes split, patches and weights.")] = "0,1,2",
    device: Annotated[str, typer.Option(help="auto, cuda, mps or cpu.")] = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Keep what is finished.")] = False,
    cross_validate: Annotated[
        int, typer.Option(help="Folds by patient; every film is then scored. 0: one split.")
    ] = 0,
    arms: Annotated[str, typer.Option(help="Of a cross-validation: a,b; all by default.")] = "",
    tables_only: Annotated[
        bool, typer.Option("--tables-only", help="Write manifest and regions, for compare.py.")
    ] = False,
) -> None:
    """Train on normal films, screen the others, and print the paper's table next to ours."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        if not data.exists():
            raise RequestError(f"{data} does not exist: give all-mias.tar.gz or its folder")
        if tables_only:
            write_tables(*tables(*locate(data, out)), out)
            return
        if cross_validate:
            cross = CrossStudy(
                title=f"mini-MIAS, {cross_validate} folds" + (", quick" if quick else ""),
                arms=tuple(_cut(arm) if quick else arm for arm in CROSS_ARMS),
                seeds=read_seeds(seeds),
                deal=lambda seed, folder: deal(*locate(data, out), seed, folder, cross_validate),
                columns=CROSS_COLUMNS,
                cuts=tuple(f"wei2018_leaky: {cut}" for cut in QUICK_CUTS) if quick else (),
                notes=CROSS_NOTES,
            )
            on = choose_device(device)
            print(run_cross_validation(cross, out, device=on, arms=arms, resume=resume))
            return
        study = Study(
            title="mini-MIAS" + (", quick" if quick else ""),
            arms=tuple(
                Arm(config, intensity, QUICK if quick else ())
                for intensity in ("voi", "local")
                for config in ("wei2018", "wei2018_leaky")
            ),
            seeds=read_seeds(seeds),
            prepare=lambda seed, folder: prepare(*locate(data, out), seed, folder),
            cuts=QUICK_CUTS if quick else (),
            notes=NOTES,
            published=PUBLISHED,
        )
        print(run_study(study, out, device=choose_device(device), resume=resume))
    except PatchadError as error:
        typer.echo(f"mias.py: {error}", err=True)
        raise typer.Exit(2) from None


if __name__ == "__main__":
    typer.run(main)
