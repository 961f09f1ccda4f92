"""The figures of an evaluation, section by section."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from patchad.core.arrays import Curve
from patchad.evaluation.estimate import Section, estimate, per_patient
from patchad.evaluation.judged import METHOD, Samples
from patchad.evaluation.labelling import NEGATIVE, POSITIVE
from patchad.evaluation.metrics import (
    Counts,
    Ranking,
    agreement,
    auroc,
    average_precision,
    froc,
    froc_curve,
    pr_curve,
    rank,
    roc_curve,
    sensitivity_at_specificity,
    weighted_mean,
)
from patchad.evaluation.pixels import Pixels
from patchad.evaluation.region_overlap import best_dice, region_overlap

SPECIFICITIES = (80, 90, 95)  # per cent
FALSE_MARKS = (0.25, 0.5, 1.0, 2.0, 4.0)  # a negative image


def sections_of(
    samples: Samples, scorer: str, weights: Tensor, kind: str = ""
) -> dict[str, Section]:
    """The figures of a scorer, the method or a baseline, by level; of a ``kind`` if given."""
    return {
        "patch": patch_section(samples, scorer, weights, kind),
        "image": image_section(samples, scorer, weights, kind),
        "patient": patient_section(samples, scorer, weights, kind),
        "pointing": pointing_section(samples, scorer, weights, kind),
        "froc": froc_section(samples, scorer, weights, kind),
    }


def patch_section(samples: Samples, scorer: str, weights: Tensor, kind: str = "") -> Section:
    """Positive patches against the patches of negative images; with ``kind``, those of the kind.

    ``within_image_auroc`` is the mean, over positive images that have both, of the image's own
    AUROC of positive against negative patches.
    """
    patches = samples.patches
    label = patches["label"].to_numpy()
    positive = label == POSITIVE
    if kind:
        of_kind = (samples.lesions["kind"] == kind).to_numpy()[samples.pairs[:, 1]]
        positive = np.zeros_like(positive)
        positive[samples.pairs[of_kind, 0]] = True
    inside = patches["in_positive"].to_numpy()
    scores, patient = patches[scorer].to_numpy(), patches["patient"].to_numpy()
    section = _ranked(scores, positive, ~inside, patient, weights)
    within, owners = [], []
    case = patches["case"].to_numpy()
    beside = inside & (label == NEGATIVE)
    for number in np.unique(case[positive]):
        rows = np.arange(*np.searchsorted(case, (number, number + 1)))  # cases come in order
        here = rows[positive[rows] | beside[rows]]
        value = auroc(rank(_tensor(scores[here]), _tensor(positive[here])).counts()).item()
        if math.isfinite(value):
            within.append(value)
            owners.append(patient[here][0])
    values, unit = _tensor(within, weights).double(), _tensor(np.array(owners, np.int64), weights)
    mean = estimate(
        ["within_image_auroc"],
        lambda w: weighted_mean(values, unit, w)[:, None],
        weights,
        len(set(owners)),
    )
    counts = {
        **section.counts,
        "images_within": len(within),
        "negatives_within": int(beside[np.isin(case, case[positive])].sum()),
        "not_counted": int((~positive & inside & ~beside).sum()),
    }
    return Section({**section.figures, **mean}, counts, section.curves)


def image_section(samples: Samples, scorer: str, weights: Tensor, kind: str = "") -> Section:
    """Positive images (with ``kind``, those with a region of it) against all negative images."""
    images = samples.images
    truth = images["positive"].to_numpy()
    positive = truth
    if kind:
        holding = samples.lesions["case"][samples.lesions["kind"] == kind]
        positive = images["case"].isin(holding).to_numpy()
    patient = images["patient"].to_numpy()
    return _ranked(images[scorer].to_numpy(), positive, ~truth, patient, weights)


def patient_section(samples: Samples, scorer: str, weights: Tensor, kind: str = "") -> Section:
    """As :func:`image_section`, with one sample a patient.

    A patient is positive if any of their images is; the score is that of the highest image.
    """
    images, lesions = samples.images, samples.lesions
    patients = images.groupby("patient")[[scorer, "positive"]].max()
    patient, truth = patients.index.to_numpy(), patients["positive"].to_numpy(bool)
    positive = truth
    if kind:
        positive = np.isin(patient, lesions["patient"][lesions["kind"] == kind])
    return _ranked(patients[scorer].to_numpy(), positive, ~truth, patient, weights)


def pointing_section(samples: Samples, scorer: str, weights: Tensor, kind: str = "") -> Section:
    """The pointing game: the share of images with regions whose highest patch points at one.

    A patch points at a region that its centre lies in (with ``kind``: a region of the kind, among
    images that have one). J. Zhang et al., Top-down neural attention by excitation backprop, IJCV
    126:1084-1102, 2018, https://doi.org/10.1007/s11263-017-1059-x, there with pixels.
    """
    lesions = samples.lesions
    if kind:
        lesions = lesions[lesions["kind"] == kind]
    images = lesions.groupby("case")[["patient", f"pointed_{scorer}"]].max()
    hit = images[f"pointed_{scorer}"].to_numpy(bool, copy=True)  # pandas gives a read-only view
    unit = images["patient"].to_numpy(np.int64, copy=True)
    hits, units = _tensor(hit, weights).double(), _tensor(unit, weights)
    figures = estimate(
        ["hits"],
        lambda w: weighted_mean(hits, units, w)[:, None],
        weights,
        len(set(unit)),
    )
    counts = {"images": len(images), "hits": int(hit.sum()), "patients": len(set(unit))}
    return Section(figures, counts, {})


def froc_section(samples: Samples, scorer: str, weights: Tensor, kind: str = "") -> Section:
    """Lesions found against false marks on negative images; see :func:`.metrics.froc`."""
    lesions, marks = samples.lesions, samples.false_marks[scorer]
    if kind:
        lesions = lesions[lesions["kind"] == kind]
    negative = samples.images[~samples.images["positive"]]
    images = per_patient(negative["patient"].to_numpy(), weights)
    ranking = rank(
        _tensor(np.concatenate([lesions[scorer], marks["score"]]), weights),
        _tensor(np.arange(len(lesions) + len(marks)) < len(lesions), weights),
        _tensor(np.concatenate([lesions["patient"], marks["patient"]]).astype(np.int64), weights),
        weights.shape[1],
    )
    figures = estimate(
        [f"sensitivity_at_{rate:g}" for rate in FALSE_MARKS],
        lambda w: froc(ranking.counts(w), w @ images, FALSE_MARKS),
        weights,
        min(lesions["patient"].nunique(), negative["patient"].nunique()),
    )
    counts = {
        "lesions": len(lesions),
        "lesions_not_scored": int((~lesions["scored"]).sum()),
        "lesions_never_marked": int(np.isinf(lesions[scorer]).sum()),
        "lesion_patients": int(lesions["patient"].nunique()),
        "negative_images": len(negative),
        "marks_on_negative_images": len(marks),
    }
    line = froc_curve(ranking.counts(), images.sum().reshape(1))
    return Section(figures, counts, {"froc": _arrays(line)})


def threshold_section(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    patient: NDArray[np.int64],
    threshold: float,
    weights: Tensor,
) -> Section:
    """The results at the card's ``threshold``; above is strictly above, as when screening."""
    above = scores > threshold
    outcomes = [positive & above, positive & ~above, ~positive & above, ~positive & ~above]
    table = torch.stack([per_patient(patient[chosen], weights) for chosen in outcomes], 1)
    names = [*agreement(*torch.ones(4))]
    figures = estimate(
        names,
        lambda w: torch.stack([*agreement(*(w @ table).unbind(1)).values()], 1),
        weights,
        min(len(set(patient[positive])), len(set(patient[~positive]))),
    )
    kinds = ("true_positives", "false_negatives", "false_positives", "true_negatives")
    counts = {name: int(chosen.sum()) for name, chosen in zip(kinds, outcomes, strict=True)}
    return Section(figures, counts, {})


def patch_threshold_section(samples: Samples, threshold: float, weights: Tensor) -> Section:
    """The card's patch threshold, with the false patches a negative image."""
    patches = samples.patches
    judged = patches[(patches["label"] == POSITIVE) | ~patches["in_positive"]]
    scores, patient = judged[METHOD].to_numpy(), judged["patient"].to_numpy()
    positive = (judged["label"] == POSITIVE).to_numpy()
    section = threshold_section(scores, positive, patient, threshold, weights)
    negative = samples.images[~samples.images["positive"]]["patient"].to_numpy()
    images = per_patient(negative, weights)
    false = per_patient(patient[~positive & (scores > threshold)], weights)
    rate = estimate(
        ["false_patches_per_negative_image"],
        lambda w: (w @ false / (w @ images))[:, None],
        weights,
        len(set(negative)),
    )
    return Section({**section.figures, **rate}, section.counts, {})


def pixel_section(pixels: Pixels, weights: Tensor) -> Section:
    """AUROC and average precision of pixels, PRO, and Dice of the marked pixels.

    ``dice_chosen_on_test`` is that of the best threshold on these same pixels.
    """

    def statistic(w: Tensor) -> Tensor:
        counts = pixels.ranking.counts(w)
        hit, lesion, above = (w @ pixels.overlaps).unbind(1)
        dice = 2 * hit / (lesion + above)
        best = best_dice(counts, lesion)
        pro = region_overlap(pixels.components, w)
        return torch.stack([auroc(counts), average_precision(counts), dice, best, pro], 1)

    names = ["auroc", "average_precision", "dice", "dice_chosen_on_test", "pro"]
    with_lesion = int((pixels.overlaps[:, 1] > 0).sum())
    carriers = min(with_lesion, pixels.negative_patients)
    return Section(estimate(names, statistic, weights, carriers), pixels.counts, {})


def _ranked(
    scores: NDArray[np.float64],
    positive: NDArray[np.bool_],
    negative: NDArray[np.bool_],
    patient: NDArray[np.int64],
    weights: Tensor,
) -> Section:
    judged = positive | negative
    ranking = rank(
        _tensor(scores[judged], weights),
        _tensor(positive[judged], weights),
        _tensor(patient[judged], weights),
        weights.shape[1],
    )
    carriers = [len(set(patient[chosen])) for chosen in (positive, negative)]
    names = ["auroc", "average_precision"]
    names += [f"sensitivity_at_{share}_specificity" for share in SPECIFICITIES]
    figures = estimate(names, lambda w: _ranking_figures(ranking, w), weights, min(carriers))
    counts = {
        "positives": int(positive.sum()),
        "negatives": int(negative.sum()),
        "prevalence": float(positive.sum() / max(judged.sum(), 1)),
        "positive_patients": carriers[0],
        "negative_patients": carriers[1],
    }
    return Section(figures, counts, _curves(ranking.counts()))


def _ranking_figures(ranking: Ranking, weights: Tensor) -> Tensor:
    counts = ranking.counts(weights)
    columns = [auroc(counts), average_precision(counts)]
    columns += [sensitivity_at_specificity(counts, share / 100) for share in SPECIFICITIES]
    return torch.stack(columns, 1)


def _curves(counts: Counts) -> dict[str, Curve]:
    if not (counts.positives.item() and counts.negatives.item()):
        return {}
    return {"roc": _arrays(roc_curve(counts)), "pr": _arrays(pr_curve(counts))}


def _arrays(line: tuple[Tensor, Tensor]) -> Curve:
    return line[0].cpu().numpy(), line[1].cpu().numpy()


def _tensor(values: Sequence[float] | NDArray[np.generic], like: Tensor | None = None) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(values))
    return tensor if like is None else tensor.to(like.device)
