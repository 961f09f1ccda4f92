"""Phantoms: mammogram-like and chest-film-like images with lesions at known places, as DICOM.

They are for demonstrations and tests: lifelike enough that the mean and the standard deviation of
a patch don't reveal the lesions, but no more; figures measured on them don't apply to patients.
Arrays are (row, col); everything is drawn in millimetres and from one seed.
"""

import csv
import io
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian
from scipy import ndimage

from patchad.core.arrays import Floats
from patchad.core.image import Region
from patchad.errors import RequestError
from patchad.files.whole import write_whole
from patchad.lesions.noise import power_law_field
from patchad.lesions.recipes import PHANTOMS
from patchad.phantoms import anatomy
from patchad.phantoms.anatomy import sigmoid
from patchad.version import __version__

Side = Literal["L", "R"]

MAMMOGRAM_STORAGE = "1.2.840.10008.5.1.4.1.1.1.2"  # Digital Mammography X-Ray, For Presentation
X_RAY_STORAGE = "1.2.840.10008.5.1.4.1.1.1.1"  # Digital X-Ray, For Presentation
BREAST_LESIONS, CHEST_LESIONS = (
    tuple(kind for kind, recipe in PHANTOMS.items() if recipe.body_part == part)
    for part in ("breast", "chest")
)
MANIFEST_COLUMNS = ("path", "patient_id", "label", "split", "laterality", "view")
REGION_COLUMNS = ("path", "x", "y", "width", "height", "kind")
VIEWS = {  # SNOMED CT
    "MLO": ("399368009", "medio-lateral oblique"),
    "CC": ("399162004", "cranio-caudal"),
    "PA": ("399348003", "postero-anterior"),
}
ORIENTATIONS = {  # directions of rows and columns: anterior, posterior, left, right, feet
    "LMLO": ["A", "FR"],
    "RMLO": ["P", "FL"],
    "LCC": ["A", "R"],
    "RCC": ["P", "L"],
    "PA": ["L", "F"],
}
_OTHER: dict[Side, Side] = {"L": "R", "R": "L"}


@dataclass(frozen=True, eq=False)
class Phantom:
    """A synthetic image and its ground truth.

    ``pixels`` (H, W) float32 in [0, 1], brighter = denser; ``foreground`` (H, W) bool, the breast
    or the body without air, letters and collimator; ``spacing_mm`` (row, col); ``regions`` are the
    lesions. ``laterality`` is L or R for a breast, empty for a chest.
    """

    pixels: Floats
    foreground: NDArray[np.bool_]
    spacing_mm: tuple[float, float]
    regions: tuple[Region, ...]
    body_part: Literal["breast", "chest"]
    laterality: Literal["L", "R", ""]
    view: Literal["MLO", "CC", "PA"]

    def __post_init__(self) -> None:
        self.pixels.flags.writeable = self.foreground.flags.writeable = False


def mammogram(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (1024, 832),
    spacing_mm: float = 0.2,
    laterality: Side = "L",
    view: Literal["MLO", "CC"] = "MLO",
    density: float | None = None,
    lesions: tuple[str, ...] = (),
) -> Phantom:
    """A mammogram-like phantom.

    Fat with a 1/f³ texture, a fibroglandular disc with strands that run to the nipple, vessels,
    skin, on MLO the pectoral muscle; film noise, and air with a letter in it.

    Args:
        rng: source of all randomness.
        shape: (rows, columns). The breast fills it, whatever its size in millimetres.
        spacing_mm: pixel spacing in both directions.
        laterality: the left breast has its chest wall at the left edge, the right at the right.
        view: MLO or CC.
        density: share of fibroglandular tissue in [0, 1]; drawn if None.
        lesions: the kinds to insert: ``mass``, ``spiculated mass``, ``calcifications``.
    """
    _check_kinds(lesions, BREAST_LESIONS, "breast")
    spacing = (spacing_mm, spacing_mm)
    dense = rng.uniform(0.1, 0.9) if density is None else density
    y, x = (np.arange(n, dtype=np.float32) for n in shape)
    y = y[:, None]

    edge, (middle, reach) = anatomy.breast_outline(rng, shape, spacing_mm, view)
    foreground = x < edge[:, None]

    # Depth under the skin, and the thickness of the compressed breast: flat, then falling.
    depth = anatomy.enlarge(
        ndimage.distance_transform_edt(foreground[::4, ::4]) * 4 * spacing_mm, shape
    )
    falling = rng.uniform(0.16, 0.3) * reach * spacing_mm
    thickness = np.sqrt(1 - (1 - np.clip(depth / falling, 0, 1)) ** 2)

    # The fibroglandular disc: an ellipse behind the nipple, its border broken by slow waves.
    slow = power_law_field(rng, shape, spacing, slope=3.4, longest_mm=45)
    fine = power_law_field(rng, shape, spacing, slope=2.8, longest_mm=14)
    tilt = 0.45 if view == "MLO" else 0.0
    v, u = (y - middle) / (0.33 * shape[0]), (x - 0.52 * reach) / (0.46 * reach)
    radius = np.hypot(u + tilt * v, v + 0.15 * tilt)
    fat_layer = rng.uniform(4, 11)  # mm, between skin and gland
    strands, streaks = anatomy.strands(rng, shape, spacing_mm, (middle, reach))
    gland = sigmoid(5 * (0.45 + 0.6 * dense - radius) + 0.9 * slow + 0.7 * streaks)
    gland *= sigmoid((depth - fat_layer) / 1.5)
    tissue = gland * (0.3 + 0.7 * sigmoid(slow + 0.9 * streaks + 0.35 * fine + 3.5 * (dense - 0.4)))
    fat, glow = rng.uniform(0.3, 0.42), rng.uniform(0.26, 0.4)
    pixels = fat + glow * tissue + (0.008 + 0.014 * gland) * fine + 0.012 * slow
    pixels += strands * (0.05 + 0.05 * gland)
    pixels += 0.1 * anatomy.vessels(rng, shape, spacing_mm, (middle, reach))
    if view == "MLO":
        muscle = anatomy.pectoral_muscle(rng, shape, y, x, spacing_mm)
        level = rng.uniform(0.5, 0.68) + 0.012 * fine + 0.03 * slow
        pixels += muscle * (np.maximum(level - pixels, 0) + 0.25 * np.minimum(pixels - fat, 0.2))
    pixels *= 0.05 + 0.95 * thickness
    pixels += 0.04 * np.exp(-(((depth - 1.0) / 0.7) ** 2))
    pixels = np.where(foreground, pixels, 0.015).astype(np.float32)
    pixels = ndimage.gaussian_filter(pixels, 0.1 / spacing_mm + 0.2)

    inner = foreground & (x * spacing_mm > 8) & (depth > 12) & (radius < 1.25) & (thickness > 0.8)
    if view == "MLO":
        inner &= muscle < 0.05
    pixels, regions = anatomy.place_lesions(rng, pixels, foreground, inner, lesions, spacing)
    pixels = anatomy.film_grain(rng, pixels, 0.010)
    if laterality == "R":
        pixels, foreground = pixels[:, ::-1].copy(), foreground[:, ::-1].copy()
        regions = tuple(_mirrored(r, shape[1]) for r in regions)
    corner = (0.03, 0.97) if laterality == "L" else (0.03, 0.03)
    pixels, written = anatomy.write_letters(
        pixels, laterality + view, corner, sticker=bool(rng.random() < 0.4)
    )
    return Phantom(pixels, foreground & ~written, spacing, regions, "breast", laterality, view)


def chest(
    rng: np.random.Generator,
    *,
    shape: tuple[int, int] = (1024, 832),
    spacing_mm: float = 0.42,
    lesions: tuple[str, ...] = (),
) -> Phantom:
    """A chest-film-like phantom (PA): body, lungs, heart, spine, ribs, clavicles, vessels.

    Some have a collimated border. Arguments as for :func:`mammogram`; the kinds of ``lesions`` are
    ``nodule`` and ``consolidation``. The patient's left is at the right of the image.
    """
    _check_kinds(lesions, CHEST_LESIONS, "chest")
    spacing = (spacing_mm, spacing_mm)
    # u runs from -1 to 1 across the image, v from 0 to 1 down; the patient is a little askew.
    v, u = (np.arange(n, dtype=np.float32) / n for n in shape)
    v = v[:, None] + np.float32(rng.uniform(-0.03, 0.03))
    u = 2 * u - 1 + np.float32(rng.uniform(-0.05, 0.05)) + np.float32(rng.uniform(-0.06, 0.06)) * v
    u = u / np.float32(rng.uniform(0.9, 1.04))
    side = np.abs(u)
    parts = anatomy.thorax(rng, u, v)
    gap, body = parts.lung, side < parts.body
    air = np.clip(gap / 0.2, 0, 1) ** 0.5 * sigmoid(gap / 0.006)
    slow = power_law_field(rng, shape, spacing, slope=3.2, longest_mm=120)
    fine = power_law_field(rng, shape, spacing, slope=2.7, longest_mm=22)
    thick = np.sqrt(np.clip(1 - (side / (parts.body + 0.06)) ** 2, 0, 1))
    pixels = 0.3 + 0.32 * thick + 0.1 * v * thick + 0.02 * slow
    pixels += 0.16 * sigmoid((parts.mediastinum - side) / 0.02) * sigmoid((0.98 - v) / 0.1)
    pixels += 0.12 * sigmoid((v - parts.diaphragm) / 0.006) * (side < parts.cage + 0.02)
    pixels -= rng.uniform(0.3, 0.42) * air * (0.9 + 0.12 * slow)
    pixels += air * (0.026 * fine + 0.13 * anatomy.lung_vessels(rng, shape, u, v, spacing_mm))
    pixels += anatomy.bones(rng, u, v, parts.cage)
    if rng.random() < 0.5:  # the stomach's air bubble
        bubble = ((u - 0.42) / 0.16) ** 2 + ((v - parts.diaphragm - 0.1) / 0.045) ** 2
        pixels -= 0.1 * sigmoid((1 - bubble) / 0.15)
    contrast = rng.uniform(0.85, 1.15)
    pixels = np.clip(0.5 + contrast * (pixels - 0.5) + rng.uniform(-0.05, 0.05), 0.03, 0.97)
    pixels = np.where(body, pixels, rng.uniform(0.03, 0.08)).astype(np.float32)
    pixels = ndimage.gaussian_filter(pixels, 0.25 / spacing_mm)

    field = np.ones(shape, np.bool_)
    if rng.random() < 0.5:
        top, bottom, near, far = (int(n) for n in rng.uniform(0.01, 0.05, 4) * shape[0])
        field[:] = False
        field[top : shape[0] - bottom, near : shape[1] - far] = True
    foreground = body & field
    lung = foreground & (gap > 0.05)
    marked, regions = anatomy.place_lesions(
        rng, pixels, foreground & (gap > 0.02), lung, lesions, spacing
    )
    pixels = pixels + (marked - pixels) * np.clip(gap / 0.1, 0, 1)  # only air can grow dense
    pixels = np.where(field, anatomy.film_grain(rng, pixels, 0.012), np.float32(0.005))
    text = "L" if rng.random() < 0.6 else "L PORTABLE"
    pixels, written = anatomy.write_letters(pixels, text, (0.04, 0.93), sticker=False)
    return Phantom(pixels, foreground & ~written, spacing, regions, "chest", "", "PA")


def write_dicom(
    phantom: Phantom,
    path: Path,
    *,
    patient_id: str,
    instance: int = 1,
    seed: int = 0,
    monochrome1: bool = False,
) -> None:
    """Write a phantom as a 12-bit DICOM image, For Presentation, explicit VR little endian.

    A breast becomes a Digital Mammography X-Ray Image, a chest a Digital X-Ray Image. Pixel value
    0 is 0, 4095 is 1 (inverted for MONOCHROME1), and the window shows exactly that range. The file
    is the same, byte for byte, for the same phantom and arguments: dates are fixed, and the UIDs
    depend on ``seed``, ``patient_id``, the body part and ``instance``.

    Raises:
        OutputError: the file could not be written.
    """
    breast = phantom.body_part == "breast"
    root = f"{seed}/{phantom.body_part}/{patient_id}"
    data = Dataset()
    # SOP common, patient, study, series, equipment
    data.SOPClassUID = MAMMOGRAM_STORAGE if breast else X_RAY_STORAGE
    data.SOPInstanceUID = _uid(f"{root}/image {instance}")
    data.StudyInstanceUID, data.SeriesInstanceUID = _uid(f"{root}/study"), _uid(f"{root}/series")
    data.PatientName, data.PatientID = f"PHANTOM^{patient_id}", patient_id
    data.PatientBirthDate = data.PatientSex = data.ReferringPhysicianName = data.AccessionNumber = (
        ""
    )
    data.StudyDate = data.SeriesDate = data.AcquisitionDate = data.ContentDate = "20000101"
    data.StudyTime = data.SeriesTime = data.AcquisitionTime = data.ContentTime = "120000"
    data.StudyID, data.SeriesNumber, data.InstanceNumber = "1", 1, instance
    data.AcquisitionNumber = instance
    data.Modality = "MG" if breast else "DX"
    data.PresentationIntentType = "FOR PRESENTATION"
    data.Manufacturer = data.ManufacturerModelName = "patchad phantom"
    data.DeviceSerialNumber, data.SoftwareVersions = "0", __version__
    # The image and how it is shown
    data.ImageType = ["ORIGINAL", "PRIMARY", ""]
    data.ImageComments = "Computer-made phantom, not a patient"
    data.QualityControlImage = "YES"  # in DICOM's words: a quality control or phantom image
    data.BurnedInAnnotation, data.LossyImageCompression = "NO", "00"
    data.SamplesPerPixel = 1
    data.PhotometricInterpretation = "MONOCHROME1" if monochrome1 else "MONOCHROME2"
    data.PresentationLUTShape = "INVERSE" if monochrome1 else "IDENTITY"
    data.Rows, data.Columns = phantom.pixels.shape
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelIntensityRelationship = "LOG"
    data.PixelIntensityRelationshipSign = 1 if monochrome1 else -1
    data.RescaleIntercept, data.RescaleSlope, data.RescaleType = "0", "1", "US"
    data.WindowCenter, data.WindowWidth = "2048", "4096"
    stored = np.rint(phantom.pixels * 4095).astype("<u2")
    data.PixelData = (4095 - stored if monochrome1 else stored).tobytes()
    # The detector and the view
    spacing = [f"{s:.6g}" for s in phantom.spacing_mm]
    data.ImagerPixelSpacing = data.PixelSpacing = spacing
    data.DetectorType = "DIRECT"
    data.AcquisitionContextSequence = Sequence()
    data.BodyPartExamined = phantom.body_part.upper()
    data.ImageLaterality = phantom.laterality or "U"
    data.ViewPosition = phantom.view
    data.PatientOrientation = ORIENTATIONS[phantom.laterality + phantom.view]
    view = _code(*VIEWS[phantom.view])
    data.ViewCodeSequence = Sequence([view])
    if breast:
        view.ViewModifierCodeSequence = Sequence()
        data.AnatomicRegionSequence = Sequence([_code("76752008", "Breast")])
        data.PositionerType, data.OrganExposed = "MAMMOGRAPHIC", "BREAST"
        data.PartialView = data.BreastImplantPresent = "NO"
        data.EstimatedRadiographicMagnificationFactor = "1"
    else:
        data.AnatomicRegionSequence = Sequence([_code("51185008", "Chest")])
        data.PositionerType = "NONE"
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.ImplementationClassUID = _uid("patchad")
    data.file_meta.ImplementationVersionName = "PATCHAD"
    write_whole(path, lambda aside: data.save_as(aside, enforce_file_format=True))


def phantom_set(
    folder: Path,
    *,
    body_part: Literal["breast", "chest"] = "breast",
    train_patients: int = 16,
    test_patients: int = 24,
    shape: tuple[int, int] = (1024, 832),
    seed: int = 0,
) -> tuple[Path, Path]:
    """Write a study of phantoms: two DICOM images per patient, the manifest and the regions.

    A patient of the breast study has the MLO views of both breasts or both views of one, a patient
    of the chest study two films. Patients of the split ``train`` have no lesion; every other
    patient of ``test`` has a lesion, the kinds in turn: in both views of one breast, or else in one
    of the images.
    Every fifth patient is stored as MONOCHROME1. A smaller ``shape`` gives coarser pixels.

    Returns:
        The paths of ``manifest.csv`` and ``regions.csv``.

    Raises:
        OutputError: a file could not be written.
    """
    manifest: list[tuple[object, ...]] = [MANIFEST_COLUMNS]
    marked: list[tuple[object, ...]] = [REGION_COLUMNS]
    kinds = BREAST_LESIONS if body_part == "breast" else CHEST_LESIONS
    for patient in range(train_patients + test_patients):
        # One random stream per patient, so that more patients don't change the first ones.
        rng = np.random.default_rng([seed, patient, len(kinds)])
        name = f"P{patient + 1:04d}"
        turn = patient - train_patients
        ill = (kinds[turn // 2 % len(kinds)],) if turn >= 0 and turn % 2 == 0 else ()
        side: Side = "L" if rng.random() < 0.5 else "R"
        both_views = bool(rng.random() < 0.5)
        density = rng.uniform(0.1, 0.9)
        for instance in (1, 2):
            lesions = ill if instance == 1 or (body_part == "breast" and both_views) else ()
            if body_part == "breast":
                phantom = mammogram(
                    rng,
                    shape=shape,
                    spacing_mm=0.2 * 1024 / shape[0],
                    density=density,
                    laterality=side if both_views or instance == 1 else _OTHER[side],
                    view="CC" if both_views and instance == 2 else "MLO",
                    lesions=lesions,
                )
            else:
                phantom = chest(
                    rng, shape=shape, spacing_mm=0.42 * 1024 / shape[0], lesions=lesions
                )
            path = f"{name}/{instance}-{phantom.laterality}{phantom.view}.dcm"
            write_dicom(
                phantom,
                folder / path,
                patient_id=name,
                instance=instance,
                seed=seed,
                monochrome1=patient % 5 == 4,
            )
            manifest.append(
                (
                    path,
                    name,
                    "positive" if lesions else "negative",
                    "train" if turn < 0 else "test",
                    phantom.laterality,
                    phantom.view,
                )
            )
            marked += [(path, r.x, r.y, r.width, r.height, r.kind) for r in phantom.regions]
    paths = folder / "manifest.csv", folder / "regions.csv"
    for table, rows in zip(paths, (manifest, marked), strict=True):
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows)
        write_whole(table, text.getvalue())
    return paths


def _check_kinds(lesions: tuple[str, ...], known: tuple[str, ...], body_part: str) -> None:
    for kind in lesions:
        if kind not in known:
            raise RequestError(
                f"a {body_part} phantom has no lesion called {kind!r}: use {', '.join(known)}"
            )


def _mirrored(region: Region, columns: int) -> Region:
    mask = None if region.mask is None else region.mask[:, ::-1].copy()
    return Region(
        columns - region.x - region.width, region.y, region.width, region.height, region.kind, mask
    )


def _code(value: str, meaning: str) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = value, "SCT", meaning
    return code


def _uid(name: str) -> UID:
    """The UID of a name, always the same (2.25: derived from a UUID)."""
    return UID(f"2.25.{uuid.uuid5(uuid.NAMESPACE_URL, 'patchad/phantom/' + name).int}")
