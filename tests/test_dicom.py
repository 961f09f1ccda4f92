import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import GREY, RAMP, SECRETS, lut, write
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid
from pydicom.sequence import Sequence

from patchad.errors import ImageError, NotARadiographError
from patchad.read.dicom import read_dicom
from patchad.read.read import read_radiograph


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film.dcm"


# --- intensity -----------------------------------------------------------------------------------


def test_without_a_window_the_stored_bits_span_black_to_white(path):
    radiograph = read_dicom(write(path))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 4095, rtol=1e-6)
    assert radiograph.pixels.dtype == np.float32
    assert "VOI: none, the full range 0 to 4095" in radiograph.source.reading


def test_signed_pixels_span_their_own_range(path):
    stored = np.array([[-2048, -1, 0, 2047]], np.int16)
    radiograph = read_dicom(write(path, stored))
    np.testing.assert_allclose(radiograph.pixels, [[0, 2047 / 4095, 2048 / 4095, 1]], rtol=1e-6)


def test_the_bits_above_those_stored_do_not_count(path):
    radiograph = read_dicom(write(path, RAMP | 0xF000))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 4095, rtol=1e-6)


def test_linear_window_follows_the_standard_at_its_edges(path):
    # PS3.3 C.11.2.1.2.1 with c = 2048, w = 4096: black up to 0, white above 4095
    exact = read_dicom(write(path, WindowCenter=2048, WindowWidth=4096)).pixels
    np.testing.assert_allclose(exact, RAMP / 4095, rtol=1e-6)
    # c = 2, w = 3: black up to 2 - 0.5 - 1 = 0.5, white above 2.5, between them (x - 1.5) / 2 + 0.5
    narrow = read_dicom(write(path, WindowCenter=2, WindowWidth=3)).pixels
    np.testing.assert_allclose(narrow, [[0, 0.25, 0.75, 1], [1, 1, 1, 1]], atol=1e-6)


def test_linear_exact_window(path):
    # c = 2, w = 4: (x - 2) / 4 + 0.5, black up to 0, white from 4
    window = {"WindowCenter": 2, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    pixels = read_dicom(write(path, **window)).pixels
    np.testing.assert_allclose(pixels, [[0, 0.25, 0.5, 0.75], [1, 1, 1, 1]], atol=1e-6)


def test_sigmoid_window(path):
    window = {"WindowCenter": 2, "WindowWidth": 4, "VOILUTFunction": "SIGMOID"}
    radiograph = read_dicom(write(path, **window))
    expected = [1 / (1 + np.exp(2)), 1 / (1 + np.exp(1)), 0.5, 1 / (1 + np.exp(-1))]
    np.testing.assert_allclose(radiograph.pixels[0], expected, rtol=1e-6)
    np.testing.assert_array_equal(radiograph.pixels[1], 1)
    assert "VOI: the first window, centre 2, width 4, SIGMOID" in radiograph.source.reading


def test_the_first_of_several_windows_is_taken(path):
    pixels = read_dicom(write(path, WindowCenter=[2, 9], WindowWidth=[3, 9])).pixels
    np.testing.assert_allclose(pixels[0], [0, 0.25, 0.75, 1], atol=1e-6)


def test_a_window_is_in_the_unit_of_the_rescaled_values(path):
    # x · 2 - 10 = 2 at x = 6, half of the window there
    stored = np.array([[5, 6, 7]], np.uint16)
    rescale = {"RescaleSlope": 2, "RescaleIntercept": -10}
    window = {"WindowCenter": 2, "WindowWidth": 8, "VOILUTFunction": "LINEAR_EXACT"}
    radiograph = read_dicom(write(path, stored, **rescale, **window))
    np.testing.assert_allclose(radiograph.pixels, [[0.25, 0.5, 0.75]], atol=1e-6)
    assert "rescaled: slope 2, intercept -10" in radiograph.source.reading


def test_a_negative_slope_turns_the_image_over(path):
    pixels = read_dicom(write(path, RescaleSlope=-1, RescaleIntercept=4095)).pixels
    np.testing.assert_allclose(pixels, 1 - RAMP / 4095, atol=1e-6)
    window = {"WindowCenter": 4094, "WindowWidth": 4, "VOILUTFunction": "LINEAR_EXACT"}
    pixels = read_dicom(write(path, RescaleSlope=-1, RescaleIntercept=4095, **window)).pixels
    np.testing.assert_allclose(pixels[0], [0.75, 0.5, 0.25, 0], atol=1e-6)


@pytest.mark.parametrize(
    ("window", "reason"),
    [
        ({"WindowCenter": 2048, "WindowWidth": 0}, "a width of 0 leaves no grey"),
        ({"WindowCenter": 2048, "WindowWidth": 1}, "a width of 1 leaves no grey"),
        ({"WindowCenter": "", "WindowWidth": ""}, "missing or no number"),
        ({"WindowWidth": 4096}, "missing or no number"),
        ({"WindowCenter": 9000, "WindowWidth": 100}, "shows nothing of 0 to 4095"),
        (
            {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTFunction": "CUBIC"},
            "its function is unknown",
        ),
    ],
)
def test_an_unusable_window_falls_back_to_the_full_range_and_says_so(path, window, reason):
    radiograph = read_dicom(write(path, **window))
    np.testing.assert_allclose(radiograph.pixels, RAMP / 4095, rtol=1e-6)
    notes = " | ".join(radiograph.source.reading)
    assert f"window not used: {reason}" in notes or reason in notes
    assert "the full range 0 to 4095" in notes


def test_monochrome1_is_turned_over_once_after_the_window(path):
    pixels = read_dicom(
        write(path, PhotometricInterpretation="MONOCHROME1", WindowCenter=2, WindowWidth=3)
    ).pixels
    np.testing.assert_allclose(pixels[0], [1, 0.75, 0.25, 0], atol=1e-6)
    pixels = read_dicom(
        write(path, PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    ).pixels
    np.testing.assert_allclose(pixels, 1 - RAMP / 4095, atol=1e-6)


def test_the_first_voi_lut_goes_before_the_window(path):
    # entries for 1, 2, 3; below and above the ends repeat; 8 bits make 255 white
    table = lut(1, 8, [0, 51, 255])
    table.append(lut(0, 8, [9, 9])[0])
    radiograph = read_dicom(write(path, VOILUTSequence=table, WindowCenter=2, WindowWidth=3))
    np.testing.assert_allclose(radiograph.pixels, [[0, 0, 0.2, 1], [1, 1, 1, 1]], atol=1e-6)
    assert "VOI: the first LUT, 8 bits" in radiograph.source.reading


def test_a_lut_with_more_entries_than_its_bits_can_count(path):
    # where pydicom's own apply_voi wraps around at 256
    table = lut(0, 8, [min(value // 16, 255) for value in range(4096)])
    pixels = read_dicom(write(path, VOILUTSequence=table)).pixels
    np.testing.assert_allclose(pixels, RAMP // 16 / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (lut(0, 8, [1, 2], entries=5), "has 2 of 5 entries"),
        (lut(0, 8, [1, 300]), "has entries up to 300"),
        (lut(0, 99, [1, 2]), "has 2 of 2 entries, of 99 bits"),
        (Sequence([]), "is empty or damaged"),
    ],
)
def test_a_damaged_voi_lut_gives_way_to_the_window(path, table, reason):
    radiograph = read_dicom(write(path, VOILUTSequence=table, WindowCenter=2, WindowWidth=3))
    np.testing.assert_allclose(radiograph.pixels[0], [0, 0.25, 0.75, 1], atol=1e-6)
    assert any(f"VOI LUT not used: it {reason}" in note for note in radiograph.source.reading)


def test_modality_lut_comes_first_and_its_bits_are_the_range(path):
    # 0..3 → 0, 100, 200, 400, above that the last; 10 bits make 1023 white
    table = lut(0, 10, [0, 100, 200, 400])
    radiograph = read_dicom(write(path, ModalityLUTSequence=table))
    np.testing.assert_allclose(radiograph.pixels[0] * 1023, [0, 100, 200, 400], rtol=1e-5)
    np.testing.assert_allclose(radiograph.pixels[1] * 1023, 400, rtol=1e-5)
    window = {"WindowCenter": 200, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}
    pixels = read_dicom(write(path, ModalityLUTSequence=table, **window)).pixels
    np.testing.assert_allclose(pixels[0], [0, 0.25, 0.5, 1], atol=1e-6)


def test_a_damaged_modality_lut_is_an_error(path):
    write(path, ModalityLUTSequence=lut(0, 10, [1, 2], entries=9))
    with pytest.raises(ImageError, match=r"Modality LUT Sequence .*has 2 of 9 entries"):
        read_dicom(path)


@pytest.mark.parametrize("rescale", [{"RescaleSlope": 0}, {"RescaleSlope": 1e308}])
def test_a_meaningless_slope_is_an_error(path, rescale):
    write(path, RescaleIntercept=0, **rescale)
    with pytest.raises(ImageError, match=r"Rescale Slope .*must be a number other than 0"):
        read_dicom(path)


# --- spacing -------------------------------------------------------------------------------------

FACTOR = "EstimatedRadiographicMagnificationFactor"


@pytest.mark.parametrize(
    ("modality", "elements", "expected"),
    [
        ("MG", {"ImagerPixelSpacing": [0.1, 0.2], FACTOR: 2}, (0.05, 0.1)),
        (
            "MG",
            {"ImagerPixelSpacing": [0.1, 0.2], FACTOR: 2, "PixelSpacing": [9, 9]},
            (0.05, 0.1),
        ),
        ("MG", {"ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ("MG", {"PixelSpacing": [0.3, 0.4]}, (0.3, 0.4)),
        ("MG", {"ImagerPixelSpacing": [0.1, 0.2], FACTOR: 0}, (0.1, 0.2)),
        (
            "DX",
            {"ImagerPixelSpacing": [0.1, 0.2], FACTOR: 2, "PixelSpacing": [0.3, 0.4]},
            (0.3, 0.4),
        ),
        ("DX", {"ImagerPixelSpacing": [0.1, 0.2], FACTOR: 2}, (0.05, 0.1)),
        ("DX", {"ImagerPixelSpacing": [0.1, 0.2]}, (0.1, 0.2)),
        ("DX", {"PixelSpacing": [0, 0]}, None),
        ("DX", {"PixelSpacing": [0.3]}, None),
        ("DX", {}, None),
    ],
)
def test_spacing_is_that_in_the_plane_of_the_patient(path, modality, elements, expected):
    radiograph = read_dicom(write(path, Modality=modality, **elements))
    assert radiograph.spacing_mm == (None if expected is None else pytest.approx(expected))
    assert any(note.startswith("spacing: ") for note in radiograph.source.reading)


def test_the_spacing_of_the_file_goes_before_the_given_one(path):
    given = (1.0, 2.0)
    own = read_dicom(write(path, PixelSpacing=[0.3, 0.4]), given)
    assert own.spacing_mm == (0.3, 0.4)
    assert "spacing: the user's value was not used, the file has its own" in own.source.reading
    assert read_dicom(write(path), given).spacing_mm == given


# --- the rest of what is read --------------------------------------------------------------------


def test_source_holds_what_the_file_says_and_the_digest(path):
    write(path, ImageLaterality="R", Laterality="L", ViewPosition="MLO")
    radiograph = read_dicom(path)
    source = radiograph.source
    assert source.path == str(path)
    assert source.sop_class_uid == uid.DigitalMammographyXRayImageStorageForPresentation
    uids = source.sop_instance_uid, source.study_instance_uid, source.series_instance_uid
    assert uids == ("1.2.3", "1.2.4", "1.2.5")
    assert (source.modality, source.laterality, source.view) == ("MG", "R", "MLO")
    expected = sha256("2×4".encode() + radiograph.pixels.astype("<f4").tobytes()).hexdigest()
    assert source.digest == expected


def test_laterality_of_the_series_stands_in_and_odd_ones_are_left_out(path):
    assert read_dicom(write(path, Laterality="L")).source.laterality == "L"
    assert read_dicom(write(path, ImageLaterality="U")).source.laterality == ""


def test_for_processing_is_read_and_noted(path):
    write(path, SOPClassUID=uid.DigitalMammographyXRayImageStorageForProcessing)
    assert any("For Processing" in note for note in read_dicom(path).source.reading)


def test_neither_results_nor_warnings_nor_logs_hold_the_patient(path, caplog):
    with pytest.warns(UserWarning, match="exceeds the maximum length"):
        write(path, PixelData=RAMP.tobytes() + b"\0" * 6, ViewPosition="LONGER THAN IS ALLOWED")
    caplog.clear()  # what writing such a file said
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        source = read_dicom(path).source
    assert caught == []
    assert caplog.text == ""
    assert source.sop_instance_uid == "1.2.3"
    assert not any(secret in repr(source) for secret in SECRETS)


def test_threads_share_the_warning_filters_and_put_them_back(path):
    write(path, PixelData=RAMP.tobytes() + b"\0" * 6)
    before = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        images = list(pool.map(read_dicom, [path] * 32))
    assert {image.source.digest for image in images} == {images[0].source.digest}
    assert warnings.filters == before
    assert logging.getLogger("pydicom").propagate


# --- transfer syntaxes ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("syntax", "encode"),
    [
        (uid.JPEGLossless, imagecodecs.ljpeg_encode),
        (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode),
        (uid.JPEG2000Lossless, lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0)),
        (uid.HTJ2KLossless, imagecodecs.htj2k_encode),
    ],
    ids=lambda value: getattr(value, "keyword", ""),
)
def test_lossless_syntaxes_give_the_stored_values(path, syntax, encode):
    radiograph = read_dicom(write(path, GREY, syntax=syntax, frame=bytes(encode(GREY))))
    np.testing.assert_allclose(radiograph.pixels, GREY / 4095, rtol=1e-6)


def test_extended_jpeg_keeps_twelve_bits(path):
    grey = np.full((16, 16), 2050, np.uint16)
    frame = imagecodecs.jpeg8_encode(grey, level=100, bitspersample=12)
    radiograph = read_dicom(write(path, grey, syntax=uid.JPEGExtended12Bit, frame=frame))
    np.testing.assert_allclose(radiograph.pixels, 2050 / 4095, atol=1.5 / 4095)


def test_baseline_jpeg(path):
    grey = np.full((16, 16), 100, np.uint8)
    frame = imagecodecs.jpeg8_encode(grey, level=100)
    radiograph = read_dicom(write(path, grey, syntax=uid.JPEGBaseline8Bit, frame=frame))
    np.testing.assert_allclose(radiograph.pixels, 100 / 255, atol=1.5 / 255)


@pytest.mark.parametrize(
    "encode", [imagecodecs.jpegls_encode, imagecodecs.ljpeg_encode], ids=["JPEG-LS", "lossless"]
)
def test_signed_values_survive_codecs_without_signs(path, encode):
    stored = np.array([[-2048, -5], [0, 2047]] * 8, np.int16)
    frame = bytes(encode((stored & 0xFFF).astype(np.uint16)))
    syntax = uid.JPEGLSLossless if encode is imagecodecs.jpegls_encode else uid.JPEGLossless
    pixels = read_dicom(write(path, stored, syntax=syntax, frame=frame)).pixels
    np.testing.assert_allclose(pixels, (stored + 2048.0) / 4095, rtol=1e-6)


@pytest.mark.parametrize("kind", [np.int16, np.uint16])
def test_signs_in_jpeg_2000(path, kind):
    stored = np.array([[0, 5], [100, 2047]] * 8, kind) - kind(5 if kind is np.int16 else 0)
    frame = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", level=0, bitspersample=12)
    pixels = read_dicom(write(path, stored, syntax=uid.JPEG2000Lossless, frame=frame)).pixels
    offset = 2048.0 if kind is np.int16 else 0.0
    np.testing.assert_allclose(pixels, (stored + offset) / 4095, rtol=1e-6)


@pytest.mark.parametrize(
    "syntax",
    [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian, uid.DeflatedExplicitVRLittleEndian],
    ids=lambda value: value.keyword,
)
def test_native_syntaxes(path, syntax):
    np.testing.assert_allclose(
        read_dicom(write(path, syntax=syntax)).pixels, RAMP / 4095, rtol=1e-6
    )


def test_rle(path):
    ds = pydicom.dcmread(write(path, GREY))
    ds.compress(uid.RLELossless)
    ds.save_as(path)
    np.testing.assert_allclose(read_dicom(path).pixels, GREY / 4095, rtol=1e-6)


@pytest.mark.parametrize("implicit", [True, False])
def test_a_file_without_its_preamble_and_meta_information(path, implicit):
    ds = pydicom.dcmread(write(path))
    del ds.file_meta
    ds.preamble = None
    ds.save_as(path, implicit_vr=implicit, little_endian=True, enforce_file_format=False)
    assert path.read_bytes()[128:132] != b"DICM"
    np.testing.assert_allclose(read_radiograph(path).pixels, RAMP / 4095, rtol=1e-6)


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"SOPClassUID": uid.CTImageStorage, "Modality": "CT"}, "CT Image Storage, modality CT"),
        ({"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "US"}, "modality US"),
        ({"SOPClassUID": uid.SegmentationStorage, "Modality": "SEG"}, "modality SEG"),
        ({"SOPClassUID": uid.BasicTextSRStorage, "Modality": "SR"}, "modality SR"),
        ({"Modality": "OT"}, "modality OT"),
        ({"SOPClassUID": "", "Modality": "OT"}, "without SOP class, modality OT"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "a PALETTE COLOR image"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "a RGB image"),
        ({"BitsStored": 1, "HighBit": 0}, "1 bit"),
    ],
)
def test_what_is_not_a_radiograph_is_refused_by_name(path, elements, message):
    if elements.get("SOPClassUID") == "":
        write(path, **{**elements, "SOPClassUID": uid.CTImageStorage})
        ds = pydicom.dcmread(path)
        del ds.SOPClassUID, ds.file_meta.MediaStorageSOPClassUID
        ds.save_as(path, enforce_file_format=False)
    else:
        write(path, **elements)
    with pytest.raises(NotARadiographError, match=message):
        read_dicom(path)


@pytest.mark.parametrize(
    "elements",
    [
        {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "OT"},
        {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": ""},
        {"SOPClassUID": uid.SecondaryCaptureImageStorage, "Modality": "MG"},
        {"SOPClassUID": uid.ComputedRadiographyImageStorage, "Modality": "CR"},
        {"SOPClassUID": uid.DigitalXRayImageStorageForPresentation, "Modality": ""},
        {"SOPClassUID": uid.XRayAngiographicImageStorage, "Modality": "XA"},
        {"NumberOfFrames": 1},
    ],
)
def test_what_is_taken_for_a_radiograph(path, elements):
    np.testing.assert_allclose(read_dicom(write(path, **elements)).pixels, RAMP / 4095, rtol=1e-6)


@pytest.mark.parametrize(
    "keyword",
    ["Rows", "Columns", "BitsStored", "BitsAllocated", "PixelRepresentation"],
)
def test_a_missing_element_is_named(path, keyword):
    ds = pydicom.dcmread(write(path))
    del ds[keyword]
    ds.save_as(path, enforce_file_format=False)
    description = pydicom.datadict.dictionary_description(keyword)
    with pytest.raises(ImageError, match=rf"{description} \(0028,\d+\) is missing") as caught:
        read_dicom(path)
    assert not isinstance(caught.value, NotARadiographError)


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        ("PhotometricInterpretation", r"Photometric Interpretation \(0028,0004\) is missing"),
        ("PixelData", r"Pixel Data \(7FE0,0010\) is missing"),
    ],
)
def test_missing_photometry_and_pixels(path, drop, message):
    write(path, drop=[drop])
    with pytest.raises(ImageError, match=message):
        read_dicom(path)


def test_float_pixels_are_refused(path):
    write(path, drop=["PixelData"], FloatPixelData=np.full(8, np.nan, np.float32).tobytes())
    with pytest.raises(ImageError, match="stores floats"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("elements", "message"),
    [
        ({"HighBit": 15}, r"High Bit \(0028,0102\) is 15, must be 11"),
        ({"BitsStored": 17, "HighBit": 16}, "17 bits stored in 16"),
        ({"Rows": 0}, "no pixels"),
        ({"Rows": 65535, "Columns": 65535}, "65535 × 65535 pixels, more than"),
        ({"Rows": 3}, r"Pixel Data \(7FE0,0010\) cannot be decoded as Explicit VR Little Endian"),
    ],
)
def test_a_header_that_cannot_be_is_an_error(path, elements, message):
    write(path, **elements)
    with pytest.raises(ImageError, match=message):
        read_dicom(path)


def test_more_pixels_than_the_cap_are_refused_before_they_are_read(path):
    with pytest.raises(ImageError, match="2 × 4 pixels, more than the 7"):
        read_dicom(write(path), max_pixels=7)


def test_a_transfer_syntax_without_decoder_is_named(path):
    write(path, syntax=uid.MPEG2MPML, frame=b"\0" * 16)
    with pytest.raises(ImageError, match="MPEG2 Main Profile / Main Level is not decoded here"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("syntax", "frame"),
    [
        (uid.JPEGExtended12Bit, imagecodecs.jpeg8_encode(GREY, bitspersample=12)),
        (uid.JPEGLosslessSV1, imagecodecs.ljpeg_encode(GREY)),
        (uid.JPEGLSLossless, imagecodecs.jpegls_encode(GREY)),
        (uid.JPEG2000Lossless, imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", level=0)),
        (uid.HTJ2KLossless, imagecodecs.htj2k_encode(GREY)),
    ],
    ids=lambda value: getattr(value, "keyword", ""),
)
def test_a_stream_that_is_cut_off_or_of_another_size(path, syntax, frame):
    frame = bytes(frame)
    for cut in (len(frame) // 2, 12):
        write(path, GREY, syntax=syntax, frame=frame[:cut])
        with pytest.raises(ImageError, match="Pixel Data"):
            read_dicom(path)
    write(path, GREY.T, syntax=syntax, frame=frame)  # as many pixels, rows and columns swapped
    with pytest.raises(ImageError, match="it has 32 × 24 pixels, not 24 × 32"):
        read_dicom(path)
    write(path, GREY, syntax=syntax, frame=frame, BitsStored=8)
    with pytest.raises(ImageError, match=r"values up to .* 8 bits"):
        read_dicom(path)


def test_damage_that_the_decoder_of_htj2k_notices_is_an_error(path):
    # imagecodecs.htj2k_decode would print its error and return an array all the same
    grey = np.random.default_rng(0).integers(0, 4096, (200, 150)).astype(np.uint16)
    whole = bytes(imagecodecs.htj2k_encode(grey))
    body = whole.index(b"\xff\x93") + 2  # after the marker that starts the data
    frame = whole[: body + 40] + bytes(40) + whole[body + 80 : -2000] + whole[-2:]
    write(path, grey, syntax=uid.HTJ2KLossless, frame=frame)
    with pytest.raises(ImageError, match="the JPEG 2000 image is damaged"):
        read_dicom(path)


def test_a_file_cut_anywhere_is_an_error_or_whole(path):
    whole = write(path).read_bytes()
    for end in range(0, len(whole) - 1, 13):
        path.write_bytes(whole[:end])
        with pytest.raises(ImageError):
            read_radiograph(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        read_dicom(tmp_path / "none.dcm")


@settings(max_examples=150)
@given(st.data())
def test_bytes_changed_anywhere_give_an_image_or_an_image_error(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "changed.dcm"
    window = {"WindowCenter": 2048, "WindowWidth": 4096, "VOILUTSequence": lut(0, 8, [1, 2])}
    if not path.exists():
        write(path.with_suffix(".whole"), RescaleSlope=1, RescaleIntercept=0, **window)
    content = bytearray(path.with_suffix(".whole").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(132, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        said = repr(read_radiograph(path).source)
    except ImageError as error:
        said = str(error)
    assert not any(secret in said for secret in SECRETS)


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.real
def test_every_file_of_pydicom_data_is_read_or_refused(real_data):
    read, refused = {}, {}
    for path in sorted((real_data / "pydicom-data").iterdir()):
        try:
            read[path.name] = read_radiograph(path)
        except ImageError as error:
            refused[path.name] = str(error)
    assert len(refused) == 72
    assert set(read) == {
        "JLSL_08_07_0_1F.dcm",
        "JLSL_16_15_1_1F.dcm",
        "RG1_J2KI.dcm",
        "RG3_J2KI.dcm",
        "RG3_J2KR.dcm",
        "mlut_18.dcm",
        "vlut_04.dcm",
    }
    lossless = read["RG3_J2KR.dcm"]
    assert lossless.shape == (1760, 1760)
    assert "MONOCHROME1: inverted" in lossless.source.reading
    # the lossy twin of the same film differs by less than a grey level of ten bits on average
    assert np.abs(lossless.pixels - read["RG3_J2KI.dcm"].pixels).mean() < 1 / 1023
