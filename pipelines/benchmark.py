"""The benchmark of DDAD: published figures by data set, and the unlabelled sets of its ablations.

Y. Cai, H. Chen, X. Yang, Y. Zhou, K.-T. Cheng: Medical Image Analysis 86:102794, 2023,
https://doi.org/10.1016/j.media.2023.102794; A_rec, A_intra and A_inter also MICCAI 2022,
https://arxiv.org/abs/2206.03935. Figures as in slides about it; AUC and AP.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import typer
from published_tables import PublishedRow

from patchad.errors import RequestError

RATE = 0.6  # of abnormal pictures among the unlabelled, as published
SETS = ("rsna", "vindr", "brain", "lag")
SOURCE = "Cai et al. 2023"
FIRST = "Cai et al. 2022"

AnomalyRate = Annotated[
    str, typer.Option(help="Of the unlabelled: 0,0.2,0.4,0.6,0.8,1, a model each.")
]
Unseen = Annotated[
    str, typer.Option(help="Kinds of findings, a,b: none of them is unlabelled; judged apart.")
]

# AUC, AP by set, in the order of SETS; % as published.
_BENCHMARK = (
    ("AE", "ae", (66.9, 66.1, 55.9, 60.3, 79.7, 71.9, 79.3, 76.1)),
    ("MemAE", "memae", (68.0, 67.1, 55.8, 59.8, 77.4, 70.0, 78.5, 74.9)),
    ("GANomaly", "ganomaly", (71.4, 69.1, 59.6, 60.3, 75.1, 69.7, 77.7, 75.7)),
    ("DRAEM", "draem", (62.3, 61.6, 63.0, 68.3, 72.1, 64.6, 47.2, 49.0)),
    ("CutPaste, ImageNet weights", "", (79.4, 74.4, 70.2, 69.8, 92.0, 89.4, 69.1, 64.6)),
    ("CutPaste, scratch", "cutpaste", (75.1, 72.6, 59.6, 58.6, 92.0, 89.9, 63.4, 59.8)),
    ("CutPaste, end to end", "cutpaste_e2e", (55.0, 58.0, 54.6, 55.5, 71.0, 66.8, 53.7, 53.9)),
    ("FPI", "fpi", (47.6, 55.7, 48.2, 49.9, 83.1, 78.9, 53.4, 55.6)),
    ("PII", "pii", (82.9, 83.6, 65.9, 65.8, 84.3, 80.5, 61.0, 60.7)),
    ("NSA", "nsa", (82.2, 82.6, 64.4, 65.8, 84.4, 81.1, 67.9, 67.0)),
    ("f-AnoGAN", "fanogan", (79.8, 75.6, 76.3, 74.8, 82.5, 74.3, 84.2, 77.5)),
    ("IGD", "igd", (81.2, 78.0, 59.2, 58.7, 94.3, 90.6, 80.7, 75.3)),
    ("AE-U", "aeu", (86.7, 84.7, 73.8, 72.8, 94.0, 89.0, 81.3, 78.9)),
    ("R_intra, AE", "ddad_r_intra", (86.3, 85.5, 77.2, 74.2, 85.0, 77.6, 79.5, 74.5)),
    ("R_intra, MemAE", "ddad_r_intra+backbone=memae",
     (87.2, 86.1, 73.9, 72.1, 82.9, 78.6, 80.1, 77.6)),
    ("R_intra, AE-U", "ddad_r_intra+backbone=aeu",
     (88.3, 87.6, 78.2, 74.6, 94.2, 91.9, 86.0, 84.0)),
    ("CutPaste, end to end, unlabelled", "cutpaste_e2e_unlabelled",
     (59.8, 61.7, 59.2, 60.0, 69.8, 64.9, 48.9, 51.7)),
    ("FPI, unlabelled", "fpi_unlabelled", (46.6, 53.8, 47.4, 49.4, 86.6, 83.8, 52.9, 56.1)),
    ("PII, unlabelled", "pii_unlabelled", (84.3, 85.4, 66.8, 67.2, 90.0, 89.1, 63.1, 63.1)),
    ("NSA, unlabelled", "nsa_unlabelled", (84.2, 84.3, 64.4, 64.8, 88.8, 84.7, 68.6, 68.0)),
    ("R_dual, AE", "ddad_r_dual", (89.3, 89.5, 77.4, 77.7, 93.0, 87.1, 89.0, 86.9)),
    ("R_dual, MemAE", "ddad_r_dual+backbone=memae",
     (88.5, 87.8, 75.3, 74.1, 91.4, 84.8, 88.7, 86.5)),
    ("R_dual, AE-U", "ddad_r_dual+backbone=aeu",
     (91.3, 91.6, 85.9, 84.3, 97.2, 95.2, 93.1, 92.3)),
)  # fmt: skip
_BACKBONES = ("ae", "memae", "aeu")
# AUC of the three backbones on RSNA, then VinDr.
_DISCREPANCIES = (
    ("Reconstruction of three", "ddad+score=ensemble_rec",
     (0.669, 0.67, 0.866), (0.555, 0.553, 0.731)),
    ("A_intra", "ddad_intra", (0.694, 0.729, 0.873), (0.601, 0.595, 0.743)),
    ("A_inter", "ddad", (0.8145, 0.788, 0.91), (0.71, 0.69, 0.859)),
)  # fmt: skip
# AUC of A_inter over AE on RSNA; read from a figure of the authors' README.
_RATES = {0.0: 0.703, 0.2: 0.782, 0.4: 0.802, 0.6: 0.815, 0.8: 0.824, 1.0: 0.822}

NOTES = (
    "The names of our configurations: ddad is A_inter, ddad_intra A_intra, ddad_r_… with the "
    "refining network; …_unlabelled draw foreign patches from unlabelled pictures, which is our "
    "reading: the paper doesn't say how its starred rows use them.",
    "Published networks saw all training pictures; ours leave a tenth out, which calibrates the "
    "card's threshold. Last epoch only; the published code prints the best on test data beside it.",
    "Pictures are resized inside each method (64 × 64 for most), from films prepared as by "
    "patchad; published ones were resized from the distributed files.",
)


def benchmark_rows(data: str) -> tuple[PublishedRow, ...]:
    """The published rows about a set of ``SETS``."""
    at = 2 * SETS.index(data)
    rows = [
        PublishedRow(label, config, {"AUROC": own[at] / 100, "AP": own[at + 1] / 100}, SOURCE)
        for label, config, own in _BENCHMARK
    ]
    if data in ("rsna", "vindr"):
        for label, config, *figures in _DISCREPANCIES:
            for backbone, value in zip(_BACKBONES, figures[SETS.index(data)], strict=True):
                ours = config if backbone == "ae" else f"{config}+backbone={backbone}"
                name = {"ae": "AE", "memae": "MemAE", "aeu": "AE-U"}[backbone]
                rows.append(PublishedRow(f"{label}, {name}", ours, {"AUROC": value}, FIRST))
    return tuple(rows)


def rate_rows(rates: Sequence[float], data: str) -> tuple[PublishedRow, ...]:
    """The published rows of the ablation of the anomaly rate; other sets than RSNA have none."""
    known = _RATES if data == "rsna" else {}  # the ablation was on RSNA alone
    rows = [
        PublishedRow("A_inter, AE", "ddad", {"AUROC": known[rate]}, "DDAD's README",
                     rate_name(rate))
        for rate in rates
        if rate in known
    ]  # fmt: skip
    return tuple(rows) or (PublishedRow("A_inter, AE", "ddad", {}, SOURCE, rate_name(rates[0])),)


UNSEEN_PARTS = ("unlabelled: normal only", "unlabelled: with seen findings")
UNSEEN_RATE = 1588 / 4000  # of seen findings among the unlabelled, as published
SEEN_TEST, UNSEEN_TEST = "seen findings", "unseen findings"
# AUC and AP on seen (A) and unseen (B) findings of VinDr-CXR.
_UNSEEN: Mapping[tuple[str, str], tuple[float, float, float, float]] = {
    (UNSEEN_PARTS[0], "ae"): (49.7, 55.6, 63.7, 70.1),
    (UNSEEN_PARTS[0], "ddad"): (54.0, 60.0, 66.0, 71.1),
    (UNSEEN_PARTS[1], "ddad"): (64.2, 70.8, 70.0, 75.8),
}


def unseen_rows(data: str) -> tuple[PublishedRow, ...]:
    """The published rows about seen and unseen findings, which are of VinDr-CXR."""
    rows = []
    for (part, config), (auc, ap, other_auc, other_ap) in _UNSEEN.items():
        label = "Reconstruction" if config == "ae" else "A_inter"
        source = SOURCE if data == "vindr" else f"{SOURCE}, on VinDr-CXR"
        for test, a, b in ((SEEN_TEST, auc, ap), (UNSEEN_TEST, other_auc, other_ap)):
            figures = {"AUROC": a / 100, "AP": b / 100}
            rows.append(PublishedRow(label, config, figures, source, part, test))
    return tuple(rows)


def read_rates(text: str) -> tuple[float, ...]:
    """Rates from ``0,0.2,1``.

    Raises:
        RequestError: one is no share.
    """
    try:
        rates = tuple(dict.fromkeys(float(part) for part in text.split(",")))
    except ValueError:
        rates = ()
    if not rates or not all(0 <= rate <= 1 for rate in rates):
        raise RequestError(f"--anomaly-rate takes shares such as 0,0.2,1; got {text!r}")
    return rates


def rate_name(rate: float) -> str:
    """The name of the part with this anomaly rate."""
    return f"anomaly rate {rate:g}"


def read_kinds(text: str, known: Sequence[str]) -> tuple[str, ...]:
    """The kinds of findings that ``--unseen`` names.

    Raises:
        RequestError: one is unknown, or none would be seen.
    """
    kinds = tuple(kind.strip() for kind in text.split(",") if kind.strip())
    unknown = [kind for kind in kinds if kind not in known]
    if unknown or not kinds or not {*known} - {*kinds}:
        raise RequestError(f"--unseen takes some, not all, of {', '.join(known)}; got {text!r}")
    return kinds


def rows_for(data: str, rates: Sequence[float], unseen: str) -> tuple[PublishedRow, ...]:
    """The published rows of what was asked: the benchmark, or one of its ablations.

    Raises:
        RequestError: both ablations at once.
    """
    if rates and unseen:
        raise RequestError("--anomaly-rate and --unseen are two ablations: give one of them")
    if rates:
        return rate_rows(rates, data)
    return unseen_rows(data) if unseen else benchmark_rows(data)
