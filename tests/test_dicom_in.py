"""What a PACS may send: flags, frames, choices, bombs, frames in another syntax than declared."""

import struct
import time
import tracemalloc
import zlib
from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from dicom_files import GREY, RAMP, lut, write
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence
from pydicom.sr.codedict import codes

from patchad.commands.inspect import inspect
from patchad.errors import ImageError, NotARadiographError
from patchad.prepare.frames import every_frame
from patchad.read.dicom import _MODIFIERS, read_dicom
from patchad.read.read import find_images, read_radiograph

LUT_AND_WINDOW = {
    "VOILUTSequence": lut(0, 8, [0, 51, 255]),
    "WindowCenter": 2,
    "WindowWidth": 3,
}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "film.dcm"


# --- choices -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("voi", "first", "note"),
    [
        ("auto", [0, 0.2, 1, 1], "VOI: the first LUT, 8 bits"),
        ("lut", [0, 0.2, 1, 1], "VOI: the first LUT, 8 bits"),
        ("window", [0, 0.25, 0.75, 1], "VOI: the first window, centre 2, width 3, LINEAR"),
        ("full", [0, 1 / 4095, 2 / 4095, 3 / 4095], "VOI: none, the full range 0 to 4095"),
    ],
)
def test_what_scales_the_grey_can_be_chosen(path, voi, first, note):
    radiograph = read_dicom(write(path, **LUT_AND_WINDOW), voi=voi)
    np.testing.assert_allclose(radiograph.pixels[0], first, atol=1e-6)
    assert note in radiograph.source.reading


def test_a_choice_that_the_file_lacks_is_the_full_range_and_said(path):
    radiograph = read_dicom(write(path, WindowCenter=2, WindowWidth=3), voi="lut")
    np.testing.assert_allclose(radiograph.pixels, RAMP / 4095, rtol=1e-6)
    assert "VOI: lut was requested" in radiograph.source.reading


@pytest.mark.parametrize("keyword", ["RescaleSlope", "RescaleIntercept"])
@pytest.mark.parametrize("value", [None, "one"])
def test_an_empty_slope_and_one_of_text_name_their_tags(path, keyword, value):
    write(path, RescaleSlope=1, RescaleIntercept=0)
    ds = pydicom.dcmread(path)
    ds[keyword] = pydicom.DataElement(ds[keyword].tag, "LO", value)
    ds.save_as(path)
    with pytest.raises(ImageError, match=r"Rescale Slope \(0028,1053\) must be a number"):
        read_dicom(path)


# --- flags ---------------------------------------------------------------------------------------


def view(*modifiers):
    """A View Code Sequence with modifiers of these codes."""
    item = Dataset()
    item.ViewModifierCodeSequence = Sequence()
    for code in modifiers:
        modifier = Dataset()
        modifier.CodeValue, modifier.CodeMeaning = code, "Doe^Jane"
        item.ViewModifierCodeSequence.append(modifier)
    return {"ViewCodeSequence": Sequence([item])}


@pytest.mark.parametrize(
    ("elements", "cautions"),
    [
        ({}, ()),
        ({"BreastImplantPresent": "YES"}, ("breast implant",)),
        ({"BreastImplantPresent": "NO", "BurnedInAnnotation": "NO"}, ()),
        (view("399055006"), ("spot compression view",)),
        (view("R-102D6", "R-102D5"), ("magnified view", "implant displaced view")),
        (view("399161006"), ()),
        ({"EstimatedRadiographicMagnificationFactor": 1.8}, ("magnified view",)),
        ({"EstimatedRadiographicMagnificationFactor": 1.07}, ()),
        ({"PartialView": "YES"}, ("partial view",)),
    ],
)
def test_what_a_reader_of_the_result_must_know(path, elements, cautions):
    assert read_dicom(write(path, **elements)).source.cautions == cautions


def test_burned_in_annotation_is_flagged(path):
    (caution,) = read_dicom(write(path, BurnedInAnnotation="YES")).source.cautions
    assert caution.startswith("annotation burned in")
    assert inspect(path, body_part="chest")["cautions"] == (caution,)


def test_the_codes_are_those_of_the_standard():
    for name, said in (
        ("SpotCompression", "spot compression view"),
        ("Magnification", "magnified view"),
        ("ImplantDisplaced", "implant displaced view"),
    ):
        assert _MODIFIERS[getattr(codes.cid4015, name).value] == said


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ({}, False),
        ({"SOPClassUID": uid.DigitalXRayImageStorageForProcessing}, True),
        ({"PresentationIntentType": "FOR PROCESSING"}, True),
        ({"SOPClassUID": uid.ComputedRadiographyImageStorage}, None),
    ],
)
def test_raw_detector_values_are_told_from_finished_images(path, elements, expected):
    assert read_dicom(write(path, **elements)).source.for_processing is expected


# --- frames --------------------------------------------------------------------------------------


def test_each_frame_can_be_read_where_it_is_asked_for(path):
    stored = np.concatenate([RAMP, RAMP[::-1], RAMP // 2])
    write(path, stored, NumberOfFrames=3, Rows=2)
    with pytest.raises(NotARadiographError, match=r"3 frames.*--frames all"):
        read_dicom(path)
    for number, expected in enumerate((RAMP, RAMP[::-1], RAMP // 2), start=1):
        radiograph = read_dicom(path, frame=number)
        np.testing.assert_allclose(radiograph.pixels, expected / 4095, rtol=1e-6)
        assert f"frame {number} of 3" in radiograph.source.reading
    with pytest.raises(ImageError, match="there is no frame 4, the image has 3"):
        read_dicom(path, frame=4)
    (row,) = find_images([path])
    assert [frame.frame for frame in every_frame([row])] == [1, 2, 3]


def test_a_compressed_frame_of_several(path):
    frames = [bytes(imagecodecs.jpegls_encode(grey)) for grey in (GREY, GREY[::-1].copy())]
    write(path, GREY, syntax=uid.JPEGLSLossless, frame=frames[0], NumberOfFrames=2)
    ds = pydicom.dcmread(path)
    ds.PixelData = encapsulate(frames)
    ds.SOPClassUID = uid.BreastTomosynthesisImageStorage
    ds.save_as(path)
    pixels = read_dicom(path, frame=2).pixels
    np.testing.assert_allclose(pixels, GREY[::-1] / 4095, rtol=1e-6)


def group(**parts):
    """A functional group: macros by name, each an item of elements."""
    item = Dataset()
    for name, elements in parts.items():
        macro = Dataset()
        for keyword, value in elements.items():
            setattr(macro, keyword, value)
        setattr(item, name, Sequence([macro]))
    return item


def test_what_functional_groups_say_of_a_frame(path):
    stored = np.concatenate([RAMP, RAMP])
    shared = group(
        PixelMeasuresSequence={"PixelSpacing": [0.1, 0.2]},
        FrameVOILUTSequence={"WindowCenter": 2048, "WindowWidth": 4096},
        FrameAnatomySequence={"FrameLaterality": "R"},
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": 0},
        PatientOrientationInFrameSequence={"PatientOrientation": ["P", "FL"]},
    )
    frames = [Dataset(), group(FrameVOILUTSequence={"WindowCenter": 4, "WindowWidth": 5})]
    write(
        path,
        stored,
        NumberOfFrames=2,
        Rows=2,
        SOPClassUID=uid.BreastTomosynthesisImageStorage,
        SharedFunctionalGroupsSequence=Sequence([shared]),
        PerFrameFunctionalGroupsSequence=Sequence(frames),
    )
    first, second = (read_dicom(path, frame=number) for number in (1, 2))
    for read in (first, second):
        assert read.spacing_mm == (0.1, 0.2)
        assert (read.source.laterality, read.source.directions) == ("R", ("P", "FL"))
    np.testing.assert_allclose(first.pixels, np.minimum(2.0 * RAMP / 4095, 1), rtol=1e-6)
    # c = 4, w = 5 of 2 x: (2 x - 3.5) / 4 + 0.5
    np.testing.assert_allclose(second.pixels[0], [0, 0.125, 0.625, 1], atol=1e-6)
    assert "rescaled: slope 2, intercept 0" in second.source.reading
    assert "VOI: the first window, centre 4, width 5, LINEAR" in second.source.reading
    assert any(note.startswith("functional groups: ") for note in second.source.reading)


def test_damaged_functional_groups_say_nothing(path):
    broken = group(PixelMeasuresSequence={"PixelSpacing": [0.1, 0.2]})
    del broken.PixelMeasuresSequence[0].PixelSpacing
    broken.FrameVOILUTSequence = Sequence()
    write(path, SharedFunctionalGroupsSequence=Sequence([broken]))
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, RAMP / 4095, rtol=1e-6)
    assert not any("functional" in note for note in radiograph.source.reading)


def test_a_number_of_frames_that_lies(path):
    frame = bytes(imagecodecs.jpegls_encode(GREY))
    for offsets in (True, False):
        write(path, GREY, syntax=uid.JPEGLSLossless, frame=frame)
        ds = pydicom.dcmread(path)
        ds.PixelData = encapsulate([frame, frame], has_bot=offsets)
        ds.save_as(path)
        with pytest.raises(ImageError, match="it holds 2 frames, the header says 1"):
            read_dicom(path)
        ds.NumberOfFrames = 5
        ds.save_as(path)
        with pytest.raises(ImageError, match="frame 3 of 5 is missing"):
            read_dicom(path, frame=3)
    write(path, NumberOfFrames=3)
    with pytest.raises(ImageError, match="it holds 16 of 48 bytes"):
        read_dicom(path, frame=1)
    for number in (0, -1):
        with pytest.raises(ImageError, match=r"Number of Frames \(0028,0008\) is damaged"):
            read_dicom(write(path, NumberOfFrames=number))


# --- frames in another syntax than declared ------------------------------------------------------


def redeclared(content, syntax):
    """The file with another transfer syntax in its meta information, and the same data set."""
    (length,) = struct.unpack_from("<I", content, 140)
    meta, out = pydicom.dcmread(BytesIO(content)).file_meta, BytesIO()
    meta.TransferSyntaxUID = syntax
    pydicom.filewriter.write_file_meta_info(out, meta)
    return content[:132] + out.getvalue() + content[144 + length :]


@pytest.mark.parametrize(
    ("declared", "frame", "kind"),
    [
        (
            uid.JPEGLosslessSV1,
            imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", level=0),
            "JPEG 2000",
        ),
        (uid.JPEG2000Lossless, imagecodecs.ljpeg_encode(GREY), "JPEG Lossless"),
        (uid.JPEGBaseline8Bit, imagecodecs.jpegls_encode(GREY), "JPEG-LS"),
        (uid.RLELossless, imagecodecs.jpegls_encode(GREY), "JPEG-LS"),
        (uid.JPEGLSLossless, GREY.tobytes(), "native"),
    ],
)
def test_a_frame_in_another_syntax_is_recognised_named_and_decoded(path, declared, frame, kind):
    if kind == "native":
        path.write_bytes(redeclared(write(path, GREY).read_bytes(), declared))
    else:
        write(path, GREY, syntax=declared, frame=bytes(frame))
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, GREY / 4095, rtol=1e-6)
    note = f"pixels: {kind}, though the file declares {declared.name}"
    assert note in radiograph.source.reading


def test_what_is_compressed_within_a_native_syntax(path):
    whole = write(path, GREY, syntax=uid.JPEGLSLossless, frame=imagecodecs.jpegls_encode(GREY))
    path.write_bytes(redeclared(whole.read_bytes(), uid.ExplicitVRLittleEndian))
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, GREY / 4095, rtol=1e-6)
    assert "pixels: JPEG-LS, though" in " ".join(radiograph.source.reading)
    whole = write(path, GREY, syntax=uid.JPEGLSLossless, frame=bytes(range(256)) * 20)
    path.write_bytes(redeclared(whole.read_bytes(), uid.ExplicitVRLittleEndian))
    with pytest.raises(ImageError, match="compressed in an unknown way"):
        read_dicom(path)


def test_rle_inside_another_syntax(path):
    ds = pydicom.dcmread(write(path, GREY))
    ds.compress(uid.RLELossless)
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000
    ds.save_as(path)
    radiograph = read_dicom(path)
    np.testing.assert_allclose(radiograph.pixels, GREY / 4095, rtol=1e-6)
    assert "pixels: RLE, though the file declares JPEG 2000 Image" in str(radiograph.source.reading)


# --- damage, each with its own reason ------------------------------------------------------------


def test_reasons_tell_the_damages_apart(path):
    frame = bytes(imagecodecs.jpegls_encode(GREY))
    whole = write(path, GREY).read_bytes()
    reasons = {}

    def reason(name, content=None, **elements):
        if content is None:
            write(path, **elements)
        else:
            path.write_bytes(content)
        with pytest.raises(ImageError) as caught:
            read_radiograph(path)
        reasons[name] = str(caught.value)

    reason("truncated", whole[:-100])
    reason("random", np.random.default_rng(0).bytes(5000))
    reason("header", whole[:300])
    write(path, GREY, syntax=uid.JPEGLSLossless, frame=frame)
    ds = pydicom.dcmread(path)
    content = path.read_bytes()
    at = content.rindex(b"\xfe\xff\x00\xe0")  # the item of the frame
    reason("items", content[:at] + b"\1\2\3\4" + content[at + 4 :])
    reason("no item", redeclared(whole[:-100], uid.JPEGLSLossless))
    ds.PixelData = b"\xfe\xff\x00\xe0" + bytes(4)  # a table of offsets alone
    ds.save_as(path)
    reason("no frame", path.read_bytes())
    reason("rows", stored=GREY, drop=["Rows"])
    reason("bits", stored=GREY, drop=["BitsStored"])
    assert "it holds 1,436 of 1,536 bytes: the file is cut off" in reasons["truncated"]
    assert "not an image patchad reads" in reasons["random"]
    assert "its items are damaged" in reasons["items"]
    assert "it holds no item" in reasons["no item"]
    assert "holds no frame" in reasons["no frame"]
    assert "Rows (0028,0010) is missing" in reasons["rows"]
    assert "Bits Stored (0028,0101) is missing" in reasons["bits"]
    assert len(set(reasons.values())) == len(reasons)


def test_more_bytes_than_the_image_has_are_said(path):
    write(path, PixelData=RAMP.tobytes() + b"\0" * 6)
    assert "pixels: 6 bytes more than the image has" in read_dicom(path).source.reading


def test_a_table_of_contents_is_none_and_leads_to_its_images(tmp_path):
    folder = tmp_path / "CD"
    (folder / "IMAGES").mkdir(parents=True)
    write(folder / "IMAGES" / "IM1")
    write(folder / "stray.dcm")
    records = Sequence()
    for kind, name in (
        ("PATIENT", None),
        ("IMAGE", ["IMAGES", "IM1"]),
        ("IMAGE", ["IMAGES", "IM2"]),
        ("IMAGE", ["AAA", "ELSEWHERE"]),
        ("SR DOCUMENT", ["IMAGES", "SR"]),
    ):
        record = Dataset()
        record.DirectoryRecordType, record.PatientName = kind, "Doe^Jane"
        if name:
            record.ReferencedFileID = name
        records.append(record)
    ds = Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = uid.MediaStorageDirectoryStorage
    ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    ds.DirectoryRecordSequence = records
    ds.save_as(folder / "DICOMDIR", enforce_file_format=True)
    content = (folder / "DICOMDIR").read_bytes()
    (folder / "DICOMDIR").write_bytes(content.replace(b"AAA\\ELSEWHERE", b"..\\.ELSEWHERE"))
    with pytest.raises(NotARadiographError, match="a DICOMDIR"):
        read_radiograph(folder / "DICOMDIR")
    found = [row.path for row in find_images([folder / "DICOMDIR"])]
    assert found == [folder / "IMAGES" / "IM1", folder / "IMAGES" / "IM2"]  # the second is missing


# --- bombs ---------------------------------------------------------------------------------------


def refused(path, message, **options):
    tracemalloc.start()
    start = time.monotonic()
    try:
        with pytest.raises(ImageError, match=message):
            read_radiograph(path, **options)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 40_000_000
    assert time.monotonic() - start < 5


def test_rle_that_claims_what_it_cannot_hold(path):
    stream = struct.pack("<16I", 1, 64, *[0] * 14) + bytes(208)
    write(path, GREY, syntax=uid.RLELossless, frame=stream, Rows=60000, Columns=60000)
    refused(path, "60000 × 60000 pixels, more than the 100,000,000")
    write(path, GREY, syntax=uid.RLELossless, frame=stream, Rows=9000, Columns=9000)
    refused(path, "272 bytes of RLE cannot hold the 162,000,000")


def test_jpeg_2000_of_a_few_bytes(path):
    stream = bytearray(imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", level=0))
    at = stream.index(b"\xff\x4f\xff\x51") + 8
    stream[at : at + 8] = struct.pack(">2I", 12000, 12000)
    syntax = uid.JPEG2000Lossless
    write(path, GREY, syntax=syntax, frame=bytes(stream), Rows=12000, Columns=12000)
    refused(path, "12000 × 12000 pixels, more than")
    write(path, GREY, syntax=syntax, frame=bytes(stream))
    refused(path, "it has 12000 × 12000 pixels, not 32 × 24")
    colours = bytearray(imagecodecs.jpeg2k_encode(GREY, codecformat="j2k", level=0))
    colours[at + 32 : at + 34] = struct.pack(">H", 16384)
    write(path, GREY, syntax=syntax, frame=bytes(colours))
    refused(path, "it claims 16384 colours")


@pytest.mark.parametrize("where", ["pixels", "header"])
def test_deflated_that_becomes_large(path, where):
    write(path, GREY, syntax=uid.DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    length = struct.unpack_from("<I", content, 140)[0]
    start = 144 + length
    body = zlib.decompress(content[start:], -15)
    packer = zlib.compressobj(9, wbits=-15)
    count = 300_000_000 // 2**20
    if where == "pixels":
        at = body.rindex(b"\xe0\x7f\x10\0")
        parts = [body[: at + 8], struct.pack("<I", count * 2**20)]
    else:
        parts = [b"\x09\0\x10\0OB\0\0" + struct.pack("<I", count * 2**20)]
    packed = b"".join(packer.compress(part) for part in parts)
    packed += b"".join(packer.compress(bytes(2**20)) for _ in range(count))
    if where == "header":
        packed += packer.compress(body)
    path.write_bytes(content[:start] + packed + packer.flush())
    assert path.stat().st_size < 500_000
    refused(path, "inflates to more than .* bytes, its header accounts for")
    write(path, GREY, syntax=uid.DeflatedExplicitVRLittleEndian)
    refused(path, "declares 768 pixels, more than the 700", max_pixels=700)
