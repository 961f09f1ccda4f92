"""What several commands take alike, as typer declares it."""

from pathlib import Path
from typing import Annotated

import typer

from patchad.errors import RequestError
from patchad.export import DEFAULT_KINDS, KINDS

USUAL_KINDS = ",".join(DEFAULT_KINDS)
# As in patchad.io, whose imports would keep --help waiting.
VOIS, MAX_PIXELS = ("auto", "lut", "window", "full"), 100_000_000

Model = Annotated[
    Path, typer.Option("--model", envvar="PATCHAD_MODEL", help="Folder of a trained model.")
]
Device = Annotated[str, typer.Option(help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with what is in the folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing-mm",
        metavar="MM|ROW,COL",
        help="Pixel spacing of images that carry none (PNG, PGM, TIFF, JPEG).",
    ),
]
Voi = Annotated[
    str, typer.Option(metavar="|".join(VOIS), help="What scales the grey of DICOM files.")
]
ModelVoi = Annotated[
    str | None,
    typer.Option("--voi", metavar="|".join(VOIS), help="As the model was trained, by default."),
]
MaxPixels = Annotated[int, typer.Option(help="Larger images are refused: rows × columns.")]
Timeout = Annotated[float, typer.Option(help="Seconds for reading one image.")]
Write = Annotated[
    str, typer.Option("--write", metavar="KIND,…", help=f"What to write: {', '.join(KINDS)}.")
]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Leave patient and study out of DICOM objects.")
]
InventGeometry = Annotated[
    bool, typer.Option("--invent-geometry", help="For pm: origin and unknown spacing are made up.")
]
TwoBreasts = Annotated[
    bool,
    typer.Option("--two-breasts", help="Less half of the other breast's score, if listed."),
]


def spacing_of(text: str | None) -> tuple[float, float] | None:
    """The millimetres (row, col) of ``--spacing-mm``; a RequestError where they are none."""
    if text is None:
        return None
    try:
        numbers = [float(part) for part in text.split(",")]
        row, col = numbers * 2 if len(numbers) == 1 else numbers
    except ValueError:
        row = col = -1.0
    if not (0 < row < float("inf") and 0 < col < float("inf")):
        raise RequestError(f"--spacing-mm is millimetres, one number or ROW,COL; got {text!r}")
    return row, col
