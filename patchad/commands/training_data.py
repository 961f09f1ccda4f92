"""The images that a training learns from, in memory, and their description in the card."""

import hashlib
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from patchad.commands.negatives import Negative, Reader, image_rng
from patchad.commands.plan import Plan
from patchad.errors import RequestError
from patchad.learn.patch_bank import PatchBank, foreground_corners
from patchad.learn.training_set import PackedMask, TrainingSet
from patchad.methods import method_of
from patchad.model.card import ModelCard, TrainingData, versions
from patchad.model.config import Config
from patchad.model.fit import fit_note, fit_of
from patchad.model.trained_on import pack_digests
from patchad.prepare.preprocess import Prepared
from patchad.read.grey import depth_note
from patchad.read.manifest import ManifestRow, is_manifest, read_manifest

_CORNERS = 20_000  # places for patches an image; more would cost memory and show nothing new
_SPACING_TOLERANCE = 0.1  # share by which training images may differ in pixel spacing


def find_unlabelled(source: Path, config: Config) -> tuple[ManifestRow, ...]:
    """The unlabelled rows that the configuration's method learns from; none where it doesn't.

    Raises:
        RequestError: the method needs some, and there are none.
    """
    method = method_of(config.method)
    if not method.needs_with(config.options).unlabelled:
        return ()
    rows = read_manifest(source) if is_manifest(source) else []
    found = tuple(row for row in rows if row.split == "unlabelled")
    if not found:
        raise RequestError(
            f"{config.method} learns from unlabelled films too, and {source} names none: give a "
            "manifest whose column split says unlabelled for some"
        )
    return found


def gather(
    reader: Reader, training: Sequence[Negative], unlabelled: Sequence[ManifestRow], plan: Plan
) -> tuple[TrainingSet, list[Negative], list[str]]:
    """The training set, the negatives that could be read, and the unlabelled films' digests.

    An unlabelled film with the pixels of a negative is left out: it may be one that calibrates.

    Raises:
        RequestError: no film holds a patch with enough foreground.
    """
    facts: list[Negative] = []
    masks: list[PackedMask] = []

    def negatives() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        for negative, prepared in reader.read(training, "reading training images"):
            facts.append(negative)
            if reader.config.split.by == "patch":
                corners = negative.tiles.grid.corners[negative.tiles.training]
            else:
                corners = _corners(negative.row, prepared, reader)
            if len(corners):  # others don't enter the bank
                masks.append(PackedMask.of(prepared))
            yield prepared.pixels, corners

    bank = PatchBank.of(negatives(), reader.config.patch_size)
    patches = sum(int(negative.tiles.training.sum()) for negative in facts)
    others, digests = None, list[str]()
    if unlabelled:
        known = {negative.source.digest for negative in (*plan.training, *plan.held_out)}
        others, digests = _gather_unlabelled(reader, unlabelled, known)
    return TrainingSet(bank, patches, tuple(masks), others), facts, digests


def _gather_unlabelled(
    reader: Reader, rows: Sequence[ManifestRow], negatives: Collection[str]
) -> tuple[TrainingSet, list[str]]:
    masks: list[PackedMask] = []
    digests: list[str] = []
    patches = 0

    def films() -> Iterator[tuple[NDArray[np.float32], NDArray[np.int64]]]:
        nonlocal patches
        for row, ready in reader.ready(rows, "reading unlabelled images"):
            if ready.radiograph.source.digest in negatives:
                reader.leave_out(row, "unlabelled, with the same pixels as a negative image")
                continue
            corners = _corners(row, ready.prepared, reader)
            if len(corners):
                masks.append(PackedMask.of(ready.prepared))
                digests.append(ready.radiograph.source.digest)
                mask = ready.prepared.foreground.mask
                patches += round(float(mask.sum()) / reader.config.patch_size**2)
            yield ready.prepared.pixels, corners

    bank = PatchBank.of(films(), reader.config.patch_size)
    return TrainingSet(bank, patches, tuple(masks)), digests


def _corners(row: ManifestRow, prepared: Prepared, reader: Reader) -> NDArray[np.int64]:
    """Where patches are drawn: anywhere in the foreground."""
    return foreground_corners(
        prepared.foreground.mask,
        reader.config.patch_size,
        reader.config.min_foreground,
        limit=_CORNERS,
        rng=image_rng(row, reader.seed, 1),
    )


def draft_card(
    reader: Reader,
    training: Sequence[Negative],
    aside: Sequence[Negative],
    plan: Plan,
    notes: Sequence[str],
    unlabelled: Sequence[str],
) -> ModelCard:
    """The card before training: no unit, no calibration; ``unlabelled`` are films' digests."""
    config = reader.config
    data = _describe([*training], [*aside], plan, unlabelled)
    return ModelCard(
        method=config.method,
        config=config.as_dict(),
        preprocessing=config.preprocessing,
        patch_size=config.patch_size,
        stride=config.stride,
        weighting=config.weighting,
        min_foreground=config.min_foreground,
        score_unit="",
        seed=reader.seed,
        data=data,
        notes=(
            *(*notes, *_failure_note(reader.failed), *_spacing_note(training, config)),
            *(
                [f"{len(unlabelled)} unlabelled images were used for training too."]
                * bool(unlabelled)
            ),
            *fit_note(data.fit, config.preprocessing.body_part),
            *depth_note(negative.source.guessed_bits for negative in training),
        ),
        versions=versions(),
    )


def require_one_kind(images: list[Negative], config: Config) -> None:
    """Refuse images whose scales or intents cannot be one model's."""
    one_intent(images)
    known = np.array([n.spacing_mm for n in images if n.spacing_mm is not None])
    if len(known) and config.preprocessing.spacing_mm is None:
        _require_one_scale(known, np.median(known, axis=0), len(images))


def one_intent(images: list[Negative]) -> bool:
    """Whether the images hold raw detector values; refuses a mixture."""
    raw = sum(bool(n.source.for_processing) for n in images)
    if raw not in (0, len(images)):
        raise RequestError(
            f"{raw} of {len(images)} training images are For Processing (raw detector values): "
            "leave out those, or the others"
        )
    return raw > 0


def _require_one_scale(
    known: NDArray[np.float64], middle: NDArray[np.float64], images: int
) -> None:
    if len(known) < images:
        raise RequestError(
            f"{images - len(known)} of {images} training images have no pixel spacing: give it by "
            "a column spacing_mm or --spacing-mm"
        )
    if np.abs(known / middle - 1).max() > _SPACING_TOLERANCE:
        raise RequestError(
            f"the training images have pixel spacings from {known.min():.4g} to "
            f"{known.max():.4g} mm: bring them to one with "
            f"--set preprocessing.spacing_mm={known.max():.4g}"
        )


def _describe(
    training: list[Negative], aside: list[Negative], plan: Plan, unlabelled: Sequence[str]
) -> TrainingData:
    """The description of the data in the card."""
    learnt = [*(negative.source.digest for negative in training), *unlabelled]
    everything = [*training, *aside]
    known = [negative.spacing_mm for negative in everything if negative.spacing_mm is not None]
    row, col = np.median(known, axis=0).tolist() if known else (math.nan, math.nan)
    brightness = [n.brightness for n in everything]
    return TrainingData(
        digest=hashlib.sha256("".join(sorted(learnt)).encode()).hexdigest(),
        images=len(training),
        patients=len({negative.patient for negative in training}),
        split=plan.split,
        modalities=tuple(sorted({n.source.modality for n in everything} - {""})),
        spacing_mm=(row, col) if known else None,
        brightness=(min(brightness), max(brightness)),
        for_processing=one_intent(everything),
        trained_on=pack_digests(learnt),
        fit=fit_of([(negative.look, negative.patient) for negative in everything]),
    )


def _failure_note(failed: Sequence[tuple[str, str]]) -> tuple[str, ...]:
    return (f"{len(failed)} images could not be used and were left out.",) if failed else ()


def _spacing_note(training: Sequence[Negative], config: Config) -> tuple[str, ...]:
    unknown = sum(negative.spacing_mm is None for negative in training)
    if not unknown or config.preprocessing.assumed_side_mm is None:
        return ()
    side = config.preprocessing.assumed_side_mm
    return (
        f"{unknown} of {len(training)} training images have no pixel spacing: their longer side "
        f"was taken for {side:g} mm.",
    )
