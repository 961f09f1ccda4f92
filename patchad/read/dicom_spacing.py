"""The pixel spacing of a radiograph in DICOM, in the plane of the patient, from the best source.

PS3.3 10.7 (Pixel Spacing), C.8.11.4 (DX Detector), C.8.7.1 (X-Ray Image), C.8.6.1 (SC Equipment).
"""

import math
from dataclasses import dataclass

from pydicom import Dataset
from pydicom.multival import MultiValue

from patchad.errors import ImageError
from patchad.read.dicom_header import Pair, name_of, number_of, pair_of, text_of, value_of

PLAUSIBLE_MM = (0.005, 5.0)  # of a pixel of a radiograph
_SQUARE = 0.05  # relative difference of height and width that a pixel derived from a size may have
_ASPECTS = (0.1, 10.0)  # of a pixel, height by width


@dataclass(frozen=True)
class _Panel:
    """A detector: rows and columns (either way round) of its images, and its pixel pitch in mm."""

    manufacturer: str  # the start of Manufacturer, in capitals
    model: str  # a part of Manufacturer's Model Name, in capitals
    matrix: tuple[int, int]
    pitch_mm: float


# Used only where all three agree, since many detectors bin and crop. GE: Ghetti et al., Medical
# Physics 35 (2008) 456: 100 µm, 19.2 × 23 and 24 × 30.7 cm. Lorad and Hologic: 70 µm, 18 × 24 and
# 24 × 29 cm, by the manufacturer's description of the Selenia detector.
_PANELS = (
    _Panel("GE", "SENOGRAPHE 2000D", (2294, 1914), 0.1),
    _Panel("GE", "SENOGRAPHE DS", (2294, 1914), 0.1),
    _Panel("GE", "SENOGRAPHE ESSENTIAL", (3062, 2394), 0.1),
    _Panel("GE", "SENOGRAPHE ESSENTIAL", (2294, 1914), 0.1),
    _Panel("LORAD", "SELENIA", (4096, 3328), 0.07),
    _Panel("LORAD", "SELENIA", (3328, 2560), 0.07),
    _Panel("HOLOGIC", "SELENIA", (4096, 3328), 0.07),
    _Panel("HOLOGIC", "SELENIA", (3328, 2560), 0.07),
)


@dataclass(frozen=True)
class Scale:
    """The size of pixels: ``spacing_mm`` (row, col), None if unknown, and their ``aspect``.

    ``aspect`` is the height of a pixel / its width, used without a spacing; 1 with one.
    """

    spacing_mm: Pair | None
    aspect: float = 1.0
    cautions: tuple[str, ...] = ()


def scale_of(header: Dataset, modality: str, given: Pair | None, notes: list[str]) -> Scale:
    """The pixel spacing from the header, else as ``given`` by the user, else of a known panel.

    MG: Imager Pixel Spacing first, else Pixel Spacing; others the other way round. Without either:
    Nominal Scanned Pixel Spacing, Field of View Dimensions, Detector Element Spacing with the
    binning, Detector Active Dimensions. All but Pixel Spacing are divided by the magnification.

    Args:
        header: of the file.
        modality: MG, DX …
        given: (row, col) by the user, for a file without its own.
        notes: the decision and its reason are appended.

    Raises:
        ImageError: the spacing is unknown, and Pixel Aspect Ratio is invalid.
    """
    found, unusable = _stated(header, modality, notes)
    if found:
        if given and given != found:
            notes.append("spacing: the user's value was not used, the file has its own")
        return Scale(found)
    why = "that of the file is unusable" if unusable else "the file has none"
    if given:
        notes.append(f"spacing: given by the user, {why}")
        aspect = _aspect(header)
        odd = not math.isclose(given[0] / given[1], aspect, rel_tol=_SQUARE)
        caution = (
            f"the spacing given, {given[0]:g} × {given[1]:g} mm, contradicts Pixel Aspect Ratio, "
            f"by which a pixel is {aspect:.3g} times as high as wide"
        )
        return Scale(given, cautions=(caution,) if odd else ())
    panel = _panel(header)
    if panel:
        factor, how = _magnification(header)
        notes.append(
            f"spacing: {panel.pitch_mm:g} mm, the pitch of the panel identified by manufacturer, "
            f"model and matrix, {how}"
        )
        return Scale((panel.pitch_mm / factor, panel.pitch_mm / factor))
    aspect = _aspect(header)
    ratio = f", Pixel Aspect Ratio {aspect:.4g}" if aspect != 1 else ""
    notes.append(f"spacing: unknown, {why}{ratio}")
    return Scale(None, aspect)


def _stated(header: Dataset, modality: str, notes: list[str]) -> tuple[Pair | None, bool]:
    """The spacing in the header, and whether one of its elements was unusable."""
    unusable = False
    ways = [("Imager Pixel Spacing", "ImagerPixelSpacing"), ("Pixel Spacing", "PixelSpacing")]
    for name, keyword in ways if modality == "MG" else reversed(ways):
        found = _plausible(pair_of(header, keyword))
        if found and keyword == "PixelSpacing":
            notes.append("spacing: Pixel Spacing")
            return found, unusable
        if found:
            return _in_the_patient(header, name, found, notes), unusable
        unusable |= keyword in header
    for name, keyword, measure in _DETECTOR:
        found = _plausible(measure(header))
        if found:
            return _in_the_patient(header, name, found, notes), unusable
        unusable |= keyword in header
    return None, unusable


def _in_the_patient(header: Dataset, name: str, found: Pair, notes: list[str]) -> Pair:
    factor, how = _magnification(header)
    notes.append(f"spacing: {name}, {how}")
    return found[0] / factor, found[1] / factor


def _magnification(header: Dataset) -> tuple[float, str]:
    """The divisor of lengths at the detector, and the reason in words."""
    factor = number_of(header, "EstimatedRadiographicMagnificationFactor")
    if factor > 0:
        return factor, f"divided by the magnification {factor:g}"
    return 1.0, "magnification unknown"


def _plausible(spacing: Pair | None) -> Pair | None:
    if spacing and all(PLAUSIBLE_MM[0] <= step <= PLAUSIBLE_MM[1] for step in spacing):
        return spacing
    return None


def _scanned(header: Dataset) -> Pair | None:
    return pair_of(header, "NominalScannedPixelSpacing")


def _elements(header: Dataset) -> Pair | None:
    """Detector Element Spacing times the binning, unless it contradicts the detector's size."""
    pitch = pair_of(header, "DetectorElementSpacing")
    binning = pair_of(header, "DetectorBinning") if "DetectorBinning" in header else (1.0, 1.0)
    if not pitch or not binning:
        return None
    spacing = pitch[0] * binning[0], pitch[1] * binning[1]
    whole = _active(header)
    if whole and not all(
        math.isclose(a, b, rel_tol=0.1) for a, b in zip(spacing, whole, strict=True)
    ):
        return None  # cropped or scaled: unknown which
    return spacing


def _field(header: Dataset) -> Pair | None:
    return _by_size(header, "FieldOfViewShape", "FieldOfViewDimensions")


def _active(header: Dataset) -> Pair | None:
    return _by_size(header, "DetectorActiveShape", "DetectorActiveDimensions")


def _detector(header: Dataset) -> Pair | None:
    return None if "DetectorElementSpacing" in header else _active(header)


def _by_size(header: Dataset, shape: str, dimensions: str) -> Pair | None:
    """A size in mm by rows and columns, whichever way round makes the pixels square."""
    size = _sizes(header, dimensions)
    rows, cols = number_of(header, "Rows"), number_of(header, "Columns")
    if (
        size is None
        or text_of(header, shape).upper() not in ("RECTANGLE", "")
        or not rows * cols > 0
    ):
        return None
    ways = [(size[0] / rows, size[1] / cols), (size[1] / rows, size[0] / cols)]
    row, col = min(ways, key=lambda way: abs(math.log(way[0] / way[1])))
    if not math.isclose(row, col, rel_tol=_SQUARE):
        return None
    return (math.sqrt(row * col),) * 2


def _sizes(header: Dataset, keyword: str) -> Pair | None:
    """One or two lengths in mm; a single one is both sides of a square."""
    pair = pair_of(header, keyword)
    if pair:
        return pair
    side = number_of(header, keyword)
    several = isinstance(value_of(header, keyword), MultiValue)
    return (side, side) if not several and 0 < side < math.inf else None


# Most reliable first: elements about the picture itself, its field, then the detector.
_DETECTOR = (
    ("Nominal Scanned Pixel Spacing", "NominalScannedPixelSpacing", _scanned),
    ("Field of View Dimensions by rows and columns", "FieldOfViewDimensions", _field),
    ("Detector Element Spacing", "DetectorElementSpacing", _elements),
    ("Detector Active Dimensions by rows and columns", "DetectorActiveDimensions", _detector),
)


def _panel(header: Dataset) -> _Panel | None:
    # Compared, never quoted: a damaged element may contain other text of the header.
    maker, model = (
        str(value_of(header, keyword) or "").strip().upper()
        for keyword in ("Manufacturer", "ManufacturerModelName")
    )
    matrix = {number_of(header, "Rows"), number_of(header, "Columns")}
    for panel in _PANELS:
        named = maker.startswith(panel.manufacturer) and panel.model in model
        if named and matrix == set(panel.matrix):
            return panel
    return None


def _aspect(header: Dataset) -> float:
    """Pixel Aspect Ratio: the height of a pixel in widths, 1 without the element."""
    if "PixelAspectRatio" not in header:
        return 1.0
    pair = pair_of(header, "PixelAspectRatio")
    aspect = pair[0] / pair[1] if pair else math.nan
    if not _ASPECTS[0] <= aspect <= _ASPECTS[1]:
        raise ImageError(
            f"{name_of('PixelAspectRatio')} is not two positive numbers whose ratio lies in "
            f"{_ASPECTS[0]:g} to {_ASPECTS[1]:g}, and the file has no spacing: export it again"
        )
    return aspect
