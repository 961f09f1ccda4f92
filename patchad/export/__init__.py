"""What leaves patchad: a file a kind of output, each from a Screening or from a stored run."""

# What --write takes. The first are written for each image, the last for the whole run.
IMAGE_KINDS = ("heatmap", "overlay")
RUN_KINDS = ("report",)
KINDS = IMAGE_KINDS + RUN_KINDS
