"""The evaluation of a run as ``report.html`` shows it: tables of figures, and curves."""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from patchad.core.baselines import BASELINES
from patchad.errors import RequestError
from patchad.version import __version__

_SECTIONS = (
    "patch",
    "image",
    "patient",
    "pointing",
    "froc",
    "marks",
    "threshold",
    "pixel",
)  # of evaluation.json
_CURVES = {
    "roc.png": "Receiver operating characteristic",
    "pr.png": "Precision against recall",
    "froc.png": "Lesions found against false alarms an image",
    "histogram.png": "Scores by label",
    "rarity.png": "Marks of negative images: as many as the model says?",
}


def figures_of(folder: Path) -> dict[str, Any] | None:
    """The content of ``evaluation.json`` as tables and curves; None without an evaluation."""
    path = folder / "evaluation.json"
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_text("utf-8"))
        return {
            "names": BASELINES,
            "all": _table(content),
            "by_kind": {kind: _table(part) for kind, part in content["by_kind"].items()},
            "beaten": [content["baselines"][name]["beaten"] for name in BASELINES],
            "counts": content["counts"],
            "notes": content["notes"],
            "definitions": content["definitions"],
            "curves": [
                (title, f"data:image/png;base64,{_base64(folder / name)}")
                for name, title in _CURVES.items()
                if (folder / name).exists()
            ],
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise RequestError(
            f"{path} is not an evaluation that patchad {__version__} can read ({error!r}): run "
            "`patchad evaluate` again"
        ) from None


def _table(content: Mapping[str, Any]) -> list[tuple[str, Any, list[Any]]]:
    """Rows of a table of figures: name, the method's figure, each baseline's or None."""
    baselines = [dict(_figures(content["baselines"][name])) for name in BASELINES]
    return [
        (" · ".join(name).replace("_", " "), figure, [figures.get(name) for figures in baselines])
        for name, figure in _figures(content)
    ]


def _figures(
    content: Mapping[str, Any], sections: Sequence[str] = _SECTIONS
) -> Iterator[tuple[tuple[str, ...], Mapping[str, Any]]]:
    """All figures (objects with ``ci95``) in these sections, at any depth, named by their keys."""
    for section in sections:
        part = content.get(section)
        if isinstance(part, Mapping) and "ci95" in part:
            yield (section,), part
        elif isinstance(part, Mapping):
            yield from (((section, *name), figure) for name, figure in _figures(part, list(part)))


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode("ascii")
