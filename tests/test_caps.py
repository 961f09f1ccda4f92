"""Files made to fill the memory: each is refused before memory is taken for it."""

import json
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image
from pydicom import Dataset, uid
from pydicom.dataset import FileMetaDataset

from patchad.errors import ImageError, RequestError
from patchad.prepare.frames import every_frame
from patchad.read import dicom_header
from patchad.read.caps import Metered, bounded, check_size, most_bytes, read_content
from patchad.read.dicom import read_dicom
from patchad.read.manifest import ManifestRow, read_manifest
from patchad.read.mask import regions_of

MOST_PIXELS = 1_000_000
# What reading a file of a million pixels may take: 48 bytes each, and a copy of a small file.
ALLOWED = 100 * 2**20

# Reads each file, and says what was said and by how much the peak of its memory grew.
READER = """
import json, resource, sys
from pathlib import Path
from patchad.errors import PatchadError
from patchad.read.dicomdir import images_of
from patchad.read.read import read_radiograph
import pandas

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

found = {}
for name in sys.argv[2:]:
    path, before = Path(name), peak()
    try:
        if path.name == "DICOMDIR":
            images_of(path)
        else:
            read_radiograph(path, max_pixels=int(sys.argv[1]))
        said = "read"
    except PatchadError as error:
        said = str(error)
    found[path.name] = (said, peak() - before)
print(json.dumps(found))
"""


def tiff(rows, columns, *, samples=1, compression=8, data=b"", more=(), tile=None):
    """A little-endian TIFF of 8 bits with one strip, or one tile of (rows, columns)."""
    entries = [
        (256, 4, 1, columns), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, compression),
        (262, 3, 1, 1), (277, 3, 1, samples), (278, 4, 1, rows), (284, 3, 1, 1), *more,
    ]  # fmt: skip
    start = 8 + 2 + 12 * (len(entries) + (4 if tile else 2)) + 4
    if tile:
        entries += [(322, 4, 1, tile[1]), (323, 4, 1, tile[0]), (324, 4, 1, start)]
        entries += [(325, 4, 1, len(data))]
    else:
        entries += [(273, 4, 1, start), (279, 4, 1, len(data))]
    body = b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + body + bytes(4) + data


def squeezed(size):
    """So many zeros, deflated."""
    packer = zlib.compressobj(1)
    step = bytes(2**20)
    return b"".join([*(packer.compress(step) for _ in range(size // 2**20)), packer.flush()])


def png_of_texts():
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    texts = b"".join(chunk(b"zTXt", b"a\0\0" + squeezed(7 * 2**20)) for _ in range(60))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(72))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + texts + pixels


def jpeg_frame(rows, columns, marker=0xC0):
    return struct.pack(">BBHBHHB3B", 0xFF, marker, 11, 8, rows, columns, 1, 1, 0x11, 0)


def hidden_jpeg():
    """A JPEG of 20000 × 20000 for decoders; who gives the marker TEM a length finds 8 × 8."""
    small = bytes(imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8)))
    at = small.index(b"\xff\xc0")
    large = b"\xff\x01" + jpeg_frame(20000, 20000)
    skipped_to = 2 + 0xFFC0  # the next two bytes taken for a length
    text = bytes(skipped_to - len(large) - 4) + jpeg_frame(8, 8)
    comment = struct.pack(">HH", 0xFFFE, 2 + len(text)) + text
    rest = small[at + 13 :]  # after the frame header
    return small[:at] + large + comment + rest


def two_frames():
    """A JPEG that says 8 × 8 first, then 20000 × 20000."""
    small = bytes(imagecodecs.jpeg8_encode(np.zeros((8, 8), np.uint8)))
    at = small.index(b"\xff\xc0") + 13
    return small[:at] + jpeg_frame(20000, 20000) + small[at:]


def dicom(path, **elements):
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = uid.ComputedRadiographyImageStorage, "1.2.3"
    ds.Modality, ds.SamplesPerPixel, ds.PhotometricInterpretation = "CR", 1, "MONOCHROME2"
    ds.Rows, ds.Columns, ds.PixelRepresentation = 8, 8, 0
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8, 8, 7
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    ds.preamble = bytes(128)
    ds.save_as(path, enforce_file_format=True)
    return path


def hidden_jpeg_2000(path):
    """A JP2 file with a small codestream's first bytes in a box before the large one."""
    small = bytes(imagecodecs.jpeg2k_encode(np.zeros((8, 8), np.uint8), codecformat="j2k"))
    large = imagecodecs.jpeg2k_encode(np.zeros((9000, 9000), np.uint8), codecformat="jp2", level=0)
    box = struct.pack(">I4s", 8 + 64, b"free") + small[:64]
    stream = bytes(large[:32]) + box + bytes(large[32:])  # after the signature and the file type
    dicom(path, PixelData=pydicom.encaps.encapsulate([stream + b"\0" * (len(stream) % 2)]))
    ds = pydicom.dcmread(path)
    ds.file_meta.TransferSyntaxUID = uid.JPEG2000Lossless
    ds["PixelData"].is_undefined_length = True
    ds.save_as(path)


def deflated_dicomdir(path):
    with_meta = dicom(path, SOPClassUID=uid.MediaStorageDirectoryStorage)
    ds = pydicom.dcmread(with_meta)
    ds.file_meta.TransferSyntaxUID = uid.DeflatedExplicitVRLittleEndian
    ds.save_as(path)
    content = path.read_bytes()
    meta_length = int.from_bytes(content[140:144], "little")
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0) * 131072
    records = struct.pack("<HH2s2xI", 0x0004, 0x1220, b"SQ", 200 * len(item))
    packer = zlib.compressobj(1, wbits=-15)
    body = packer.compress(records) + b"".join(packer.compress(item) for _ in range(200))
    path.write_bytes(content[: 144 + meta_length] + body + packer.flush())


def large_file(path):
    path.write_bytes(b"P5 8 8 255\n")
    with path.open("r+b") as file:
        file.truncate(2**30)  # holes take no room


BOMBS = {
    "samples.tif": lambda p: p.write_bytes(tiff(900, 900, samples=400, data=squeezed(324 * 10**6))),
    "tile.tif": lambda p: p.write_bytes(tiff(8, 8, data=squeezed(2**28), tile=(16384, 16384))),
    "strip.tif": lambda p: p.write_bytes(tiff(8, 8, data=squeezed(2**28))),
    "jpeg.tif": lambda p: p.write_bytes(
        tiff(8, 8, compression=7, data=b"\xff\xd8" + jpeg_frame(20000, 20000) + b"\xff\xda\0\0")
    ),
    "tags.tif": lambda p: p.write_bytes(
        tiff(8, 8, more=[(50000 + n, 3, 400_000, 8) for n in range(600)], data=bytes(10**6))
    ),
    "offsets.tif": lambda p: p.write_bytes(
        tiff(8, 8, data=bytes(8 * 10**6)).replace(
            struct.pack("<HHI", 273, 4, 1), struct.pack("<HHI", 273, 4, 2 * 10**6)
        )
    ),
    "texts.png": lambda p: p.write_bytes(png_of_texts()),
    "twice.jpg": lambda p: p.write_bytes(two_frames()),
    "skipped.jpg": lambda p: p.write_bytes(hidden_jpeg()),
    "header.pgm": lambda p: p.write_bytes(b"P5" + b" " * (30 * 2**20) + b"8 8 255\n" + bytes(64)),
    "text.pgm": lambda p: p.write_bytes(b"P2 8 8 255\n" + b"1 " * (15 * 2**20)),
    "hidden.dcm": hidden_jpeg_2000,
    "DICOMDIR": deflated_dicomdir,
    "large.pgm": large_file,
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What was said of each bomb, and the bytes by which the peak grew; all read by one process."""
    folder = tmp_path_factory.mktemp("bombs")
    for name, write in BOMBS.items():
        write(folder / name)
    paths = [str(folder / name) for name in BOMBS]
    command = [sys.executable, "-c", READER, str(MOST_PIXELS), *paths]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform == "win32", reason="resource")
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("samples.tif", "an image of 400 channels"),
        ("tile.tif", "16384 × 16384 pixels, more than the 1,000,000"),
        ("strip.tif", "the TIFF image is damaged"),
        ("jpeg.tif", "a part of 8 × 8 pixels holds 20000 × 20000"),
        ("tags.tif", "the TIFF image is damaged"),
        ("offsets.tif", "its directory claims 2,000,0"),
        ("texts.png", "read"),
        ("twice.jpg", "it has 2 frame headers"),
        ("skipped.jpg", "its header cannot be read"),
        ("header.pgm", "its header lacks the width"),
        ("text.pgm", "more than 12 characters a pixel"),
        ("hidden.dcm", "JPEG 2000"),
        ("DICOMDIR", "cannot be read as a DICOMDIR"),
        ("large.pgm", "the file has 1,073,741,824 bytes, more than the 75,108,864"),
    ],
)
def test_a_bomb_is_refused_before_memory_is_taken(told, name, said):
    message, grown = told[name]
    assert said in message
    assert grown < ALLOWED


def test_the_cap_counts_the_bytes_of_a_pixel():
    check_size(1000, 1000, MOST_PIXELS, pixel_bytes=16)
    with pytest.raises(ImageError, match="1000 × 1000 pixels of 32 bytes"):
        check_size(1000, 1000, MOST_PIXELS, pixel_bytes=32)
    check_size(1000, 500, MOST_PIXELS, pixel_bytes=32)
    with pytest.raises(ImageError, match="no pixels"):
        check_size(0, 5, MOST_PIXELS)


def test_a_file_is_read_up_to_its_cap(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 100)
    assert read_content(path, 1) == b"x" * 100
    with path.open("r+b") as file:
        file.truncate(most_bytes(1) + 1)
    with pytest.raises(ImageError, match=r"67,108,873 bytes, more than the 67,108,872.*max-pixels"):
        read_content(path, 1)


def test_what_is_skipped_is_not_counted(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(100)))
    with Metered(path, 10) as file:
        assert file.read(4) == bytes(range(4))
        file.seek(90)
        file.seek(94)
        assert file.read(2**40) == bytes(range(94, 100))
        file.seek(0)
        with pytest.raises(ImageError, match="more than 10 bytes"):
            file.read(1)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS")
def test_what_a_codec_takes_is_bounded_by_the_system():
    """In a process of its own, since other tests share this one."""
    code = """
import numpy as np, resource
from patchad.errors import ImageError
from patchad.read import dicom_header
from patchad.read.caps import bounded
before = resource.getrlimit(resource.RLIMIT_AS)
with bounded(1_000_000):
    np.ones(10**8, np.uint8)
try:
    with bounded(1_000_000):
        np.empty(2 * 10**9, np.uint8)
except ImageError as error:
    print(error)
assert resource.getrlimit(resource.RLIMIT_AS) == before
np.empty(2 * 10**9, np.uint8)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    assert "more memory than there is, or than an image of --max-pixels 1000000" in done.stdout


def test_no_memory_is_said_of_the_file():
    with pytest.raises(ImageError, match="more memory than there is"), bounded(10**9):
        raise MemoryError


def test_a_header_that_claims_a_billion_frames_is_one_row(tmp_path):
    path = dicom(tmp_path / "film.dcm", NumberOfFrames=10**9)
    row = ManifestRow(path)
    assert every_frame([row]) == [row]


def test_a_header_of_millions_of_items_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(dicom_header, "_SLACK", 10_000)
    path = dicom(tmp_path / "film.dcm")
    content = path.read_bytes()
    item, end = struct.pack("<HHI", 0xFFFE, 0xE000, 0), struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
    codes = struct.pack("<HH2s2xI", 0x0054, 0x0220, b"SQ", 0xFFFFFFFF)
    path.write_bytes(content + codes + item * 300 + end)
    with pytest.raises(ImageError, match="is missing"):  # the pixels are; the items are read
        read_dicom(path)
    path.write_bytes(content + codes + item * 2000 + end)
    with pytest.raises(ImageError, match="more than 10,000 bytes besides the pixels"):
        read_dicom(path)


def test_masks_are_capped(tmp_path):
    Image.fromarray(np.ones((101, 100), np.uint8)).save(tmp_path / "large.png")
    with pytest.raises(ImageError, match="101 × 100 pixels, more than 10,000"):
        regions_of(tmp_path / "large.png", "", 10_000)
    noise = np.zeros((300, 300), np.uint8)
    noise[::2, ::2] = 1
    Image.fromarray(noise).save(tmp_path / "noise.png")
    with pytest.raises(ImageError, match="22,500 separate parts, more than 10,000"):
        regions_of(tmp_path / "noise.png", "", 10**6)
    (tmp_path / "page.eps").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    with pytest.raises(ImageError, match="not an image"):  # Pillow would run ghostscript
        regions_of(tmp_path / "page.eps", "", 10**6)


def write_rows(path: Path):
    pd.DataFrame({"path": ["a"]}).iloc[[0] * 1_100_000].to_parquet(path, index=False)


def write_cell(path: Path):
    row = {"path": ["a.png"], "patient_id": ["P" * 40_000], "label": ["negative"]}
    pd.DataFrame(row).to_parquet(path)


def write_workbook(path: Path):
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed,
        packed.open("xl/sharedStrings.xml", "w") as part,
    ):
        for _ in range(300):
            part.write(bytes(2**20))


@pytest.mark.parametrize(
    ("name", "write", "said"),
    [
        ("rows.parquet", write_rows, "too large for a table"),
        ("cell.parquet", write_cell, "a cell has 40,000 characters"),
        ("book.xlsx", write_workbook, "too large for a table"),
        ("wide.csv", lambda path: path.write_text("," * 2000), "or 1,000 columns"),
        ("long.csv", lambda path: path.write_text("path\n" + "\n" * 1_100_000), "1,048,576 rows"),
        ("big.csv", lambda path: path.write_bytes(bytes(2**26 + 1)), "too large for a table"),
    ],
)
def test_tables_are_capped(tmp_path, name, write, said):
    write(tmp_path / name)
    with pytest.raises(RequestError, match=said):
        read_manifest(tmp_path / name)
