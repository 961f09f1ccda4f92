"""The cases to judge: the truth matched with the run; everything left out is counted."""

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from patchad.core.image import Region
from patchad.errors import RequestError
from patchad.evaluation.labelling import inside_image
from patchad.evaluation.matching import HOWS, How, Matches, Named, match
from patchad.read.manifest import ManifestRow
from patchad.store.run import ImageRow, Run

_OF_FILES = ("path", "moved_path")  # regions have no UID
_BY: Mapping[How, str] = {
    "path": "path",
    "sop_instance_uid": "SOP instance UID",
    "moved_path": "file name or the end of their path",
}


@dataclass(frozen=True, eq=False)
class Case:
    """A screened image with its truth: ``patient`` is a number in [0, patients), not an identifier.

    ``row`` is its row in the truth. ``regions`` lie inside the image of ``shape`` (rows, columns);
    ``score`` is the image score.
    """

    row: int
    image_id: str
    patient: int
    positive: bool
    regions: tuple[Region, ...]
    shape: tuple[int, int]
    score: float


@dataclass(frozen=True, eq=False)
class Truth:
    """The cases to judge, how many patients they come from, with counts and notes.

    ``missing`` are the rows of the truth that have no image in the run, and ``left_out`` the note
    on them.
    """

    cases: tuple[Case, ...]
    patients: int
    counts: Mapping[str, int]
    notes: tuple[str, ...]
    missing: tuple[int, ...] = ()
    left_out: tuple[str, ...] = ()

    def of_rows(self, rows: Collection[int]) -> "Truth":
        """The cases of these rows alone, their patients numbered anew, in the order of the rows."""
        patients: dict[int, int] = {}
        cases = tuple(
            replace(case, patient=patients.setdefault(case.patient, len(patients)))
            for case in self.cases
            if case.row in rows
        )
        return replace(self, cases=cases, patients=len(patients))


def match_truth(
    run: Run,
    rows: Sequence[ManifestRow],
    regions: Mapping[Path, Sequence[Region]] | None,
    *,
    only_screened: bool = False,
) -> Truth:
    """Match the images of a run with their truth.

    If the truth has splits, only ``test`` (and rows without one) count. The image of a row is
    found by :func:`patchad.evaluation.matching.match`: by its path, else its column
    ``sop_instance_uid``, else the end of its path in a folder that was moved. A row of the truth is
    about a whole file: if its frames were screened one by one, the frame with the highest score is
    its image.

    Args:
        run: the run to judge.
        rows: of the truth.
        regions: where the lesions are, by the path of the image; None if unknown.
        only_screened: leave out the rows without an image in the run, with a note; else they
            are an error.

    Raises:
        RequestError: a row of the truth has no image in the run, or more than one; a negative
            image has regions; a region lies outside its image; nothing is left to judge.
    """
    tests = [row for row in rows if row.split in ("", "test")]
    wanted = to_judge(rows)
    images, frames = _highest_frames(run.rows)
    found = _match(images, rows, wanted)
    judged = [number for number in wanted if number in found.image]
    absent = [number for number in wanted if number not in found.image]
    missing = [rows[number] for number in absent]
    if missing and not only_screened:
        raise RequestError(
            f"each row of the truth needs its image in the run, {len(missing)} of {len(wanted)} "
            f"have none, the first {_missing(missing[0], images)}: screen them too, take their "
            "rows out of the truth, or judge the others alone with --only-screened"
        )
    marked, placed = _regions_of(rows, judged, regions or {})
    unplaced = len(regions or ()) - len(placed.image)
    how = Counter(found.how[number] for number in judged)
    patients: dict[str, int] = {}
    cases, lost = [], Counter[str]()
    for number in judged:
        row, image = rows[number], images[found.image[number]]
        if image.score is None or image.rows is None or image.columns is None:
            status = "without_score" if image.status == "ok" else image.status
            lost[f"{row.label}_images_{status}"] += 1
            continue
        shape = image.rows, image.columns
        cases.append(
            Case(
                row=number,
                image_id=image.id,
                patient=patients.setdefault(row.patient_id, len(patients)),
                positive=row.label == "positive",
                regions=tuple(inside_image(r, shape, row.path.name) for r in marked[row.path]),
                shape=shape,
                score=image.score,
            )
        )
    if not cases:
        raise RequestError(
            f"none of the {len(rows)} rows of the truth can be judged: {len(rows) - len(tests)} "
            f"are of another split than test, {len(tests) - len(wanted)} have an unknown label, "
            f"{len(missing)} were not screened, {sum(lost.values())} were not scored; "
            "give a truth with test rows of known label"
        )
    positives = [case for case in cases if case.positive]
    counts = {
        "images": len(cases),
        "positive_images": len(positives),
        "positive_images_without_regions": sum(not case.regions for case in positives),
        "negative_images": len(cases) - len(positives),
        "patients": len(patients),
        "positive_patients": len({case.patient for case in positives}),
        "regions": sum(len(case.regions) for case in cases),
        "truth_rows": len(rows),
        "truth_rows_of_other_splits": len(rows) - len(tests),
        "truth_rows_of_unknown_label": len(tests) - len(wanted),
        **{
            f"{label}_images_not_screened": sum(row.label == label for row in missing)
            for label in ("positive", "negative")
        },
        "run_images": len(images),
        "run_images_not_in_truth": len(images) - len(judged),
        **{f"matched_by_{key}": how[key] for key in HOWS},
        **{f"regions_matched_by_{key}": n for key, n in placed.counts.items() if key in _OF_FILES},
        "region_files_not_in_truth": unplaced,
        **{
            f"{label}_images_{status}": lost[f"{label}_images_{status}"]
            for label in ("positive", "negative")
            for status in ("failed", "skipped", "without_score")
        },
    }
    notes = (
        *_notes(rows, lost),
        *_moves(found, placed, unplaced),
        *frames,
    )
    left_out = _left_out(missing, len(wanted))
    return Truth(tuple(cases), len(patients), counts, notes, tuple(absent), left_out)


def to_judge(rows: Sequence[ManifestRow]) -> list[int]:
    """The rows of a truth that are to be judged: of the split test or none, of known label."""
    return [
        number
        for number, row in enumerate(rows)
        if row.split in ("", "test") and row.label in ("negative", "positive")
    ]


def _highest_frames(rows: Sequence[ImageRow]) -> tuple[list[ImageRow], tuple[str, ...]]:
    """One image a file: of frames, the one with the highest score, with a note."""
    images: dict[tuple[str, int], ImageRow] = {}
    for number, row in enumerate(rows):
        key = (row.path, -1 if row.frame is not None else number)
        other = images.get(key)
        if other is None or _score(row) > _score(other):
            images[key] = row
    files = sum(frame == -1 for _, frame in images)
    if not files:
        return [*images.values()], ()
    frames = sum(row.frame is not None for row in rows)
    note = (
        f"{frames} frames of {files} files were screened: each file is judged by its frame with "
        "the highest score, and exceeds a threshold more easily than an image of one frame."
    )
    return [*images.values()], (note,)


def _score(row: ImageRow) -> float:
    return -math.inf if row.score is None else row.score


def _match(
    images: Sequence[ImageRow], rows: Sequence[ManifestRow], judged: Sequence[int]
) -> Matches:
    """The images of the rows; an ambiguity in a judged row is refused."""
    found = match(
        [Named(row.path, row.other.get("sop_instance_uid", ""), row.patient_id) for row in rows],
        [Named(Path(image.path), image.sop_instance_uid) for image in images],
    )
    against = [number for number in judged if number in found.contradicted]
    if against:
        raise RequestError(
            f"{len(against)} rows of the truth have the path of an image of the run, but another "
            f"SOP instance UID, the first {rows[against[0]].path}: correct the column "
            "sop_instance_uid or the path"
        )
    clashes = [number for number in judged if number in found.clashes]
    if clashes:
        raise RequestError(
            f"each row of the truth needs one image of the run, but {len(clashes)} fit several "
            f"images, or share theirs with others, by their {_BY[found.clashes[clashes[0]]]}, the "
            f"first {rows[clashes[0]].path}: give the paths that images.csv of the run has, or a "
            "column sop_instance_uid"
        )
    return found


def _missing(row: ManifestRow, images: Sequence[ImageRow]) -> str:
    """The path of a row without an image, and whether its name misleads."""
    name = row.path.name
    namesake = next((image.path for image in images if Path(image.path).name == name), None)
    if namesake is None:
        return str(row.path)
    return f"{row.path} ({namesake} has only its file name, so it may be another patient's)"


def _regions_of(
    rows: Sequence[ManifestRow],
    judged: Sequence[int],
    regions: Mapping[Path, Sequence[Region]],
) -> tuple[dict[Path, Sequence[Region]], Matches]:
    """The regions of each judged row, and how the files that have regions were matched to rows."""
    paths = [*regions]
    found = match(
        [Named(path) for path in paths], [Named(row.path, "", row.patient_id) for row in rows]
    )
    if found.clashes:
        first = min(found.clashes)
        raise RequestError(
            f"each file that has regions needs one row of the truth, but {len(found.clashes)} fit "
            f"several rows, or share theirs with others, by their {_BY[found.clashes[first]]}, the "
            f"first {paths[first]}: give it the path that the truth has"
        )
    if regions and not found.image:
        raise RequestError(
            f"none of the {len(regions)} files that have regions is in the truth, the first is "
            f"{paths[0]}: both tables must name the same images"
        )
    of = {row: regions[paths[number]] for number, row in found.image.items()}
    marked = {rows[number].path: of.get(number, ()) for number in judged}
    for number in judged:
        row = rows[number]
        if marked[row.path] and row.label == "negative":
            raise RequestError(
                f"a negative image holds no lesion, but {row.path} has {len(marked[row.path])} "
                "regions: correct its label or take its regions out"
            )
    return marked, found


def _notes(rows: Sequence[ManifestRow], lost: Counter[str]) -> tuple[str, ...]:
    notes = []
    if any(row.split for row in rows):
        notes.append("Only rows of the truth whose split is test or empty were judged.")
    else:
        notes.append(
            "The truth has no split column: it is not known whether the model was trained on "
            "these images."
        )
    if lost:
        counts = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in lost.items())
        notes.append(f"Not judged, since they have no score: {counts}.")
    return tuple(notes)


def _left_out(missing: Sequence[ManifestRow], wanted: int) -> tuple[str, ...]:
    if not missing:
        return ()
    labels = Counter(row.label for row in missing)
    return (
        f"--only-screened: {len(missing)} of {wanted} rows of the truth have no image in the run "
        f"and were left out ({labels['positive']} positive, {labels['negative']} negative). The "
        "figures are those of the screened part, and may be too good.",
    )


def _moves(images: Matches, regions: Matches, unplaced: int) -> tuple[str, ...]:
    """Notes on what was matched by the end of its path, and the assumed move."""
    notes = []
    for found, what in ((images, "rows of the truth"), (regions, "files that have regions")):
        if found.move is not None:
            notes.append(
                f"{found.counts['moved_path']} {what} were matched by the end of their path, "
                f"since none of them exists: {found.move[0]} was assumed to be what is now "
                f"{found.move[1]}."
            )
    if unplaced:
        notes.append(f"{unplaced} files that have regions are in no row of the truth.")
    return tuple(notes)
