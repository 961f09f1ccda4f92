"""Several runs over the same images: what they have in common, so that they can be compared."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from patchad.core.image import Region
from patchad.errors import RequestError
from patchad.evaluation.seen import seen_notes
from patchad.evaluation.truth import Case, Truth, match_truth, to_judge
from patchad.files.whole import shown
from patchad.read.manifest import ManifestRow
from patchad.store.run import Run

_NAMED = 3  # images that a refusal names


@dataclass(frozen=True, eq=False)
class Common:
    """The images that every run has scored.

    ``truths``, by the run's name: the same cases of the same patients, with that run's scores.
    ``views`` are those of the cases, empty if unknown. ``counts`` and ``notes`` say what was left
    out.
    """

    truths: Mapping[str, Truth]
    views: tuple[str, ...]
    counts: Mapping[str, int]
    notes: tuple[str, ...]

    @property
    def patients(self) -> int:
        """How many patients the cases come from."""
        return next(iter(self.truths.values())).patients

    @property
    def cases(self) -> tuple[Case, ...]:
        """The cases, with the first run's scores."""
        return next(iter(self.truths.values())).cases


def names_of(folders: Sequence[Path]) -> list[str]:
    """A name for each run: its folder's, with as many folders above as tell it from the others.

    One line of printable characters, and never a formula of a spreadsheet.

    Raises:
        RequestError: the same folder is given twice.
    """
    real = [folder.resolve() for folder in folders]
    twice = [path for path, count in Counter(real).items() if count > 1]
    if twice:
        raise RequestError(
            f"each run is compared once, but {shown(twice[0])} is given {real.count(twice[0])} "
            "times: leave the others out"
        )
    names = []
    for path in real:
        parts = path.parts[1:] or path.parts
        length = 1
        while length < len(parts) and any(
            other != path and other.parts[-length:] == parts[-length:] for other in real
        ):
            length += 1
        name = shown("/".join(parts[-length:]))
        names.append(f"./{name}" if name.startswith(("=", "+", "-", "@")) else name)
    return [
        name if names.count(name) == 1 else f"{name} #{names[: number + 1].count(name)}"
        for number, name in enumerate(names)
    ]


def match_runs(
    runs: Mapping[str, Run],
    rows: Sequence[ManifestRow],
    regions: Mapping[Path, Sequence[Region]] | None,
    *,
    only_common: bool = False,
) -> Common:
    """The images of the truth that every run has scored.

    An image that no run could score, though all tried, is left out with a note.

    Args:
        runs: by their names, the first is the one that others are compared with.
        rows: of the truth; see :func:`patchad.evaluation.truth.match_truth`.
        regions: where the lesions are, by the path of the image; None if unknown.
        only_common: leave out, with a note, what some runs have scored and others haven't, and
            what no run has; else these are an error.

    Raises:
        RequestError: a run doesn't fit the truth, the runs don't cover the same images, or an
            image has another size in one run than in another.
    """
    found: dict[str, Truth] = {}
    for name, run in runs.items():
        try:
            found[name] = match_truth(run, rows, regions, only_screened=True)
        except RequestError as error:
            raise RequestError(f"{name}: {error}") from None
    wanted = to_judge(rows)
    judged = {name: {case.row for case in truth.cases} for name, truth in found.items()}
    common = set.intersection(*judged.values())
    reasons = {name: _reasons(rows, found[name], own, judged) for name, own in judged.items()}
    apart = sorted({number for own in reasons.values() for number in own})
    if apart and not only_common:
        raise RequestError(
            f"runs are compared on the same images, but {len(apart)} of {len(wanted)} rows of the "
            f"truth don't have a score in every run: {_listed(rows, reasons)}; screen them too, "
            f"take their rows out of the truth, or compare on the {len(common)} images common to "
            "all with --only-common"
        )
    if not common:
        raise RequestError(
            f"the {len(runs)} runs have no scored image of the truth in common: "
            f"{_listed(rows, reasons)}; screen the same images with each model"
        )
    truths = {name: truth.of_rows(common) for name, truth in found.items()}
    _refuse_other_sizes(rows, truths)
    cases = next(iter(truths.values())).cases
    positives = [case for case in cases if case.positive]
    counts = {
        "images": len(cases),
        "positive_images": len(positives),
        "negative_images": len(cases) - len(positives),
        "positive_images_without_regions": sum(not case.regions for case in positives),
        "patients": next(iter(truths.values())).patients,
        "positive_patients": len({case.patient for case in positives}),
        "regions": sum(len(case.regions) for case in cases),
        "truth_rows_to_judge": len(wanted),
        "not_scored_by_every_run": len(apart),
        "not_scored_by_any_run": len(set(wanted) - set().union(*judged.values())),
    }
    notes = []
    if apart:
        notes.append(
            f"--only-common: {len(apart)} of {len(wanted)} rows of the truth don't have a score in "
            f"every run and were left out: {_listed(rows, reasons)}. The figures are those of the "
            "rest, and may be too good."
        )
    return Common(
        truths,
        _views(rows, runs, truths),
        counts,
        (*notes, *_notes(found), *_other_pixels(runs, truths), *_seen(runs, truths)),
    )


def _reasons(
    rows: Sequence[ManifestRow], truth: Truth, own: set[int], judged: Mapping[str, set[int]]
) -> dict[int, str]:
    """Why a run lacks the score of a row that it, or another run, should have: by the row."""
    missing = set(truth.missing)
    elsewhere = set().union(*judged.values()) - own
    return {
        number: "no image" if number in missing else "no score"
        for number in sorted(missing | elsewhere)
    }


def _listed(rows: Sequence[ManifestRow], reasons: Mapping[str, Mapping[int, str]]) -> str:
    parts = []
    for name, own in reasons.items():
        for why, count in Counter(own.values()).items():
            first = [shown(rows[n].path) for n, reason in own.items() if reason == why]
            more = ", …" if count > _NAMED else ""
            parts.append(f"{name} has {why} of {count} ({', '.join(first[:_NAMED])}{more})")
    return "; ".join(parts)


def _refuse_other_sizes(rows: Sequence[ManifestRow], truths: Mapping[str, Truth]) -> None:
    (first, expected), *others = truths.items()
    for name, truth in others:
        for one, other in zip(expected.cases, truth.cases, strict=True):
            if one.shape != other.shape:
                raise RequestError(
                    f"an image has one size, but {shown(rows[one.row].path)} has {one.shape} "
                    f"pixels in {first} and {other.shape} in {name}: it was changed in between; "
                    "screen it again"
                )


def _views(
    rows: Sequence[ManifestRow], runs: Mapping[str, Run], truths: Mapping[str, Truth]
) -> tuple[str, ...]:
    """The view of each case: from the truth, else from the image as the first run read it."""
    name, truth = next(iter(truths.items()))
    read = {row.id: row.view for row in runs[name].rows}
    return tuple(rows[case.row].view or read[case.image_id] for case in truth.cases)


def _notes(found: Mapping[str, Truth]) -> list[str]:
    """The notes of each run's matching: once if all runs have it, else with the run's name."""
    notes: dict[str, list[str]] = {}
    for name, truth in found.items():
        for note in truth.notes:
            notes.setdefault(note, []).append(name)
    every = len(found)
    return [note if len(of) == every else f"{', '.join(of)}: {note}" for note, of in notes.items()]


def _other_pixels(runs: Mapping[str, Run], truths: Mapping[str, Truth]) -> list[str]:
    """A note on each run that read other pixels in the same files than the first."""
    digests = []
    for name, run in runs.items():
        known = {row.id: row.digest for row in run.rows}
        digests.append((name, [known[case.image_id] for case in truths[name].cases]))
    (first, expected), *others = digests
    notes = []
    for name, own in others:
        count = sum(a != b for a, b in zip(expected, own, strict=True) if a and b)
        if count:
            notes.append(
                f"{count} of {len(own)} images have other pixels in {name} than in {first}: the "
                "files changed in between, or were read with another window or depth."
            )
    return notes


def _seen(runs: Mapping[str, Run], truths: Mapping[str, Truth]) -> list[str]:
    return [
        f"{name}: {note}" for name, run in runs.items() for note in seen_notes(run, truths[name])
    ]
