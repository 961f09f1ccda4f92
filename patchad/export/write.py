"""Writes the kinds asked for: for one image, or for the whole run."""

from collections.abc import Sequence
from pathlib import Path

from patchad.detector import ModelCard
from patchad.export.overlay import write_overlay
from patchad.export.report import write_report
from patchad.export.tiff import write_heatmap
from patchad.image import Radiograph, Screening
from patchad.io.run import heatmap_path, overlay_path


def write_image_kinds(
    folder: Path,
    image_id: str,
    screening: Screening,
    radiograph: Radiograph,
    card: ModelCard,
    kinds: Sequence[str],
) -> None:
    """Write those of ``kinds`` that are made for each image."""
    if "heatmap" in kinds:
        write_heatmap(heatmap_path(folder, image_id), screening.heatmap)
    if "overlay" in kinds:
        calibration = card.calibrated
        over = screening.scores.values > calibration.patch_threshold
        write_overlay(
            overlay_path(folder, image_id),
            radiograph,
            screening.heatmap,
            display_range=calibration.display_range,
            threshold=calibration.patch_threshold,
            boxes=screening.boxes[over],
            scores=screening.scores.values[over],
            caption=_caption(image_id, screening),
        )


def _caption(image_id: str, screening: Screening) -> tuple[str, ...]:
    source = screening.source
    told = [source.modality, source.laterality, source.view]
    verdict = "flagged" if screening.flagged else "not flagged"
    return (
        " ".join([image_id, *filter(None, told)]),
        f"image score {screening.score:.4g}, percentile {screening.percentile:.0f}: {verdict}",
    )


def write_run_kinds(folder: Path, kinds: Sequence[str]) -> None:
    """Write those of ``kinds`` that are made for the run as a whole."""
    if "report" in kinds:
        write_report(folder)
