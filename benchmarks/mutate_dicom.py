"""Damage DICOM files at random and read them all: a row each, no traceback, no hang, no leak.

    python benchmarks/mutate_dicom.py --count 5000 --also ../shared/data/pydicom-data --out table.md

Takes films that it draws in every transfer syntax, the test files that pydicom ships and those of
other folders; each also as a digital X-ray, where its pixels are grey, so that decoders get to see
what would otherwise be refused by its kind. Exits with 1 if a file had no row, or patchad was at a
loss for a reason.
"""

import argparse
import os
import re
import sys
import tempfile
import time
import warnings
from collections import Counter
from io import BytesIO
from multiprocessing import active_children
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.data import get_testdata_files
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from patchad.io.manifest import ManifestRow
from patchad.io.workers import Fault, How, Limits, read_ahead
from patchad.preprocess import Preprocessing

LARGEST = 300_000  # bytes of a file that is damaged; larger ones teach nothing more
GREY = (np.hypot(*np.mgrid[-48:48, -40:40]) * 60).astype(np.uint16) % 4096
CODECS = {
    uid.JPEGBaseline8Bit: lambda a: imagecodecs.jpeg8_encode((a >> 4).astype(np.uint8), level=90),
    uid.JPEGExtended12Bit: lambda a: imagecodecs.jpeg8_encode(a, level=90, bitspersample=12),
    uid.JPEGLossless: imagecodecs.ljpeg_encode,
    uid.JPEGLosslessSV1: imagecodecs.ljpeg_encode,
    uid.JPEGLSLossless: imagecodecs.jpegls_encode,
    uid.JPEGLSNearLossless: lambda a: imagecodecs.jpegls_encode(a, level=2),
    uid.JPEG2000Lossless: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=0),
    uid.JPEG2000: lambda a: imagecodecs.jpeg2k_encode(a, codecformat="j2k", level=60),
    uid.HTJ2KLossless: imagecodecs.htj2k_encode,
    uid.HTJ2K: imagecodecs.htj2k_encode,
}
NATIVE = (
    uid.ImplicitVRLittleEndian,
    uid.ExplicitVRLittleEndian,
    uid.ExplicitVRBigEndian,
    uid.DeflatedExplicitVRLittleEndian,
    uid.RLELossless,
)

SYNTAXES = {uid.UID(number).name for number in UID_dictionary if ".1.2." in number}


def drawn(syntax: uid.UID) -> bytes:
    """A small film, as a file in the given transfer syntax."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax in NATIVE else syntax
    ds.SOPClassUID, ds.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3"
    ds.Modality, ds.PatientName, ds.PixelSpacing = "DX", "Doe^Jane", [0.2, 0.2]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME1"
    ds.Rows, ds.Columns = GREY.shape
    bits = 8 if syntax == uid.JPEGBaseline8Bit else 12
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16 if bits > 8 else 8, bits, bits - 1
    ds.PixelRepresentation, ds.WindowCenter, ds.WindowWidth = 0, 2048, 4096
    ds.ShutterShape, ds.CenterOfCircularShutter = "CIRCULAR", [48, 40]
    ds.RadiusOfCircularShutter = 60
    frame = CODECS[syntax](GREY) if syntax in CODECS else None
    ds.PixelData = encapsulate([bytes(frame)]) if frame is not None else GREY.tobytes()
    ds["PixelData"].VR = "OB" if frame is not None else "OW"
    if syntax == uid.RLELossless:
        ds.compress(syntax)
    elif syntax in NATIVE:
        ds.file_meta.TransferSyntaxUID = syntax
        if syntax == uid.ExplicitVRBigEndian:
            ds.PixelData = GREY.byteswap().tobytes()
    return written(ds)


def written(ds: Dataset) -> bytes:
    """The file of a data set."""
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()


def as_radiograph(content: bytes) -> bytes | None:
    """The same file with the class of a digital X-ray, where it holds grey pixels."""
    try:
        ds = pydicom.dcmread(BytesIO(content))
        if ds.PhotometricInterpretation[:10] != "MONOCHROME" or "PixelData" not in ds:
            return None
        ds.SOPClassUID, ds.Modality = uid.DigitalXRayImageStorageForPresentation, "DX"
        ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID
        return written(ds)
    except Exception:  # a test file may be anything
        return None


def originals(folders: list[Path]) -> dict[str, bytes]:
    """The whole files by name."""
    found = {f"drawn, {syntax.name}": drawn(syntax) for syntax in (*NATIVE, *CODECS)}
    paths = [Path(path) for path in get_testdata_files()]
    paths += [path for folder in folders for path in folder.rglob("*")]
    for path in sorted(set(paths)):
        if path.is_file():
            found[str(path)] = path.read_bytes()
    for name, content in list(found.items()):
        if not name.startswith("drawn") and (dressed := as_radiograph(content)):
            found[f"{name} as DX"] = dressed
    return found


def damaged(content: bytes, rng: np.random.Generator, other: bytes) -> bytes:
    """A copy with one to four things done to it: in its header, in its pixels, or anywhere."""
    data = bytearray(content)
    pixels = max(content.rfind(b"\xe0\x7f\x10\x00"), content.rfind(b"\x7f\xe0\x00\x10"), 132)
    for _ in range(rng.integers(1, 5)):
        first, last = [(132, pixels), (pixels, len(data)), (0, len(data))][rng.integers(3)]
        at = int(rng.integers(first, max(first + 1, last)))
        size = int(rng.integers(1, 1 + 2 ** rng.integers(0, 9)))
        match rng.integers(8):
            case 0 | 1:
                data[at : at + 1] = rng.bytes(1)
            case 2:
                data[at : at + size] = rng.bytes(size)
            case 3:
                data[at : at + 2] = [b"\0\0", b"\xff\xff", b"\xff\x7f", b"\1\0"][rng.integers(4)]
            case 4:
                del data[at : at + size]
            case 5:
                data[at:at] = data[at : at + size]
            case 6:
                data[at : at + size] = other[at : at + size]
            case 7:
                del data[at if rng.integers(4) == 0 else len(data) :]
    return bytes(data)


def said(reason: str) -> str:
    """The kind of a reason: without its numbers, and without what a codec said."""
    for name in sorted(SYNTAXES, key=len, reverse=True):
        reason = reason.replace(name, "<transfer syntax>")
    reason = re.sub(r"^.*, modality \S+, is no", "<SOP class>, modality <…>, is no", reason)
    reason = re.sub(r"image is damaged \(.*\): fetch", "image is damaged (…): fetch", reason)
    reason = re.sub(r"(died of|ended with code) \S+:", r"\1 <…>:", reason)
    reason = re.sub(r"\(\d+, \d+[^()]*\)", "(…)", reason).replace("JPEG 2000", "JPEG_2000")
    reason = re.sub(r"colours?|samples per pixel \d+", "<…>", reason)
    return re.sub(r"(?<![(\w])-?\d([\d,.]*\d)?(?!\w*\))", "n", reason).replace("_2000", " 2000")


def resident() -> float:
    """MiB of memory that this process and its readers hold (Linux; NaN elsewhere)."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        pids = ["self", *(str(child.pid) for child in active_children())]
        held = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    except OSError:
        return float("nan")
    return sum(held) * page / 2**20


def main() -> int:
    """Read all files whole, then ``--count`` damaged ones, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=5000, help="damaged files")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--also", type=Path, action="append", default=[], help="folder of files")
    parser.add_argument("--out", type=Path, help="Markdown table to write")
    parser.add_argument("--timeout", type=float, default=20.0, help="seconds for a file")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    whole, rng = originals(options.also), np.random.default_rng(options.seed)
    small = sorted(name for name, content in whole.items() if len(content) <= LARGEST)
    # each drawn film is damaged as often as ten others: every codec gets its share
    names = [n for n in small for _ in range(10 if n.startswith("drawn") else 1)]
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for number in range(len(whole) + options.count):
            if number < len(whole):
                content = list(whole.values())[number]
            else:
                one, two = (whole[names[i]] for i in rng.integers(len(names), size=2))
                content = damaged(one, rng, two)
            path = Path(folder) / f"{number:06d}.dcm"
            path.write_bytes(content)
            entries.append(ManifestRow(path))
        rows, lost, slowest = {True: Counter(), False: Counter()}, [], 0.0
        memory: list[float] = []
        how = How(Preprocessing(body_part="chest"), limits=Limits(seconds=options.timeout))
        start = last = time.monotonic()
        for number, (_, answer) in enumerate(read_ahead(entries, how)):
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
            fault = answer if isinstance(answer, Fault) else Fault("failed", "")
            status = fault.status if isinstance(answer, Fault) else "ok"
            rows[number < len(whole)][status, said(fault.reason)] += 1
            if fault.trace:
                lost.append(f"{number}: {fault.trace}")
            if number % max(1, len(entries) // 10) == 0:
                memory.append(resident())
    lines = [
        f"{len(whole)} whole files and {options.count} damaged ones (seed {options.seed}): "
        f"{sum(map(Counter.total, rows.values()))} rows in {time.monotonic() - start:.0f} s, the "
        f"slowest after {slowest:.1f} s. Memory along the way, all processes, MiB: "
        + ", ".join(f"{held:.0f}" for held in memory)
        + f". Reasons that patchad did not know: {len(lost)}.",
        "",
        "| status | reason (n: a number, …: details) | whole | damaged |",
        "|---|---|---:|---:|",
    ]
    kinds = rows[True] + rows[False]
    for (status, reason), _ in kinds.most_common():
        key = (status, reason)
        lines.append(f"| {status} | {reason} | {rows[True][key]} | {rows[False][key]} |")
    text = "\n".join(lines) + "\n"
    print(text)
    print("\n".join(lost), file=sys.stderr)
    if options.out:
        options.out.write_text(text, "utf-8")
    return 1 if lost or sum(map(Counter.total, rows.values())) != len(entries) else 0


if __name__ == "__main__":
    sys.exit(main())
