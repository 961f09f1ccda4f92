"""What patchad raises when a request, a file or a model is wrong.

Every message gives the rule, the value found and the remedy. Each class also inherits the builtin
exception that a caller would catch for that kind of fault.
"""


class PatchadError(Exception):
    """The parent of all errors that patchad raises on purpose."""


class RequestError(PatchadError, ValueError):
    """The request itself is wrong (an option, a configuration, a manifest): nothing was written."""


class ImageError(PatchadError, ValueError):
    """This image cannot be read or screened; its row fails, the run goes on."""


class NotARadiographError(ImageError):
    """A sound file that is not for patchad (colour, multi-frame, CT …): skipped, not failed."""


class MismatchError(ImageError):
    """The image differs from what the model was trained on (spacing, photometry, modality)."""


class ModelError(PatchadError, ValueError):
    """The model folder is missing, changed, foreign or of another version."""


class TrainingError(PatchadError, RuntimeError):
    """Training gave no usable detector."""


class OutputError(PatchadError, OSError):
    """A result could not be written (folder not empty, disk full, no permission)."""
