"""Who is judged: the truth laid beside the run, all that falls out on the way being counted."""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchad.errors import RequestError
from patchad.evaluation.labelling import inside_image
from patchad.image import Region
from patchad.io.manifest import ManifestRow
from patchad.io.run import ImageRow, Run


@dataclass(frozen=True, eq=False)
class Case:
    """A screened image with its truth: ``patient`` is a number in [0, patients), not an identifier.

    ``regions`` lie inside the image of ``shape`` (rows, columns); ``score`` is the image score.
    """

    image_id: str
    patient: int
    positive: bool
    regions: tuple[Region, ...]
    shape: tuple[int, int]
    score: float


@dataclass(frozen=True, eq=False)
class Truth:
    """The cases to judge, how many patients they come from, and what was counted and noticed."""

    cases: tuple[Case, ...]
    patients: int
    counts: Mapping[str, int]
    notes: tuple[str, ...]


def lay_beside(
    run: Run, rows: Sequence[ManifestRow], regions: Mapping[Path, Sequence[Region]] | None
) -> Truth:
    """Match the images of a run with their truth.

    Where the truth has splits, only ``test`` (and rows without one) count. Images match by path,
    else by the column ``sop_instance_uid`` of the truth, else by a file name that is unique. A row
    of the truth is about a whole file: of a file whose frames were screened one by one, the frame
    with the highest score is its image.

    Raises:
        RequestError: a row of the truth has no image in the run, or more than one; a negative
            image has regions; a region lies outside its image; nothing is left to judge.
    """
    tests = [row for row in rows if row.split in ("", "test")]
    known = [row for row in tests if row.label in ("negative", "positive")]
    images, frames = _highest_frames(run.rows)
    found, how = _match(images, known)
    marked, unmatched = _regions_of(known, [row.path for row in rows], regions or {})
    patients: dict[str, int] = {}
    cases, lost = [], Counter[str]()
    for row, image in zip(known, found, strict=True):
        if image.score is None or image.rows is None or image.columns is None:
            status = "without_score" if image.status == "ok" else image.status
            lost[f"{row.label}_images_{status}"] += 1
            continue
        shape = image.rows, image.columns
        cases.append(
            Case(
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
            f"are of another split than test, {len(tests) - len(known)} have an unknown label, "
            f"{sum(lost.values())} were not scored; give a truth with test rows of known label"
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
        "truth_rows_of_unknown_label": len(tests) - len(known),
        "run_images": len(images),
        "run_images_not_in_truth": len(images) - len(known),
        **{f"matched_by_{key}": how[key] for key in ("path", "sop_instance_uid", "file_name")},
        "region_files_not_in_truth": unmatched,
        **{
            f"{label}_images_{status}": lost[f"{label}_images_{status}"]
            for label in ("positive", "negative")
            for status in ("failed", "skipped", "without_score")
        },
    }
    return Truth(tuple(cases), len(patients), counts, (*_notes(rows, lost), *frames))


def _highest_frames(rows: Sequence[ImageRow]) -> tuple[list[ImageRow], tuple[str, ...]]:
    """An image a file: of frames, the one with the highest score; and a note where there were."""
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
    images: Sequence[ImageRow], rows: Sequence[ManifestRow]
) -> tuple[list[ImageRow], Counter[str]]:
    """The image of each row of the truth, and by what they were matched."""
    absolute = [Path(image.path).resolve() for image in images]
    keys: tuple[tuple[str, list[Hashable], list[Hashable]], ...] = (
        ("path", [*absolute], [row.path.resolve() for row in rows]),
        (
            "sop_instance_uid",
            [image.sop_instance_uid for image in images],
            [row.other.get("sop_instance_uid", "") for row in rows],
        ),
        ("file_name", [path.name for path in absolute], [row.path.name for row in rows]),
    )
    place: dict[int, int] = {}
    how = Counter[str]()
    for name, theirs, ours in keys:
        free = set(range(len(images))) - set(place.values())
        open_rows = [number for number in range(len(rows)) if number not in place]
        at = _places((key, number) for number, key in enumerate(theirs) if number in free and key)
        asked = Counter(ours[number] for number in open_rows)
        clashes = [n for n in open_rows if ours[n] in at and len(at[ours[n]]) * asked[ours[n]] > 1]
        if clashes:
            raise RequestError(
                f"each row of the truth needs one image of the run, but {len(clashes)} share "
                f"their {name.replace('_', ' ')} with others, the first {rows[clashes[0]].path}: "
                "give the paths that were screened, or a column sop_instance_uid"
            )
        matched = {n: at[ours[n]][0] for n in open_rows if ours[n] in at}
        how[name] = len(matched)
        place |= matched
    missing = [row.path for number, row in enumerate(rows) if number not in place]
    if missing:
        raise RequestError(
            f"each row of the truth needs its image in the run, {len(missing)} of {len(rows)} have "
            f"none, the first {missing[0]}: screen them too, or take their rows out of the truth"
        )
    return [images[place[number]] for number in range(len(rows))], how


def _places(pairs: Iterable[tuple[Hashable, int]]) -> dict[Hashable, list[int]]:
    places: dict[Hashable, list[int]] = {}
    for key, number in pairs:
        places.setdefault(key, []).append(number)
    return places


def _regions_of(
    judged: Sequence[ManifestRow], paths: Sequence[Path], regions: Mapping[Path, Sequence[Region]]
) -> tuple[dict[Path, Sequence[Region]], int]:
    """The regions of each judged row, and for how many files there are regions but no truth."""
    names = Counter(path.name for path in paths)
    by_name: dict[str, list[Path]] = {}
    for path in regions:
        by_name.setdefault(path.name, []).append(path)
    marked: dict[Path, Sequence[Region]] = {}
    for row in judged:
        moved = by_name.get(row.path.name, []) if names[row.path.name] == 1 else []
        key = row.path if row.path in regions else moved[0] if len(moved) == 1 else None
        marked[row.path] = regions[key] if key is not None else ()
        if marked[row.path] and row.label == "negative":
            raise RequestError(
                f"a negative image holds no lesion, but {row.path} has {len(marked[row.path])} "
                "regions: correct its label or take its regions out"
            )
    known = {*paths} | {path for path in regions if names[path.name] == 1}
    unmatched = len([path for path in regions if path not in known])
    if regions and unmatched == len(regions):
        raise RequestError(
            f"none of the {len(regions)} files that have regions is in the truth, the first is "
            f"{next(iter(regions))}: both tables must name the same images"
        )
    return marked, unmatched


def _notes(rows: Sequence[ManifestRow], lost: Counter[str]) -> tuple[str, ...]:
    notes = []
    if any(row.split for row in rows):
        notes.append("Only rows of the truth whose split is test or empty were judged.")
    else:
        notes.append(
            "The truth has no split column: nothing here proves that the model was not trained on "
            "these images."
        )
    if lost:
        told = ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in lost.items())
        notes.append(f"Not judged, since they have no score: {told}.")
    return tuple(notes)
