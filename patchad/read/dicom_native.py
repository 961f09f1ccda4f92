"""DICOM objects with their pixels compressed without loss, and back.

RLE Lossless for segmentations: readers of segmentations (highdicom, dcmqi, dcmjs) decode it, and
any DICOM library does without another one. JPEG Lossless, Process 14, first-order prediction, for
pictures: it is DICOM's default for lossless JPEG (PS3.5 section 10), mammograms are archived in it,
and every viewer of mammograms shows it. It takes half as much space as RLE for a picture. JPEG-LS
and JPEG 2000 take even less, but some libraries lack them.
"""

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import ExplicitVRLittleEndian, JPEGLosslessSV1, RLELossless

from patchad.read.codecs import decode_stream

# The syntaxes that decompress supports.
COMPRESSED = (RLELossless, JPEGLosslessSV1)


def compress_picture(dataset: Dataset, picture: NDArray[np.uint8]) -> None:
    """Set the pixels of ``dataset`` to ``picture`` (h, w, 3) uint8 RGB, as JPEG Lossless."""
    stream = imagecodecs.jpeg8_encode(
        np.ascontiguousarray(picture),
        lossless=True,
        predictor=1,
        colorspace="RGB",
        outcolorspace="RGB",  # not YBR, whose rounding is lossy
        subsampling="444",
    )
    dataset.PixelData = encapsulate([bytes(stream)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGLosslessSV1


def decompress(dataset: Dataset) -> None:
    """Decompress the pixels of an object in one of ``COMPRESSED``, bit for bit.

    Raises:
        ImageError: they are damaged.
        ValueError: they are of another syntax, or not as patchad writes them.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax == RLELossless:
        dataset.decompress(as_rgb=False, generate_instance_uid=False)
        return
    if syntax != JPEGLosslessSV1 or dataset.BitsAllocated != 8:
        raise ValueError(f"not decompressed here: {syntax.name}")
    shape = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    samples = [
        decode_stream("JPEG Lossless", stream, shape)
        for stream in generate_frames(dataset.PixelData, number_of_frames=frames)
    ]
    native = np.stack(samples).astype(np.uint8)
    if native[0].size != shape[0] * shape[1] * dataset.SamplesPerPixel:
        raise ValueError("the samples don't match the header")
    dataset.PixelData = native.tobytes() + b"\0" * (native.size % 2)
    dataset["PixelData"].is_undefined_length = False
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if dataset.SamplesPerPixel > 1:
        dataset.PlanarConfiguration = 0
