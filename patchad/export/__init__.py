"""The outputs: one file for each kind, written from a Screening or from a stored run."""

from patchad.export.dicom import OF_A_RUN, OF_AN_IMAGE

# The values of --write: kinds that are written for each image, then those of the whole run.
DICOM_KINDS = tuple(OF_AN_IMAGE)  # only for images that came as DICOM
IMAGE_KINDS = ("heatmap", "overlay", "geojson", *DICOM_KINDS)
RUN_KINDS = (*OF_A_RUN, "report")
KINDS = IMAGE_KINDS + RUN_KINDS
DEFAULT_KINDS = ("heatmap", "overlay", "sc", "gsps", "sr", "report")  # the others on request
