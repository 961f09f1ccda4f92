import pytest
from pydicom import Dataset

from patchad.errors import ImageError
from patchad.read.dicom_spacing import Scale, scale_of

FACTOR = "EstimatedRadiographicMagnificationFactor"


def scale(modality="MG", given=None, **elements):
    header = Dataset()
    header.Rows, header.Columns = 400, 300
    for keyword, value in elements.items():
        setattr(header, keyword, value)
    notes = []
    found = scale_of(header, modality, given, notes)
    (first, *_) = (note for note in notes if note.startswith("spacing: "))
    return found, first


@pytest.mark.parametrize(
    ("elements", "expected", "note"),
    [
        ({"NominalScannedPixelSpacing": [0.05, 0.06]}, (0.05, 0.06), "Nominal Scanned"),
        ({"DetectorElementSpacing": [0.07, 0.07]}, (0.07, 0.07), "Detector Element Spacing"),
        (
            {"DetectorElementSpacing": [0.07, 0.07], "DetectorBinning": [2, 2], FACTOR: 1.4},
            (0.1, 0.1),
            "Detector Element Spacing, divided by the magnification 1.4",
        ),
        (
            {"FieldOfViewShape": "RECTANGLE", "FieldOfViewDimensions": [40, 30]},
            (0.1, 0.1),
            "Field of View Dimensions",
        ),
        # Which of the two comes first is read in both ways: the pixels have to come out square.
        ({"FieldOfViewDimensions": [30, 40]}, (0.1, 0.1), "Field of View Dimensions"),
        (
            {"DetectorActiveShape": "RECTANGLE", "DetectorActiveDimensions": [30, 40]},
            (0.1, 0.1),
            "Detector Active Dimensions",
        ),
        # What is said of the picture goes before what is said of the detector.
        (
            {"FieldOfViewDimensions": [40, 30], "DetectorElementSpacing": [0.05, 0.05]},
            (0.1, 0.1),
            "Field of View Dimensions",
        ),
        # A spacing in micrometres, or of metres, is none.
        ({"ImagerPixelSpacing": [70, 70], "PixelSpacing": [0.07, 0.07]}, (0.07, 0.07), "Pixel Sp"),
        (
            {"PixelSpacing": [1000, 1000], "NominalScannedPixelSpacing": [0.1, 0.1]},
            (0.1, 0.1),
            "Nominal",
        ),
    ],
)
def test_what_says_the_spacing(elements, expected, note):
    found, first = scale(**elements)
    assert found.spacing_mm == pytest.approx(expected)
    assert (found.aspect, found.cautions) == (1.0, ())
    assert first.startswith(f"spacing: {note}")


@pytest.mark.parametrize(
    "elements",
    [
        {"PixelSpacing": [1000, 1000]},
        {"ImagerPixelSpacing": [0.0001, 0.0001]},
        {"FieldOfViewDimensions": [40, 40]},  # pixels would be oblong
        {"FieldOfViewDimensions": 40},
        {"FieldOfViewShape": "ROUND", "FieldOfViewDimensions": [40, 30]},
        {"DetectorElementSpacing": [0.05, 0.05], "DetectorBinning": [0, 2]},
        # The detector is twice as large as the image: cropped, or scaled?
        {"DetectorElementSpacing": [0.05, 0.05], "DetectorActiveDimensions": [40, 30]},
    ],
)
def test_what_does_not_say_it(elements):
    found, first = scale(**elements)
    assert found == Scale(None)
    assert first == "spacing: unknown, that of the file is unusable"
    given, note = scale(given=(0.2, 0.2), **elements)
    assert given == Scale((0.2, 0.2))
    assert note == "spacing: given by the user, that of the file is unusable"


SELENIA = {
    "Manufacturer": "HOLOGIC, Inc.", "ManufacturerModelName": "Selenia Dimensions",
    "Rows": 3328, "Columns": 4096,
}  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({}, 0.07),
        ({FACTOR: 1.4}, 0.05),
        ({"Rows": 4096, "Columns": 3328}, 0.07),
        ({"Rows": 4000}, None),  # scaled or cropped
        ({"Manufacturer": "Doe^Jane"}, None),
        ({"ManufacturerModelName": "Lorad M-IV"}, None),
        (
            {
                "Manufacturer": "GE MEDICAL SYSTEMS",
                "ManufacturerModelName": "Senographe DS ADS_43.10",
                "Rows": 2294,
                "Columns": 1914,
            },
            0.1,
        ),
    ],
)
def test_a_known_panel_says_it_by_its_matrix(changed, expected):
    found, note = scale(**{**SELENIA, **changed})
    assert found.spacing_mm == (None if expected is None else pytest.approx((expected,) * 2))
    assert ("the pitch of the panel" in note) == (expected is not None)
    assert "Doe" not in note


def test_the_user_goes_before_the_panel_and_the_header_before_the_user():
    assert scale(given=(0.2, 0.2), **SELENIA)[0] == Scale((0.2, 0.2))
    stated = scale(given=(0.2, 0.2), DetectorElementSpacing=[0.1, 0.1], **SELENIA)[0]
    assert stated == Scale((0.1, 0.1))


def test_an_aspect_without_spacing_is_kept():
    found, note = scale(PixelAspectRatio=[2, 1])
    assert found == Scale(None, 2.0)
    assert note == "spacing: unknown, the file has none, Pixel Aspect Ratio 2"
    assert scale(PixelAspectRatio=[1, 1])[0] == Scale(None)
    assert scale(PixelAspectRatio=[2, 1], PixelSpacing=[0.3, 0.3])[0] == Scale((0.3, 0.3))


def test_a_spacing_that_denies_the_aspect_is_cautioned():
    (caution,) = scale(given=(0.2, 0.2), PixelAspectRatio=[2, 1])[0].cautions
    assert caution == (
        "the spacing given, 0.2 × 0.2 mm, contradicts Pixel Aspect Ratio, by which a pixel is "
        "2 times as high as wide"
    )
    assert scale(given=(0.4, 0.2), PixelAspectRatio=[2, 1])[0] == Scale((0.4, 0.2))


@pytest.mark.parametrize("ratio", [[0, 1], [1, 0], [-1, 1], [1000, 1], [1, 1000], 3, [1, 1, 1]])
def test_an_aspect_of_nonsense_is_refused_where_nothing_else_says_the_geometry(ratio):
    with pytest.raises(ImageError, match=r"Pixel Aspect Ratio \(0028,0034\) is not two positive"):
        scale(PixelAspectRatio=ratio)
    assert scale(PixelAspectRatio=ratio, PixelSpacing=[0.3, 0.3])[0] == Scale((0.3, 0.3))
