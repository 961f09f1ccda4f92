"""Small DICOM files that reading is tested with."""

import numpy as np
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

GREY = (np.arange(32 * 24).reshape(32, 24) * 5 % 4096).astype(np.uint16)
RAMP = np.array([[0, 1, 2, 3], [1000, 2047, 2048, 4095]], np.uint16)
SECRETS = ("Doe^Jane", "SECRET-ID", "19700101")


def write(path, stored=RAMP, *, syntax=uid.ExplicitVRLittleEndian, frame=None, drop=(), **elements):
    """A 12-bit mammogram, unless ``elements`` say otherwise; ``frame`` is a compressed stream."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.PatientName, ds.PatientID, ds.PatientBirthDate = SECRETS
    ds.SOPClassUID = uid.DigitalMammographyXRayImageStorageForPresentation
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.3", "1.2.4", "1.2.5"
    ds.Modality = "MG"
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape
    ds.BitsAllocated = 8 * stored.itemsize
    ds.BitsStored = elements.get("BitsStored", 12 if stored.itemsize == 2 else 8)
    ds.HighBit = ds.BitsStored - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    big = syntax == uid.ExplicitVRBigEndian
    native = (stored.byteswap() if big else stored).tobytes()
    ds.PixelData = encapsulate([frame]) if frame else native
    ds["PixelData"].VR = "OB" if frame else "OW"
    for keyword, value in elements.items():
        setattr(ds, keyword, value)
    for keyword in drop:
        delattr(ds, keyword)
    ds.save_as(path, enforce_file_format=True)
    return path


def lut(first, bits, data, *, entries=None):
    item = Dataset()
    item.add_new("LUTDescriptor", "US", [len(data) if entries is None else entries, first, bits])
    item.add_new("LUTData", "US", data)
    return Sequence([item])
