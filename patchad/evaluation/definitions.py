"""What each figure of ``evaluation.json`` means, for its readers."""

from collections.abc import Mapping
from typing import Any

from patchad.evaluation.estimate import MIN_PATIENTS
from patchad.evaluation.pixels import LEVELS
from patchad.evaluation.region_overlap import LIMIT


def definitions(calibration: Mapping[str, Any]) -> dict[str, str]:
    """By the keys of ``evaluation.json``; ``calibration`` is that of the run's card."""
    pooling = calibration["pooling"]
    pooled = "max" if pooling == "excess" else pooling
    return {
        "ci95": "Percentile interval of the resamples, which draw patients with replacement; "
        "method and baselines use the same draws, so that differences are paired. [null, null] if "
        f"fewer than {MIN_PATIENTS} patients have positives or negatives, and if all "
        "resamples agree: neither says anything about a new patient. 'dropped' counts resamples "
        "that lacked a class.",
        "value": "null where a class is missing.",
        "patch": "Positive: covers at least half of a region, or a region covers at least half of "
        "it. Negative: all scored patches of negative images. Patches of positive images that are "
        "not positive are not counted here. Patches that were not scored count nowhere; "
        "froc.counts.lesions_not_scored says what that hides.",
        "patch.within_image_auroc": "Mean, over positive images that have both, of the image's "
        "own AUROC of positive patches against patches that touch no region.",
        "image": f"Image scores ({pooling}) of positive against negative images; baselines are "
        f"pooled by {pooled}.",
        "patient": "As 'image', one sample a patient: positive if any of the patient's images is, "
        "with the highest of their image scores.",
        "pointing": "hits: share of positive images with regions whose highest patch has its "
        "centre in a region; of equal patches the first in reading order. By kind: in a region of "
        "this kind, of the images that have one. A lesion that was not scored is missed.",
        "average_precision": "Depends on the prevalence, which counts gives and chance reaches.",
        "sensitivity_at_specificity": "The highest sensitivity of a threshold with at least this "
        "specificity on these same data: it describes the curve and is not a threshold to use.",
        "froc": "A mark is a patch whose centre lies in no higher mark (greedy). It hits a lesion "
        "if its centre lies in the region or the patch is positive for it. Lesion sensitivity at "
        "the most at so many false marks a negative image: false marks are counted on negative "
        "images alone; all lesions count, scored or not.",
        "marks": "As drawn (marks.csv of the run). marks_a_negative_image counts those of negative "
        "images; lesions_marked is the share of lesions that a mark hits: its centre lies in the "
        "region, or its box covers half of the region, or the region half of the box. precision: "
        "of the marks on negative images and on positive ones with regions, the share that hits a "
        "lesion.",
        "marks.rarity": "observed: the marks a negative image has whose stated rarity is at most "
        "expected. Both in marks an image; they are equal if the model's rarity is right.",
        "threshold": "The card's, from negatives that were not judged here; above is strictly "
        "above. Patches as under 'patch'; patient: the highest image over the image threshold.",
        "pixel": "Scored pixels of negative images and of positive images with regions; positive: "
        "the pixel's centre lies in a region; negative: all others of these images. AUROC and "
        f"average precision of heatmap values rounded down to {LEVELS} levels, quantiles of the "
        "patch scores, or of the values of a dense map; Dice, exact, over all these pixels: marked "
        "or not, against lesion or not. dice_chosen_on_test: of the best threshold on these same "
        "data, so it is too good, and no threshold to use.",
        "pixel.pro": "Per-region overlap (Bergmann et al., CVPR 2020): the mean, over connected "
        "parts of the lesions, of the share above a threshold; the area under it against the share "
        f"of negative pixels above, up to {LIMIT:g}, divided by {LIMIT:g}. Pixels that were not "
        "scored are not covered.",
        "by_kind": "Positives of this kind of lesion against the same negatives.",
        "baselines": "Unchanged, higher = more anomalous; never inverted to fit the data. "
        "'beaten': the ci95 of the paired difference in patch AUROC lies above 0.",
    }
