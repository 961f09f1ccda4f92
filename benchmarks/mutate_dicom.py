"""Damage DICOM files at random, read them all, and make objects from those that can be read.

Each must give a row, no traceback, no hang, no leak, and valid objects for any header:

    python benchmarks/mutate_dicom.py --count 5000 --also ../shared/data/pydicom-data --out table.md

Uses films that it draws in every transfer syntax, the test files of pydicom and those of other
folders; each also as a digital X-ray, if its pixels are grey, so that decoders get files that would
otherwise be refused by their kind. A third of the damaged files only have wrong values in elements
that objects copy. For each file that can be read a presentation state and a report are made, for
one in ten with --deidentify; dciodvfy validates them if it is installed. Exits with 1 if a file had
no row, patchad gave no known reason, or an object is not valid.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import suppress
from io import BytesIO
from multiprocessing import active_children
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import torch
from pydicom import uid
from pydicom._uid_dict import UID_dictionary
from pydicom.data import get_testdata_files
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.tag import Tag

from patchad.core.grid import PatchGrid
from patchad.core.image import Heatmap, PatchScores, Screening
from patchad.core.patches import stitch
from patchad.errors import ImageError
from patchad.export.dicom.taken import (
    ITEMS,
    OF_THE_CONTENT,
    OF_THE_EQUIPMENT,
    OF_THE_PATIENT,
    OF_THE_STUDY,
    TONES,
)
from patchad.export.write import write_image_kinds
from patchad.model.calibration import Calibration, MarkCalibration, Shares
from patchad.model.card import ModelCard, TrainingData
from patchad.model.rarity import Rarity
from patchad.prepare.preprocess import Preprocessing
from patchad.prepare.workers import Fault, How, Limits, Ready, read_ahead
from patchad.read.manifest import ManifestRow

LARGEST = 300_000  # bytes of a file to damage; larger ones test nothing more
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

TAKEN = (
    *(OF_THE_PATIENT + OF_THE_STUDY + OF_THE_EQUIPMENT + OF_THE_CONTENT),
    *("SpecificCharacterSet", "InstanceNumber", "PatientOrientation", "BodyPartExamined"),
    *("SeriesInstanceUID", "SOPClassUID", "BurnedInAnnotation", "VOILUTFunction", *TONES),
)
VALUES = (
    *("", " ", "061Y", "732.0m", "20230213", "2023.02.13", "20231399", "12:30:05", "noon", "1.5"),
    *("1,5", "nan", "-1e400", "1.00000000000000000001", "1.2.840.10008", "1.2..3", "../../etc"),
    *("Doe^Jane", "A=B=C=D", "A^B^C^D^E^F", "Müller^Zoë", "山田^太郎", "\x1b$B;3ED\x1b(B", "a\\b"),
    *("M", "female", "YES", "no", "ISO_IR 100", "ISO 2022 IR 87", "\\ISO 2022 IR 87", "nonsense"),
    *(
        "A\\F",
        "BREAST",
        "SIGMOID",
        "x" * 17,
        "x" * 65,
        "x" * 1025,
        "\0" * 8,
        "a\0b",
        "\x07",
        "4096",
    ),
)
CARD = ModelCard(
    method="none",
    config={},
    preprocessing=Preprocessing(body_part="chest"),
    patch_size=32,
    stride=32,
    weighting="mean",
    min_foreground=0.5,
    score_unit="units",
    seed=0,
    data=TrainingData("ab" * 32, 3, 2, "by patient", ("DX",), None, (0.2, 0.8)),
    calibration=Calibration(
        pooling="max",
        top_k=1,
        patch_shares=Shares((0.0, 4.0), (0.0, 1.0), (0.0, 1.0)),
        patient_scores=(0.5, 0.75, 1.0),
        patch_threshold=1.5,
        image_threshold=1.5,
        display_range=(0.0, 3.0),
        images=3,
        patients=3,
        patches=40,
        marks=MarkCalibration(
            threshold=1.5,
            per_film=1.0,
            dense=False,
            decides=True,
            stride=32,
            rarity=Rarity((1.25, 1.75), (1.0, 0.5, 0.0625), (2.0, 1.0, 0.25), 15, 6),
        ),
    ),
    weights_sha256="cd" * 32,
)
DCIODVFY = shutil.which("dciodvfy")
SYNTAXES = {uid.UID(number).name for number in UID_dictionary if ".1.2." in number}


def drawn(syntax: uid.UID) -> bytes:
    """A small film, as a file in the given transfer syntax."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax in NATIVE else syntax
    ds.SOPClassUID, ds.SOPInstanceUID = uid.DigitalXRayImageStorageForPresentation, "1.2.3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.4", "1.2.5"
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
    """The same file with the class of a digital X-ray, if its pixels are grey."""
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
    """The undamaged files by name."""
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
    """A copy with one to four changes: in its header, in its pixels, or anywhere."""
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


def misnamed(content: bytes, rng: np.random.Generator) -> bytes:
    """A copy with random values in up to six elements that objects copy; else undamaged."""
    ds = pydicom.dcmread(BytesIO(content), force=True)
    implicit = not ds.file_meta.get("TransferSyntaxUID", uid.ImplicitVRLittleEndian).is_compressed
    implicit = implicit and bool(rng.integers(2))
    if implicit and ds.original_encoding[1]:
        ds.file_meta.TransferSyntaxUID = uid.ImplicitVRLittleEndian
    for keyword in rng.choice(TAKEN, rng.integers(1, 7), replace=False):
        target = ds
        if keyword in ITEMS or keyword.endswith("Sequence"):
            target = Dataset()
            setattr(ds, keyword, [target] * int(rng.integers(0, 3)))
            within = ITEMS[keyword].allowed if keyword in ITEMS else ("LUTDescriptor", "LUTData")
            keyword = str(rng.choice(within))
        value = anything(rng)
        if dictionary_VR(keyword) == "UI" and value[:1].isdigit():
            value = b"2.25.1"  # an almost valid UID is passed on, and a validator finds it
        if rng.integers(2) and len(value) % 2 == 0:
            target.add_new(Tag(keyword), "UN", value)
        else:
            target.add_new(Tag(keyword), "UT", value.decode("latin-1"))
    return written(ds)


def anything(rng: np.random.Generator) -> bytes:
    """A value: one that occurs in archives, or random bytes."""
    if rng.integers(3) == 0:
        return bytes(rng.bytes(int(2 ** rng.integers(0, 8))))
    value = str(rng.choice(VALUES))
    return value.encode("utf-8" if rng.integers(2) else "latin-1", "replace")


def make_objects(ready: Ready, folder: Path, *, deidentify: bool) -> tuple[int, list[str]]:
    """Write a presentation state and a report; returns their number, and their faults."""
    radiograph = ready.radiograph
    grid = PatchGrid(radiograph.shape, 32, 32)
    scores = np.linspace(0, 2, len(grid), dtype=np.float32)
    shares = np.ones(len(grid), np.float32)
    sewn = stitch(grid, torch.from_numpy(scores.copy()), weighting="mean", mask=None)
    screening = Screening(
        source=radiograph.source,
        scores=PatchScores(grid, scores, shares),
        heatmap=Heatmap(sewn.numpy(), "units", radiograph.spacing_mm),
        score=2.0,
        percentile=75.0,
        flagged=True,
        patch_percentiles=50 * scores,
        baselines={},
    )
    try:
        write_image_kinds(
            folder, "a", screening, radiograph, CARD, ("gsps", "sr"), deidentify=deidentify
        )
    except ImageError as error:
        return 0, [f"no object: {error}"]
    faults, paths = [], [*folder.rglob("*.dcm")]
    for path in paths:
        if DCIODVFY:
            done = subprocess.run([DCIODVFY, path], capture_output=True, check=False)
            lines = (done.stdout + done.stderr).decode("latin-1").splitlines()
            errors = [line for line in lines if line.startswith("Error")]
            # it counts bytes where DICOM counts characters
            counted = [e for e in errors if "Length invalid" in e and not e.isascii()]
            if counted and len(errors) == len(counted) + 1:  # and one for the summary
                errors = []
            faults += [f"{path.stem}: {line}" for line in errors]
    return len(paths), faults


def kind_of(reason: str) -> str:
    """The kind of a reason: without its numbers, and without the codec's text."""
    for name in sorted(SYNTAXES, key=len, reverse=True):
        reason = reason.replace(name, "<transfer syntax>")
    reason = re.sub(r"^.*, modality \S+, is no", "<SOP class>, modality <…>, is no", reason)
    reason = re.sub(r"image is damaged \(.*\): fetch", "image is damaged (…): fetch", reason)
    reason = re.sub(r"(died of|ended with code) \S+:", r"\1 <…>:", reason)
    reason = re.sub(r"\(\d+, \d+[^()]*\)", "(…)", reason).replace("JPEG 2000", "JPEG_2000")
    reason = re.sub(r"colours?|samples per pixel \d+", "<…>", reason)
    return re.sub(r"(?<![(\w])-?\d([\d,.]*\d)?(?!\w*\))", "n", reason).replace("_2000", " 2000")


def resident() -> float:
    """MiB of memory of this process and its readers (Linux; NaN elsewhere)."""
    try:
        page = os.sysconf("SC_PAGE_SIZE")
        pids = ["self", *(str(child.pid) for child in active_children())]
        held = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids]
    except OSError:
        return float("nan")
    return sum(held) * page / 2**20


def main() -> int:
    """Read all files undamaged, then ``--count`` damaged ones, and write the table."""
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
    grey = [n for n in small if n.startswith("drawn") or n.endswith(" as DX")]
    with tempfile.TemporaryDirectory() as folder:
        entries = []
        for number in range(len(whole) + options.count):
            if number < len(whole):
                content = list(whole.values())[number]
            else:
                one, two = (whole[names[i]] for i in rng.integers(len(names), size=2))
                content = damaged(one, rng, two)
                if number % 3 == 0:
                    with suppress(Exception):  # a test file may be anything
                        content = misnamed(whole[grey[rng.integers(len(grey))]], rng)
            path = Path(folder) / f"{number:06d}.dcm"
            path.write_bytes(content)
            entries.append(ManifestRow(path))
        rows, lost, slowest = {True: Counter(), False: Counter()}, [], 0.0
        memory: list[float] = []
        how = How(Preprocessing(body_part="chest"), limits=Limits(seconds=options.timeout))
        objects, wrong = 0, Counter[str]()
        start = last = time.monotonic()
        for number, (_, answer) in enumerate(read_ahead(entries, how)):
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
            fault = answer if isinstance(answer, Fault) else Fault("failed", "")
            status = fault.status if isinstance(answer, Fault) else "ok"
            rows[number < len(whole)][status, kind_of(fault.reason)] += 1
            if fault.trace:
                lost.append(f"{number}: {fault.trace}")
            if isinstance(answer, Ready):
                with tempfile.TemporaryDirectory() as made:
                    count, found = make_objects(answer, Path(made), deidentify=number % 10 == 0)
                objects += count
                wrong.update(found)
                lost += [f"{number}: {fault}" for fault in found]
            if number % max(1, len(entries) // 10) == 0:
                memory.append(resident())
    lines = [
        f"{len(whole)} whole files and {options.count} damaged ones (seed {options.seed}): "
        f"{sum(map(Counter.total, rows.values()))} rows in {time.monotonic() - start:.0f} s, the "
        f"slowest after {slowest:.1f} s. Memory along the way, all processes, MiB: "
        + ", ".join(f"{held:.0f}" for held in memory)
        + f". Objects made: {objects} ({'' if DCIODVFY else 'not '}validated), faults in "
        f"them: {wrong.total()}. Reasons that patchad did not know, and faults: {len(lost)}.",
        "",
        "| status | reason (n: a number, …: details) | whole | damaged |",
        "|---|---|---:|---:|",
    ]
    kinds = rows[True] + rows[False]
    for (status, reason), _ in kinds.most_common():
        key = (status, reason)
        lines.append(f"| {status} | {reason} | {rows[True][key]} | {rows[False][key]} |")
    lines += [f"| object | {fault} | | {count} |" for fault, count in wrong.most_common()]
    text = "\n".join(lines) + "\n"
    print(text)
    print("\n".join(lost), file=sys.stderr)
    if options.out:
        options.out.write_text(text, "utf-8")
    return 1 if lost or sum(map(Counter.total, rows.values())) != len(entries) else 0


if __name__ == "__main__":
    sys.exit(main())
