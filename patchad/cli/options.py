"""Options that several commands share, declared for typer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from patchad.errors import RequestError
from patchad.export import DEFAULT_KINDS, KINDS
from patchad.methods.declared import purpose_of, trainable
from patchad.model.configurations import did_you_mean, packaged, purpose

USUAL_KINDS = ",".join(DEFAULT_KINDS)
# As in patchad.read, whose imports would slow down --help.
VOIS, MAX_PIXELS = ("auto", "lut", "window", "full"), 100_000_000

DEVICES = ("auto", "cuda", "mps", "cpu")


def _complete_kinds(incomplete: str) -> list[str]:
    """Complete the last element of ``a,b``; earlier ones are not offered again."""
    before, comma, last = incomplete.rpartition(",")
    left = [kind for kind in KINDS if kind not in before.split(",")]
    return [f"{before}{comma}{kind}" for kind in left if kind.startswith(last)]


def _complete_config(incomplete: str) -> list[tuple[str, str]]:
    """Names with their purposes, and TOML files."""
    names = [*_purposes().items(), *_methods().items()]
    folder, slash, _ = incomplete.rpartition("/")
    here = Path(folder + slash)
    files = [(f"{folder}{slash}{path.name}", "a file") for path in sorted(here.glob("*.toml"))]
    return [(name, what) for name, what in [*names, *files] if name.startswith(incomplete)]


def _complete_device(incomplete: str) -> list[str]:
    return [device for device in DEVICES if device.startswith(incomplete)]


def _complete_voi(incomplete: str) -> list[str]:
    return [voi for voi in VOIS if voi.startswith(incomplete)]


Model = Annotated[
    Path, typer.Option("--model", envvar="PATCHAD_MODEL", help="Folder of a trained model.")
]
Config = Annotated[
    list[str] | None,
    typer.Option(
        help="A packaged configuration or a method (listed below), or a TOML file. Of several, the "
        "best on unlabelled images is kept. Default: wei2018.",
        autocompletion=_complete_config,
    ),
]
Device = Annotated[
    str,
    typer.Option(
        help="auto (CUDA, then MPS, then CPU), cuda, mps or cpu.", autocompletion=_complete_device
    ),
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue with what is in the folder.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace what is in the folder.")]
Spacing = Annotated[
    str | None,
    typer.Option(
        "--spacing-mm",
        metavar="MM|ROW,COL",
        help="Pixel spacing of images without one (PNG, PGM, TIFF, JPEG).",
    ),
]
Voi = Annotated[
    str,
    typer.Option(
        metavar="|".join(VOIS),
        help="Grey scaling of DICOM files.",
        autocompletion=_complete_voi,
    ),
]
TrainVoi = Annotated[
    str | None,
    typer.Option(
        "--voi",
        metavar="|".join(VOIS),
        help="Grey scaling of DICOM files.",
        autocompletion=_complete_voi,
    ),
]
ModelVoi = Annotated[
    str | None,
    typer.Option(
        "--voi",
        metavar="|".join(VOIS),
        help="As the model was trained, by default.",
        autocompletion=_complete_voi,
    ),
]
Bits = Annotated[
    int | None,
    typer.Option(
        "--bits",
        metavar="N",
        help="Bit depth of 16-bit PNG, TIFF and PGM (8 to 16); guessed for each by default.",
    ),
]
AllowMismatch = Annotated[
    bool,
    typer.Option("--allow-mismatch", help="Accept images unlike the training images; recorded."),
]
MaxPixels = Annotated[int, typer.Option(help="Larger images are refused: rows × columns.")]
Timeout = Annotated[float, typer.Option(help="Seconds for reading one image.")]
Write = Annotated[
    str,
    typer.Option(
        "--write",
        metavar="KIND,…",
        help=f"What to write: {', '.join(KINDS)}.",
        autocompletion=_complete_kinds,
    ),
]
Deidentify = Annotated[
    bool, typer.Option("--deidentify", help="Leave patient and study out of DICOM objects.")
]
InventGeometry = Annotated[
    bool, typer.Option("--invent-geometry", help="For pm: invent origin and unknown spacing.")
]
TwoBreasts = Annotated[
    bool,
    typer.Option("--two-breasts", help="Subtract half of the other breast's score, if listed."),
]


def configurations() -> str:
    """The names that `--config` accepts, for the end of a help text."""
    return "\n\n".join(
        [
            "Packaged configurations:",
            *(f"{name}: {what}" for name, what in _purposes().items()),
            f"Methods (see patchad methods): {', '.join(_methods())}.",
        ]
    )


def _purposes() -> dict[str, str]:
    return {name: purpose(path) for name, path in packaged().items()}


def _methods() -> dict[str, str]:
    """Methods that train by name without a packaged configuration of that name."""
    return {name: purpose_of(name) for name in trainable() if name not in packaged()}


def kinds_of(text: str) -> tuple[str, ...]:
    """The kinds in ``--write``, each once."""
    kinds = tuple(dict.fromkeys(kind.strip() for kind in text.split(",") if kind.strip()))
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        meant = did_you_mean(unknown[0], KINDS) if unknown else ""
        raise RequestError(f"--write takes some of {','.join(KINDS)}; got {text!r}{meant}")
    return kinds


def require_one_of(option: str, text: str, allowed: Sequence[str]) -> None:
    """Refuse a value that an option does not accept."""
    if text not in allowed:
        raise RequestError(f"{option} takes one of {', '.join(allowed)}; got {text!r}")


def spacing_of(text: str | None) -> tuple[float, float] | None:
    """(row, col) in millimetres, None if not given."""
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
