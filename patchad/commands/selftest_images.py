"""The images of a self-test: the negatives to use, read and tested one after another."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from patchad.commands.selftest_image import Tested, try_lesions
from patchad.commands.selftest_lesions import Wanted
from patchad.errors import ImageError, NotARadiographError, RequestError
from patchad.evaluation.contrast_detail import Tried
from patchad.model.detector import Detector
from patchad.prepare.workers import How, Limits, readers, required
from patchad.progress import Progress
from patchad.read.manifest import ManifestRow, is_manifest
from patchad.read.read import find_images
from patchad.store.run import row_path

log = logging.getLogger(__name__)

_PREFERRED = ("test", "validation", "unlabelled", "", "train")


@dataclass(frozen=True, eq=False)
class Trials:
    """The images that were tested, and (path, reason) of those that were not.

    ``used``, ``digests`` (of the files) and ``tested`` belong together, an image each.
    """

    used: list[ManifestRow]
    digests: list[str]
    tested: list[Tested]
    failed: list[tuple[str, str]]
    skipped: list[tuple[str, str]]

    @property
    def tried(self) -> list[Tried]:
        """The lesions of all images."""
        return [one for image in self.tested for one in image.tried]


def negatives(on: Path, seed: int) -> list[ManifestRow]:
    """The negatives of ``on`` in the order of use: drawn at random, by split."""
    rows = find_images([on], strangers=False)
    if is_manifest(on):
        found = [row for row in rows if row.label == "negative"]
        if not found:
            raise RequestError(
                f"{on} has no row with label negative (of {len(rows)} rows): lesions are drawn "
                "into negatives, where every other mark is a false one"
            )
        rows = found
    else:
        log.warning("%s is not a manifest: all %d images are taken as negatives", on, len(rows))
    drawn = np.random.default_rng(seed).permutation(len(rows))
    return sorted((rows[n] for n in drawn), key=lambda row: _PREFERRED.index(row.split))


def try_images(
    detector: Detector,
    rows: Sequence[ManifestRow],
    wanted: list[Wanted],
    *,
    images: int,
    seed: int,
    spacing_mm: tuple[float, float] | None,
    bits: int | None,
    limits: Limits,
    progress: Progress,
) -> Trials:
    """Draw the lesions ``wanted`` into each of the first ``images`` of ``rows`` that can be read.

    An image's lesions depend on ``seed`` and on how many images were used before it.

    Raises:
        RequestError: no lesion could be drawn into any image.
    """
    trials = Trials([], [], [], [], [])
    card = detector.card
    read_as = card.preprocessing if bits is None else replace(card.preprocessing, bits=bits)
    with readers(How(read_as, spacing_mm, limits)) as ahead:
        for row, read in ahead(rows):
            rng = np.random.default_rng([seed, len(trials.used)])
            try:
                radiograph = required(read).radiograph
                trials.tested.append(try_lesions(detector, radiograph, wanted, rng))
            except ImageError as error:
                no_film = isinstance(error, NotARadiographError)
                left_out = trials.skipped if no_film else trials.failed
                left_out.append((row_path(row.path), str(error)))
                continue
            trials.used.append(row)
            trials.digests.append(radiograph.source.digest)
            progress("self-test", len(trials.used), images, math.nan)
            if len(trials.used) == images:
                break
    if not trials.tried:
        reasons = [reason for _, reason in (*trials.failed, *trials.skipped)]
        reason = reasons[0] if reasons else "no lesion fits into their scored area"
        raise RequestError(f"no image could be tested: {reason}")
    return trials
