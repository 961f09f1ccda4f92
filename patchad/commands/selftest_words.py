"""A self-test in words: definitions of its figures, cautions, and the terminal's lines."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from patchad.lesions.recipes import AROUND_MM
from patchad.read.manifest import ManifestRow

FALSE_MARKS = 1.0  # an untouched image, on average: where lesions count as found

DEFINITIONS = {
    "contrast": "The addition at a lesion's brightest pixel, in standard deviations of the tissue "
    f"within ± {AROUND_MM:g} mm of its centre; the pixels as read, before any preprocessing.",
    "diameter_mm": "Of the outline; of a spiculated mass the core, of calcifications the cluster.",
    "found": "Share of the lesions that a mark above the threshold hits. A mark is a patch whose "
    "centre lies in no higher mark; it hits a lesion if its centre lies in it, or if one covers at "
    "least half of the other: as in FROC.",
    "ci95": "Wilson's interval. It assumes independent lesions; those in one image are less so.",
    "threshold": f"The lowest score that at most {FALSE_MARKS:g} mark an image exceed on average, "
    "on the same images untouched: it describes these images and is not a threshold to use.",
    "by_chance": "Share of the same places that the untouched image marks above the threshold.",
    "outranks_twin": "Share of the lesions whose nearest patch (by its centre) scores higher with "
    "the lesion than without it; ties count half.",
    "half_found": "The contrast at which half are found: linear in log contrast along the rising "
    "curve that fits best; null: not reached; or_less: the lowest contrast is enough.",
}


def summary(result: Mapping[str, Any]) -> list[str]:
    """``selftest.json`` for the terminal: a line for each kind and size."""
    levels, counts, false = result["levels"], result["counts"], result["false_marks_an_image"]
    contrasts = sorted({level["contrast"] for level in levels})
    shares = {(x["kind"], x["diameter_mm"], x["contrast"]): f"{x['found']:.2f}" for x in levels}
    chance = sum(level["by_chance"] * level["n"] for level in levels) / counts["lesions"]
    least, most = (end(level["n"] for level in levels) for end in (min, max))
    lines = [
        f"{counts['lesions']} synthetic lesions in {counts['images']} negative images: share found "
        f"at {false:g} false mark{'s' * (false != 1)} an image, by contrast in local s.d.",
        f"{'':<34}" + "".join(f"{contrast:<7g}" for contrast in contrasts) + "half found at",
    ]
    for half in result["half_found"]:
        size = half["kind"], half["diameter_mm"]
        row = "".join(f"{shares.get((*size, contrast), '-'):<7}" for contrast in contrasts)
        lines.append(f"{size[0] + f', {size[1]:g} mm':<34}{row}{_half_in_words(half)}")
    return [
        *lines,
        f"{least if least == most else f'{least} to {most}'} lesions a figure; {chance:.2f} of "
        "their places are marked without them",
        *result["notes"],
    ]


def notes(used: Sequence[ManifestRow], trained: int) -> list[str]:
    """Cautions: ``trained`` of the images ``used`` were trained on; lesions are synthetic."""
    splits = Counter(row.split or "none" for row in used)
    named = ", ".join(f"{count} of split {split}" for split, count in splits.items())
    flattered = ", so the figures are too good: give others" if trained else ""
    return [
        f"The model was trained on {trained} of these {len(used)} images ({named}){flattered}.",
        "The lesions are synthetic: a model that finds them may miss real ones; one that misses "
        "them when they are large and bright will hardly find real ones.",
    ]


def _half_in_words(half: Mapping[str, Any]) -> str:
    if half["contrast"] is None:
        return "not reached"
    return f"{half['contrast']:.2g}" + (" or less" if half["or_less"] else "")
