"""Writes the requested kinds of output: for one image, or for the whole run."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from patchad.core.image import Radiograph, Screening
from patchad.engine.marks import Mark, marks
from patchad.errors import ImageError, RequestError
from patchad.export.dicom.header import obstacle, read_header, text_of, why_none
from patchad.export.dicom.kind import Kind, image_kinds, run_kinds
from patchad.export.dicom.ko import Selection
from patchad.export.dicom.object import Finding, Maker, finding, write_object
from patchad.export.geojson import geojson_path, write_geojson
from patchad.export.overlay import overlay, write_overlay
from patchad.export.report import write_report
from patchad.export.tiff import write_heatmap
from patchad.export.verdict import label_of, marks_in_words, rarity_in_words, verdict
from patchad.model.card import ModelCard, card_from_dict
from patchad.store.run import Run, heatmap_path, object_path, overlay_path, read_run


@dataclass(frozen=True)
class Remarks:
    """Remarks on an image's files.

    ``no_objects``: why it has no DICOM objects, empty if it has. ``notes`` name the elements of its
    header that were not legal, without their values.
    """

    no_objects: str = ""
    notes: tuple[str, ...] = ()


def check_kinds(kinds: Sequence[str], *, invent_geometry: bool) -> None:
    """Refuse kinds that need an option which was not given.

    Raises:
        RequestError: a kind lacks its option.
    """
    given = {"invent_geometry": invent_geometry}
    for kind in (*image_kinds(kinds), *run_kinds(kinds)):
        if kind.needs and not given[kind.needs.option]:
            option = kind.needs.option.replace("_", "-")
            raise RequestError(f"--write {kind.name} needs --{option}: {kind.needs.why}")


def write_image_kinds(
    folder: Path,
    image_id: str,
    screening: Screening,
    radiograph: Radiograph,
    card: ModelCard,
    kinds: Sequence[str],
    *,
    deidentify: bool = False,
) -> Remarks:
    """Write those of ``kinds`` that are made for each image.

    ``deidentify`` leaves the patient out of the DICOM objects.

    An image that DICOM objects can't refer to gets none; see
    :func:`patchad.export.dicom.object.finding`. The remarks of a DICOM file say why.

    Raises:
        ImageError: the file is missing, or its header allows no DICOM object.
        OutputError: a file cannot be written.
    """
    # A dense map can't be stitched again later.
    if "heatmap" in kinds or card.calibrated.marks.dense:
        write_heatmap(heatmap_path(folder, image_id), screening.heatmap)
    draw = cache(partial(_picture, image_id, screening, radiograph, card))
    wanted: Sequence[Kind[Finding]] = image_kinds(kinds)
    found = finding(screening, card, draw, deidentify=deidentify) if wanted else None
    if "geojson" in kinds:
        found_marks = marks(screening, card.calibrated)
        write_geojson(geojson_path(folder, image_id), image_id, found_marks, card.calibrated)
    if "overlay" in kinds:
        write_overlay(overlay_path(folder, image_id), draw())
    if found is None:
        why = why_none(screening.source) if wanted else ""
        return Remarks(f"no DICOM objects: {why}" if why else "")
    for kind in wanted:
        reason = kind.obstacle(found)
        if reason:
            raise ImageError(reason)
        build = partial(kind.build, found)
        write_object(object_path(folder, image_id, kind.name), found.header, found.maker, build)
    return Remarks(notes=found.taken.notes)


def write_run_kinds(
    folder: Path, kinds: Sequence[str], *, deidentify: bool = False
) -> tuple[tuple[str, str], ...]:
    """Write those of ``kinds`` that are made for the run as a whole.

    Returns (path, reason) of the flagged images that could not be selected.

    Raises:
        OutputError: a file cannot be written.
    """
    wanted: Sequence[Kind[Selection]] = run_kinds(kinds)
    left_out = _write_selections(read_run(folder), wanted, deidentify) if wanted else ()
    if "report" in kinds:
        write_report(folder)
    return left_out


def _write_selections(
    run: Run, kinds: Sequence[Kind[Selection]], deidentify: bool
) -> tuple[tuple[str, str], ...]:
    """Write objects on the flagged images of each study; returns the images left out."""
    left_out = []
    card = card_from_dict(run.settings["card"], f"the card in {run.folder}")
    maker = Maker(card, deidentify)
    studies: dict[str, dict[str, tuple[str, Dataset]]] = {}
    for row in run.rows:
        if not (row.flagged and row.sop_instance_uid):
            continue
        try:
            taken = read_header(Path(row.path), row.sop_instance_uid, deidentify=deidentify)
        except ImageError as error:
            left_out.append((row.path, f"not among the key objects: {error}"))
            continue
        header = taken.header
        why = obstacle(header)
        if why:
            left_out.append((row.path, f"not among the key objects: {why}"))
        else:  # an image that is in the run twice is named once
            study = text_of(header, "StudyInstanceUID")
            images = studies.setdefault(study, {})
            images.setdefault(row.sop_instance_uid, (row.path, header))
    for study, images in studies.items():
        headers = [header for _, header in images.values()]
        for kind in kinds:
            try:
                build = partial(kind.build, Selection(headers, maker))
                write_object(object_path(run.folder, study, kind.name), headers[0], maker, build)
            except ImageError as error:
                left_out += [(path, str(error)) for path, _ in images.values()]
    return tuple(left_out)


def _picture(
    image_id: str, screening: Screening, radiograph: Radiograph, card: ModelCard
) -> NDArray[np.uint8]:
    calibration = card.calibrated
    found = marks(screening, calibration)
    return overlay(
        radiograph,
        screening.heatmap,
        display_range=calibration.display_range,
        threshold=None if calibration.marks.dense else calibration.marks.threshold,
        marks=found,
        labels=[label_of(mark, calibration) for mark in found],
        caption=_caption(image_id, screening, found, card),
    )


def _caption(
    image_id: str, screening: Screening, found: Sequence[Mark], card: ModelCard
) -> tuple[str, ...]:
    source, calibration = screening.source, card.calibrated
    known_of = [source.modality, source.laterality, source.view]
    known = screening.scores.grid.stride == card.stride
    rarest = [f"mark 1: {rarity_in_words(found[0], calibration)}"] if found else []
    return (
        " ".join([image_id, *filter(None, known_of)]),
        verdict(screening.score, screening.percentile, flagged=screening.flagged),
        marks_in_words(len(found), calibration, calibrated=known),
        *rarest,
    )
