"""The kinds of DICOM objects: one file a kind, which declares itself as ``KIND``.

The names are here, so that a command can list them without the libraries that make the objects.
See :mod:`patchad.export.dicom.kind`.
"""

from collections.abc import Mapping

# Where each kind is; the one place that lists them, in the order in which they are written.
OF_AN_IMAGE: Mapping[str, str] = {
    "sc": "sc",
    "gsps": "gsps",
    "sr": "sr",
    "seg": "seg",
    "heatmap-seg": "heatmap_seg",
    "cad-sr": "cad_sr",
    "pm": "pm",
}
OF_A_RUN: Mapping[str, str] = {"ko": "ko"}
