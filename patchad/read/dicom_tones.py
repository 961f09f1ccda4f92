"""From stored values to grey: modality LUT, VOI LUT or window, MONOCHROME1; PS3.3 C.11."""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from scipy.special import expit

from patchad.core.image import Voi
from patchad.errors import ImageError
from patchad.read.dicom_header import Pair, name_of, number_of, text_of

Values: TypeAlias = NDArray[np.float64]
Used = Literal["lut", "window", "full"]


def tones_of(
    header: Dataset, low: int, high: int, notes: list[str], voi: Voi
) -> tuple[NDArray[np.float32], Used]:
    """The grey of each stored value from ``low`` to ``high``, float32 in [0, 1].

    And which element of the header scaled it.
    """
    values, bounds = modality_values(header, low, high, notes)
    grey, used = _voi(header, values, bounds, notes, voi)
    shown = grey.clip(0, 1)
    if text_of(header, "PhotometricInterpretation") == "MONOCHROME1":
        shown = 1 - shown
        notes.append("MONOCHROME1: inverted")
    return shown.astype(np.float32), used


def modality_values(header: Dataset, low: int, high: int, notes: list[str]) -> tuple[Values, Pair]:
    """The value of each stored value from ``low`` to ``high`` after modality LUT or rescaling.

    And the range that these values may span. PS3.3 C.11.1.
    """
    values, bounds = np.arange(low, high + 1, dtype=np.float64), (float(low), float(high))
    if "ModalityLUTSequence" in header:
        try:
            values, bits = _look_up(header, "ModalityLUTSequence", values, signed=low < 0)
        except ValueError as error:
            raise ImageError(
                f"{name_of('ModalityLUTSequence')} {error}: export the file again"
            ) from None
        bounds = 0.0, 2.0**bits - 1
        notes.append("modality LUT applied")
    elif "RescaleSlope" in header or "RescaleIntercept" in header:
        slope = number_of(header, "RescaleSlope", 1.0)
        intercept = number_of(header, "RescaleIntercept", 0.0)
        values = values * slope + intercept
        bounds = (float(values.min()), float(values.max()))
        if not 0 < bounds[1] - bounds[0] < math.inf:
            raise ImageError(
                f"{name_of('RescaleSlope')} must be a number other than 0, and "
                f"{name_of('RescaleIntercept')} a number: export the file again"
            )
        if (slope, intercept) != (1.0, 0.0):
            notes.append(f"rescaled: slope {slope:g}, intercept {intercept:g}")
    return values, bounds


def _voi(
    header: Dataset, values: Values, bounds: Pair, notes: list[str], voi: Voi
) -> tuple[Values, Used]:
    """Modality values as grey, to be clipped to [0, 1]; PS3.3 C.11.2."""
    if voi in ("auto", "lut") and "VOILUTSequence" in header:
        try:
            mapped, bits = _look_up(header, "VOILUTSequence", values, signed=bounds[0] < 0)
        except ValueError as error:
            notes.append(f"VOI LUT not used: it {error}")
        else:
            notes.append(f"VOI: the first LUT, {bits} bits")
            return mapped / (2.0**bits - 1), "lut"
    window = "WindowWidth" in header or "WindowCenter" in header
    if voi in ("auto", "window") and window:
        try:
            return _window(header, values, bounds, notes), "window"
        except ValueError as error:
            notes.append(f"window not used: {error}")
    if voi != "auto":
        notes.append(f"VOI: {voi} was requested")
    notes.append(f"VOI: none, the full range {bounds[0]:g} to {bounds[1]:g}")
    return (values - bounds[0]) / (bounds[1] - bounds[0]), "full"


def _window(header: Dataset, values: Values, bounds: Pair, notes: list[str]) -> Values:
    centre, width = number_of(header, "WindowCenter"), number_of(header, "WindowWidth")
    function = text_of(header, "VOILUTFunction").upper() or "LINEAR"
    if not math.isfinite(centre + width):
        raise ValueError("its centre or width is missing or no number")
    if width <= (1 if function == "LINEAR" else 0):
        raise ValueError(f"a width of {width:g} leaves no grey between black and white")
    window = f"centre {centre:g}, width {width:g}"
    if centre + width / 2 <= bounds[0] or centre - width / 2 >= bounds[1]:
        raise ValueError(f"{window} shows nothing of {bounds[0]:g} to {bounds[1]:g}")
    match function:
        case "LINEAR":
            shown = (values - (centre - 0.5)) / (width - 1) + 0.5
        case "LINEAR_EXACT":
            shown = (values - centre) / width + 0.5
        case "SIGMOID":
            shown = expit(4 * (values - centre) / width)
        case _:
            raise ValueError("its function is unknown")
    notes.append(f"VOI: the first window, {window}, {function}")
    return shown


@dataclass(frozen=True, eq=False)
class LookUpTable:
    """``entries`` (n,) float64, whole numbers of ``bits`` bits; ``first`` is what maps to [0]."""

    entries: Values
    first: int
    bits: int

    def of(self, values: Values) -> Values:
        """``values`` mapped by the table: float64, of the same shape."""
        return self.entries.take(np.rint(values).astype(np.int64) - self.first, mode="clip")


def _look_up(header: Dataset, sequence: str, values: Values, *, signed: bool) -> tuple[Values, int]:
    """``values`` mapped by the first lookup table, and the bits of its entries."""
    table = look_up_table(header, sequence, signed=signed)
    return table.of(values), table.bits


def look_up_table(header: Dataset, sequence: str, *, signed: bool) -> LookUpTable:
    """The first lookup table of a sequence; ``signed`` if its inputs may be below 0.

    Done here because pydicom wraps around if a table has more entries than its bits can count.

    Raises:
        ValueError: it is damaged; the text continues a sentence that begins with its name.
    """
    try:
        item = header[sequence].value[0]
        entries, first, bits = (int(value) for value in item.LUTDescriptor)
        data = item.LUTData
    except Exception:  # pydicom may raise anything on a damaged item
        raise ValueError("is empty or damaged") from None
    # the descriptor is signed if the pixels are, which not every writer respects
    entries, bits = entries % 2**16 or 2**16, bits % 2**16
    first = first - 2**16 if signed and first >= 2**15 else first
    if isinstance(data, bytes):
        little = header.original_encoding[1] is not False
        packed = bits <= 8 and len(data) in (entries, entries + 1)
        dtype = np.dtype("u1" if packed else "<u2" if little else ">u2")
        data = np.frombuffer(data[: len(data) // dtype.itemsize * dtype.itemsize], dtype)
    table = np.atleast_1d(np.asarray(data, np.float64))[:entries]
    if not 1 <= bits <= 16 or len(table) < entries:
        raise ValueError(f"has {len(table)} of {entries} entries, of {bits} bits")
    if table.min() < 0 or table.max() >= 2**bits:
        raise ValueError(f"has entries up to {table.max():g}, more than its {bits} bits allow")
    return LookUpTable(table, first, bits)
