"""A run as one HTML file: ranked images with their overlays, settings, failures, evaluation.

It is made from the stored run alone, and opens without a network: pictures, style and script are
embedded.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path, PurePath
from typing import Any

import jinja2
import numpy as np
from PIL import Image

from patchad.engine.marks import Mark
from patchad.errors import PatchadError
from patchad.export.layer import (
    OUTLINE,
    blend,
    display_shape,
    film_grey,
    layer,
    levels,
    palette,
)
from patchad.export.overlay import RESEARCH
from patchad.export.report_figures import figures_of
from patchad.export.stored_marks import stored_marks
from patchad.export.tiff import stored_heatmap
from patchad.export.verdict import (
    DECIDED_BY_MARK,
    OWN_SCALE,
    marks_in_words,
    rarity_in_words,
    verdict,
)
from patchad.files.whole import write_whole
from patchad.model.card import ModelCard, card_from_dict
from patchad.prepare.workers import Fault, Ready, required
from patchad.store.run import ImageRow, Run, read_again, read_run, stored_scores

_LONG_SIDE = 900  # pixels of a picture in the report
_JPEG_QUALITY = 85


def write_report(run_folder: Path, *, top: int = 100) -> Path:
    """Write ``report.html`` into a run folder; the ``top`` highest images have pictures.

    The films are read again from where they were screened. A film that is missing or has changed
    keeps its row, with the reason instead of a picture.

    Returns:
        The path of the report.

    Raises:
        RequestError: ``run_folder`` is not a run, or its evaluation cannot be read.
        ModelError: the run's card is of another version, which cannot be read.
        OutputError: the report cannot be written.
    """
    run = read_run(run_folder)
    card = card_from_dict(run.settings["card"], f"the card in {run_folder}")
    ranked = sorted((r for r in run.rows if r.status == "ok"), key=_rank)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            research=RESEARCH,
            run=run.settings,
            card=card,
            calibration=card.calibrated,
            decided=DECIDED_BY_MARK if card.calibrated.marks.decides else OWN_SCALE,
            verdict=_verdict,
            words=partial(rarity_in_words, calibration=card.calibrated),
            model=run.settings["card"]["digest"],
            scale=_uri(_scale(card), "PNG"),
            strips=_strips(ranked, card),
            ranked=ranked,
            shown=[
                (row, _picture(run, row, read, card))
                for row, read in read_again(run, ranked[:top], card.preprocessing)
            ],
            flagged=sum(bool(row.flagged) for row in ranked),
            failures=[row for row in run.rows if row.status != "ok"],
            evaluation=figures_of(run_folder / "evaluation"),
        )
    )
    path = run_folder / "report.html"
    write_whole(path, page)
    return path


@dataclass(frozen=True)
class _Picture:
    """A film and its heatmap as data URIs; if there is none, ``missing`` says why."""

    width: int = 0
    height: int = 0
    film: str = ""
    heat: str = ""
    marks: Sequence[Mark] = ()
    marks_text: str = ""  # how many marks there are
    missing: str = ""


@dataclass(frozen=True)
class _Strip:
    """Scores on a common axis of 0 … 1000, a tick each; those over the threshold separately."""

    title: str
    below: Sequence[float]
    over: Sequence[float]
    threshold: float


def _rank(row: ImageRow) -> tuple[float, str]:
    return (math.inf if row.score is None else -row.score, row.path)


def _picture(run: Run, row: ImageRow, read: Ready | Fault, card: ModelCard) -> _Picture:
    calibration = card.calibrated
    try:
        radiograph = required(read).radiograph
        scores = stored_scores(run, row)
        heatmap = stored_heatmap(run, row, required(read), scores, card)
        found = stored_marks(run, row, calibration, heatmap)
        shape = display_shape(radiograph.shape, radiograph.step, _LONG_SIDE)
        index = layer(
            radiograph,
            heatmap,
            shape,
            display_range=calibration.display_range,
            marks=found,
        )
    except PatchadError as error:
        return _Picture(missing=str(error))
    heat = Image.fromarray(index)
    heat.putpalette(palette().tobytes(), "RGBA")
    return _Picture(
        width=shape[1],
        height=shape[0],
        film=_uri(Image.fromarray(film_grey(radiograph, shape)), "JPEG", quality=_JPEG_QUALITY),
        heat=_uri(heat, "PNG", optimize=True),
        marks=found,
        marks_text=marks_in_words(len(found), calibration, calibrated=row.stride == card.stride),
    )


def _verdict(row: ImageRow) -> str:
    """An image's score, percentile and flag in words; a dash if it has no score."""
    if row.score is None:
        return "–"
    lower = math.nan if row.percentile is None else row.percentile
    return verdict(row.score, lower, flagged=bool(row.flagged))


def _scale(card: ModelCard) -> Image.Image:
    """The colour scale, low to high from left to right, on a background from black to white.

    A line shows the threshold of marks if it is on this scale, clipped to the ends.
    """
    low, high = card.calibrated.display_range
    index = np.tile(levels(np.linspace(low, high, 512, dtype=np.float32), (low, high)), (24, 1))
    if not card.calibrated.marks.dense:
        line = round(510 * (card.calibrated.marks.threshold - low) / (high - low))
        line = min(max(line, 0), 510)
        index[:, line : line + 2] = OUTLINE
    ground = np.repeat(np.linspace(0, 255, 24).astype(np.uint8)[:, None], 512, axis=1)
    return Image.fromarray(blend(ground, index))


def _strips(ranked: Sequence[ImageRow], card: ModelCard) -> tuple[list[_Strip], float, float]:
    """The scores of the run and of the model's negatives; the ends of their common axis."""
    threshold = card.calibrated.image_threshold
    groups = {
        "images of this run": [row.score for row in ranked if row.score is not None],
        "negative patients of the model, by their highest image": [*card.calibrated.patient_scores],
    }
    everything = [threshold, *(score for scores in groups.values() for score in scores)]
    low, high = min(everything), max(everything)
    span = (high - low) or 1.0

    def place(score: float) -> float:
        return round(5 + 990 * (score - low) / span, 1)

    strips = [
        _Strip(
            f"{len(scores)} {title}",
            [place(score) for score in scores if score <= threshold],
            [place(score) for score in scores if score > threshold],
            place(threshold),
        )
        for title, scores in groups.items()
    ]
    return strips, low, high


def _number(value: float | None) -> str:
    """Four digits; a dash if unknown."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _plain(value: Any) -> str:
    """A setting in words."""
    if value is None or isinstance(value, bool):
        return {None: "not given", True: "yes", False: "no"}[value]
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _figure(figure: Mapping[str, Any] | None) -> str:
    """A figure with its confidence interval, to three decimals; a dash if undefined."""
    if figure is None or figure["value"] is None:
        return "–"
    low, high = figure["ci95"]
    interval = "" if low is None or high is None else f" ({low:.3f} to {high:.3f})"
    return f"{figure['value']:.3f}{interval}"


def _uri(image: Image.Image, kind: str, **options: Any) -> str:
    content = io.BytesIO()
    image.save(content, kind, **options)
    return f"data:image/{kind.lower()};base64,{_base64(content.getvalue())}"


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _environment() -> jinja2.Environment:
    template = resources.files("patchad.export").joinpath("report.html.j2").read_text("utf-8")
    environment = jinja2.Environment(
        loader=jinja2.DictLoader({"report.html.j2": template}),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = _number
    environment.filters["figure"] = _figure
    environment.filters["plain"] = _plain
    environment.filters["name"] = lambda path: PurePath(path).name
    environment.globals["outline"] = "rgb({}, {}, {})".format(*palette()[OUTLINE, :3])
    return environment
