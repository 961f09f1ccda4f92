"""What leaves patchad: a file a kind of output, each from a Screening or from a stored run."""

from patchad.export.dicom import OF_A_RUN, OF_AN_IMAGE

# What --write takes. The first are written for each image, the last for the whole run.
DICOM_KINDS = tuple(OF_AN_IMAGE)  # only for images that came as DICOM
IMAGE_KINDS = ("heatmap", "overlay", "geojson", *DICOM_KINDS)
RUN_KINDS = (*OF_A_RUN, "report")
KINDS = IMAGE_KINDS + RUN_KINDS
DEFAULT_KINDS = ("heatmap", "overlay", "sc", "gsps", "sr", "report")  # the others are asked for
