"""Writes the kinds asked for: for one image, or for the whole run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from patchad.core.image import Radiograph, Screening
from patchad.engine.marks import Mark, marks
from patchad.errors import ImageError, RequestError
from patchad.export import DICOM_KINDS
from patchad.export.dicom.cad_sr import cad_report
from patchad.export.dicom.gsps import presentation_state
from patchad.export.dicom.ko import key_objects
from patchad.export.dicom.object import (
    Finding,
    Maker,
    finding,
    obstacle,
    read_header,
    text_of,
    why_none,
    write_object,
)
from patchad.export.dicom.pm import parametric_map
from patchad.export.dicom.sc import secondary_capture
from patchad.export.dicom.seg import heatmap_segmentation, region_segmentation
from patchad.export.dicom.sr import report
from patchad.export.geojson import geojson_path, write_geojson
from patchad.export.overlay import overlay, write_overlay
from patchad.export.report import write_report
from patchad.export.tiff import write_heatmap
from patchad.export.verdict import label_of, marks_in_words, rarity_in_words, verdict
from patchad.model.card import ModelCard, card_from_dict
from patchad.store.run import Run, heatmap_path, object_path, overlay_path, read_run

# The objects that need nothing but the finding.
_OBJECTS: Mapping[str, Callable[[Finding], Dataset | None]] = {
    "gsps": presentation_state,
    "sr": report,
    "seg": region_segmentation,
    "heatmap-seg": heatmap_segmentation,
    "cad-sr": cad_report,
    "pm": parametric_map,
}


@dataclass(frozen=True)
class Told:
    """What there is to say of an image's files: why objects are missing, and of those that are not.

    ``notes`` name the elements of its header that were not legal, without their values.
    """

    passed_over: str = ""
    notes: tuple[str, ...] = ()


def check_kinds(kinds: Sequence[str], *, invent_geometry: bool) -> None:
    """Refuse a Parametric Map unless an invented geometry was asked for.

    Raises:
        RequestError: it was not.
    """
    if "pm" in kinds and not invent_geometry:
        raise RequestError(
            "--write pm needs --invent-geometry: a Parametric Map must lie in a frame of "
            "reference, which a projection image has not; the option puts it into one of its own, "
            "at the origin, 1 mm a pixel where the spacing is unknown (heatmap-seg needs none)"
        )


def write_image_kinds(
    folder: Path,
    image_id: str,
    screening: Screening,
    radiograph: Radiograph,
    card: ModelCard,
    kinds: Sequence[str],
    *,
    deidentify: bool = False,
) -> Told:
    """Write those of ``kinds`` that are made for each image.

    ``deidentify`` leaves the patient out of the DICOM objects.

    DICOM objects are passed over where they couldn't refer to the image; see
    :func:`patchad.export.dicom.object.finding`. Of a DICOM file, it is told why.

    Raises:
        ImageError: the file is gone, or its header allows no DICOM object.
        OutputError: a file cannot be written.
    """
    # A dense map can't be stitched again later.
    if "heatmap" in kinds or card.calibrated.marks.dense:
        write_heatmap(heatmap_path(folder, image_id), screening.heatmap)
    wanted = bool(set(kinds) & set(DICOM_KINDS))
    found = finding(screening, card, deidentify=deidentify) if wanted else None
    if "geojson" in kinds:
        found_marks = marks(screening, card.calibrated)
        write_geojson(geojson_path(folder, image_id), image_id, found_marks, card.calibrated)
    if "overlay" in kinds or (found and "sc" in kinds):
        picture = _picture(image_id, screening, radiograph, card)
        if "overlay" in kinds:
            write_overlay(overlay_path(folder, image_id), picture)
        if found and "sc" in kinds:
            if deidentify and text_of(found.header, "BurnedInAnnotation") == "YES":
                raise ImageError(
                    "the film has text burned in (Burned In Annotation YES), which an overlay "
                    "would show: --deidentify cannot remove it, leave sc out of --write"
                )
            build = partial(secondary_capture, found, picture)
            write_object(object_path(folder, image_id, "sc"), found.header, found.maker, build)
    for kind, make in _OBJECTS.items():
        if found and kind in kinds:
            path = object_path(folder, image_id, kind)
            write_object(path, found.header, found.maker, partial(make, found))
    if found:
        return Told(notes=found.taken.notes)
    why = why_none(screening.source) if wanted else ""
    return Told(f"no DICOM objects: {why}" if why else "")


def write_run_kinds(
    folder: Path, kinds: Sequence[str], *, deidentify: bool = False
) -> tuple[tuple[str, str], ...]:
    """Write those of ``kinds`` that are made for the run as a whole.

    Returns (path, reason) of the flagged images that could not be selected.

    Raises:
        OutputError: a file cannot be written.
    """
    left_out = _write_key_objects(read_run(folder), deidentify) if "ko" in kinds else ()
    if "report" in kinds:
        write_report(folder)
    return left_out


def _write_key_objects(run: Run, deidentify: bool) -> tuple[tuple[str, str], ...]:
    """A Key Object Selection for each study with flagged images; those that can't be in it."""
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
        else:  # an image that is there twice is named once
            study = text_of(header, "StudyInstanceUID")
            images = studies.setdefault(study, {})
            images.setdefault(row.sop_instance_uid, (row.path, header))
    for study, images in studies.items():
        headers = [header for _, header in images.values()]
        try:
            build = partial(key_objects, headers, maker)
            write_object(object_path(run.folder, study, "ko"), headers[0], maker, build)
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
    told = [source.modality, source.laterality, source.view]
    known = screening.scores.grid.stride == card.stride
    rarest = [f"mark 1: {rarity_in_words(found[0], calibration)}"] if found else []
    return (
        " ".join([image_id, *filter(None, told)]),
        verdict(screening.score, screening.percentile, flagged=screening.flagged),
        marks_in_words(len(found), calibration, calibrated=known),
        *rarest,
    )
