"""The images of a training, so that it can only be resumed with the same ones.

A model folder is passed on to others, so it names no image and no patient: an image is identified
by a digest of its file's name and content, a patient by a number.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchad.files.request import content_of, differences, listed, numbered
from patchad.files.whole import shown
from patchad.read.manifest import ManifestRow, facts_of


@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Rows and, for each, what a training depends on: its use, patient, spacing and view."""

    rows: tuple[ManifestRow, ...]
    facts: tuple[dict[str, Any], ...]

    @classmethod
    def of(
        cls,
        negatives: Sequence[ManifestRow],
        unlabelled: Sequence[ManifestRow] = (),
    ) -> "TrainingImages":
        """The images of each use, in their order; a model doesn't depend on others."""
        rows = (*negatives, *unlabelled)
        uses = [row.split or "negative" for row in negatives] + ["unlabelled"] * len(unlabelled)
        patients = numbered(row.patient_id or str(row.path) for row in rows)
        studies = numbered(f"{row.patient_id or row.path}\0{row.study_id}" for row in rows)
        facts = tuple(
            {"use": use, "patient": patient, "study": study, **facts_of(row)}
            for row, use, patient, study in zip(rows, uses, patients, studies, strict=True)
        )
        return cls(rows, facts)

    def request(self) -> dict[str, Any]:
        """The part of a request before files are read: their count and one digest."""
        names = [(row.path.name, facts) for row, facts in zip(self.rows, self.facts, strict=True)]
        return {"images": len(self.rows), "digest of their facts": listed(names)[:16]}

    def found(self, contents: Mapping[Path, str]) -> dict[str, Any]:
        """The record to store; ``contents`` holds the SHA-256 of each file."""
        keys = [_key(row.path, contents[row.path]) for row in self.rows]
        return {"images": [list(one) for one in zip(keys, self.facts, strict=True)]}

    def compare(self, found: Mapping[str, Any]) -> list[str]:
        """How the images differ from the stored record, a line each; empty if they don't."""
        then: dict[str, list[Any]] = defaultdict(list)
        now: dict[str, list[Any]] = defaultdict(list)
        for key, facts in found.get("images", []):
            then[key].append(facts)
        lines = []
        for row, facts in zip(self.rows, self.facts, strict=True):
            key = _key(row.path, content_of(row.path))
            before = then[key][len(now[key]) :][:1]  # equal files are compared in order
            now[key].append(facts)
            if before:
                lines += differences(before[0], facts, shown(row.path))
            elif key:
                lines.append(f"{shown(row.path)}: new, or changed since")
        gone = sum(max(0, len(then[key]) - len(now[key])) for key in then if key)
        return [*lines, *[f"{gone} earlier images: missing, or changed since"] * (gone > 0)]


def _key(path: Path, content: str) -> str:
    """An unguessable identifier of a file; empty if it cannot be read."""
    text = f"{path.name}\0{content}".encode("utf-8", "backslashreplace")
    return hashlib.sha256(text).hexdigest() if content else ""
