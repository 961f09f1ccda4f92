"""The tones of a source in a legal form for objects: numbers, and terms of the standard."""

import math
from dataclasses import dataclass, field

import numpy as np
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.valuerep import DSfloat

from patchad.core.image import Voi
from patchad.export.dicom.value import UNICODE, legal_value
from patchad.read.dicom_header import number_of
from patchad.read.dicom_pixels import stored_range
from patchad.read.dicom_tones import Values, look_up_table, modality_values, tones_of

_WHITE, _HALF = 2**16 - 1, 2**15  # of 16 bits
_UNITS = ("US", "HU", "OD", "MGML", "Z_EFF", "ED", "EDW", "HU_MOD", "PCT")  # US: unspecified


@dataclass
class Tones:
    """The keywords of tone elements that were ``repaired`` or ``left_out``.

    ``folded``: the VOI LUT maps stored values to grey directly, and is the only tone element.
    """

    folded: bool = False
    repaired: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


def take_tones(header: Dataset, taken: Dataset, voi: Voi) -> Tones:
    """Copy the modality LUT or rescaling, the first VOI LUT and the first window, as numbers.

    A modality LUT may have 8 or 16 bits (PS3.3 C.11.1), and scaling it would change the following
    steps: another one is combined with these into one VOI LUT.
    """
    tones = Tones()
    try:
        low, high = stored_range(header, 2**62)
        _, bounds = modality_values(header, low, high, [])
        if "ModalityLUTSequence" in header:
            table = look_up_table(header, "ModalityLUTSequence", signed=low < 0)
            if table.bits != 16 or table.entries.max() < _HALF:
                grey = tones_of(header, low, high, [], voi)[0].astype(np.float64)
                if taken.get("PhotometricInterpretation") == "MONOCHROME1":
                    grey = 1 - grey  # the presentation LUT inverts it
                taken.VOILUTSequence = [_table(np.rint(grey * _WHITE), low)]
                tones.repaired.append("ModalityLUTSequence")
                tones.folded = True
                return tones
            item = _table(table.entries, table.first)
            item.ModalityLUTType = "US"
            taken.ModalityLUTSequence = [item]
        elif "RescaleSlope" in header or "RescaleIntercept" in header:
            taken.RescaleSlope = _decimal(number_of(header, "RescaleSlope", 1.0))
            taken.RescaleIntercept = _decimal(number_of(header, "RescaleIntercept", 0.0))
            taken.RescaleType = _unit(header)
    except Exception:  # not an image that patchad could have read
        tones.left_out.append("ModalityLUTSequence")
        return tones
    for keyword in ("WindowCenter", "WindowWidth"):
        number = number_of(header, keyword)
        if np.isfinite(number):
            setattr(taken, keyword, _decimal(number))
    try:
        if "VOILUTSequence" in header:
            table = look_up_table(header, "VOILUTSequence", signed=bounds[0] < 0)
            entries = np.rint(table.entries * (_WHITE / (2**table.bits - 1)))
            taken.VOILUTSequence = [_table(_whitened(entries, table.first, bounds[1]), table.first)]
            if table.bits not in (8, 16):
                tones.repaired.append("VOILUTSequence")
    except ValueError:
        tones.left_out.append("VOILUTSequence")
    return tones


def _whitened(entries: Values, first: int, highest: float) -> Values:
    """A table that maps values up to ``highest``; if it is all dark, larger ones are white.

    Validators report a table whose values leave the top bit unused as damaged.
    """
    missing = max(0, math.ceil(highest) - first + 1 - len(entries))
    if entries.max() >= _HALF or len(entries) + missing + 1 > 2**16:
        return entries
    return np.concatenate([entries, np.full(missing, entries[-1]), [_WHITE]])


def _table(entries: Values, first: int) -> Dataset:
    """An item of a lookup table with ``entries`` of 16 bits; ``first`` is what maps to [0]."""
    item, count = Dataset(), len(entries) % 2**16  # 0 means 65536
    if first < 0:
        descriptor = [count - 2**16 if count >= 2**15 else count, first, 16]
        item.add_new(Tag("LUTDescriptor"), "SS", descriptor)
    else:
        item.add_new(Tag("LUTDescriptor"), "US", [count, first, 16])
    item.add_new(Tag("LUTData"), "OW", entries.astype("<u2").tobytes())
    return item


def _decimal(number: float) -> DSfloat:
    return DSfloat(number, auto_format=True)


def _unit(header: Dataset) -> str:
    value = legal_value(header, "RescaleType", UNICODE, {unit: unit for unit in _UNITS})
    return str(value.parts[0]) if value and value.parts else "US"
