"""The methods: one file a published method, in the folder of its family.

A method is added by its file, whose last lines are its ``METHOD``, and by one line of ``TABLE``.
"""

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchad.errors import ModelError, RequestError
from patchad.model.configurations import did_you_mean

if TYPE_CHECKING:  # the names of methods are there without torch, which takes seconds to import
    import torch

    from patchad.model.card import ModelCard
    from patchad.model.detector import Detector
    from patchad.model.method import Method

# Where each method is; the one place that lists them.
TABLE: Mapping[str, str] = {
    "wei2018": "reconstruction/wei2018",
    "convergence": "filters/convergence",
    "calcification": "filters/calcification",
    "synthetic_lesions": "synthetic/synthetic_lesions",
    "position_gaussian": "density/position_gaussian",
    "dae": "reconstruction/dae",
    "ae": "reconstruction/ae",
    "memae": "reconstruction/memae",
    "aeu": "reconstruction/aeu",
    "synthetic_opacities": "synthetic/synthetic_opacities",
    "fused": "fused",
    "fanogan": "adversarial/fanogan",
    "anogan": "adversarial/anogan",
    "ali": "adversarial/ali",
    "advae": "adversarial/advae",
    "a_d": "adversarial/a_d",
    "vae": "reconstruction/vae",
    "ceae": "reconstruction/ceae",
    "cevae": "reconstruction/cevae",
    "vanhetreve2023": "reconstruction/vanhetreve2023",
    "jahan2022": "reconstruction/jahan2022",
    "kde": "density/kde",
    "fpi": "synthetic/fpi",
    "pii": "synthetic/pii",
    "nsa": "synthetic/nsa",
    "cutpaste_e2e": "synthetic/cutpaste_e2e",
    "cutpaste": "synthetic/cutpaste",
    "ssim_ae": "reconstruction/ssim_ae",
    "l2_ae": "reconstruction/l2_ae",
    "vqvae2": "reconstruction/vqvae2",
    "aae": "adversarial/aae",
    "caae": "adversarial/caae",
    "anovaegan": "adversarial/anovaegan",
    "ganomaly": "adversarial/ganomaly",
    "igd": "adversarial/igd",
    "ddad": "reconstruction/ddad",
    "students": "distillation/students",
    "nearest_neighbour": "density/nearest_neighbour",
    "oc_svm": "density/oc_svm",
    "k_means": "density/k_means",
    "cnn_dictionary": "density/cnn_dictionary",
    "deep_svdd": "density/deep_svdd",
    "draem": "synthetic/draem",
}
METHODS = tuple(TABLE)


def method_of(name: str) -> "Method":
    """The method of this name.

    Raises:
        RequestError: no method has it.
    """
    if name not in TABLE:
        raise RequestError(
            f"there is no method {name!r}{did_you_mean(name, METHODS)}: use one of "
            f"{', '.join(METHODS)}"
        )
    # Imported here: a method may bring in libraries that the others don't need.
    method: Method = import_module(f"patchad.methods.{TABLE[name].replace('/', '.')}").METHOD
    return method


def all_methods() -> "list[Method]":
    """All methods, in the order of the table."""
    return [method_of(name) for name in METHODS]


def load(folder: Path, device: "torch.device") -> "Detector":
    """Load a trained detector from its model folder onto ``device``.

    Raises:
        ModelError: the folder holds no model that this patchad can use.
        RequestError: its method is unknown here.
    """
    from patchad.model.folder import read_model

    card, tensors = read_model(folder)
    return restore(card, tensors, device)


def restore(
    card: "ModelCard", tensors: "Mapping[str, torch.Tensor]", device: "torch.device"
) -> "Detector":
    """The detector that was saved as ``card`` and ``tensors``.

    Raises:
        ModelError: they do not go together.
        RequestError: the card's method is unknown here.
    """
    from patchad.learn.fitting import build
    from patchad.model.detector import Detector
    from patchad.model.folder import load_into
    from patchad.model.method import setting_of
    from patchad.model.options import parse

    method = method_of(card.method)
    try:
        options: Any = parse(method.config, card.config.get(method.name), f"{method.name}.")
        module = build(method, options, setting_of(card), 0)
    except RequestError as error:
        raise ModelError(
            f"the card does not describe a {method.name} that this patchad can use ({error}): "
            "train again"
        ) from None
    load_into(module, tensors, method.name)
    return Detector(card, method, options, module.to(device).eval().requires_grad_(False))
