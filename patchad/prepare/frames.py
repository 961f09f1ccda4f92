"""Rows for the frames of multi-frame files."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from patchad.prepare.workers import DEFAULT_LIMITS, Fault, Limits, fault_of, read_ahead
from patchad.read.caps import bounded
from patchad.read.dicom import count_frames
from patchad.read.manifest import ManifestRow
from patchad.read.read import check_entry, content_kind


@dataclass(frozen=True)
class _Frames:
    """The task that counts the frames of a file, for the processes that read images."""

    limits: Limits

    def __call__(self, entry: ManifestRow) -> tuple[ManifestRow, ...] | Fault:
        try:
            check_entry(entry)
            if content_kind(entry.path) != "DICOM":
                return (entry,)
            with bounded(self.limits.max_pixels):
                frames = count_frames(entry.path, self.limits.max_pixels)
        except Exception as error:
            return fault_of(error)
        numbered = (replace(entry, frame=n) for n in range(1, frames + 1))
        return tuple(numbered) if frames > 1 else (entry,)


def every_frame(
    entries: Sequence[ManifestRow], limits: Limits = DEFAULT_LIMITS
) -> list[ManifestRow]:
    """A row for each frame of the images; one whose frames can't be counted keeps its row.

    Raises:
        RequestError: no process can be started.
    """
    rows: list[ManifestRow] = []
    for entry, frames in read_ahead(entries, _Frames(limits)):
        rows += [entry] if isinstance(frames, Fault) else frames  # the fault is reported later
    return rows
