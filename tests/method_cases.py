"""Every method with options so tiny that a fit takes a second, and films to fit it to."""

import json
from dataclasses import replace
from functools import cache

import numpy as np
from builders import CHEST, chest_film, prepared, run_with, setting_with, training_set

from patchad.learn.fitting import Fitted, fit
from patchad.learn.training_set import TrainingSet
from patchad.methods import method_of
from patchad.model.card import ModelCard, TrainingData
from patchad.model.detector import Detector
from patchad.model.method import Setting
from patchad.model.options import parse
from patchad.phantoms.phantom import mammogram
from patchad.prepare.preprocess import Prepared

# What a method is told to be quick; one that isn't here is quick by itself.
QUICK = {
    "wei2018": {
        "epochs": 2, "batch_size": 8, "patches_per_epoch": 20, "activation": "leaky_relu",
    },
    "synthetic_lesions": {"steps": 40, "batch_size": 2},
    "dae": {"channels": [4, 8], "steps": 20, "batch_size": 2},
    "synthetic_opacities": {"copies": 1},
    "ae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "memae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "aeu": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "vae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "ceae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "cevae": {"side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 40, "batch_size": 3},
    "vanhetreve2023": {"epochs": 100, "batch_size": 3},
    "jahan2022": {"side": 32, "filters": [4, 4, 8], "code": 8, "kernels": 8, "epochs": 40},
    "kde": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "kernels": 8, "epochs": 40,
        "batch_size": 3,
    },
    "calcification": {"clusters": 2},
    "fpi": {
        "side": 32, "width": 1, "epochs": 60, "batch_size": 4, "learning_rate": 3e-3,
    },
    "pii": {
        "side": 32, "width": 1, "epochs": 60, "batch_size": 4, "learning_rate": 3e-3,
    },
    "nsa": {"side": 37, "crop": 32, "channels": [4, 8, 8, 8], "epochs": 30, "batch_size": 4},
    "cutpaste": {
        "channels": [4, 8, 8, 16], "head": [16, 8], "steps": 30, "batch_size": 4,
        "density_patches": 60,
    },
    "cutpaste_e2e": {
        "side": 37, "crop": 32, "channels": [4, 8, 8, 8], "epochs": 30, "batch_size": 4,
    },
    "ssim_ae": {"code": 8, "epochs": 2, "patches_per_epoch": 40, "batch_size": 8},
    "vqvae2": {
        "side": 32, "channels": 8, "blocks": 1, "block_channels": 4, "codes": 16, "length": 4,
        "epochs": 20, "batch_size": 3, "learning_rate": 3e-3,
    },
    "draem": {
        "side": 32, "redraw_width": 1, "outline_width": 2, "epochs": 20, "batch_size": 3,
    },
    "l2_ae": {"code": 8, "epochs": 2, "patches_per_epoch": 40, "batch_size": 8},
    "students": {
        "fields": [17], "side": 48, "width": 4, "students": 2, "teacher_steps": 10,
        "teacher_batch": 16, "epochs": 10, "learning_rate": 1e-2,
    },
    "nearest_neighbour": {
        "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "oc_svm": {
        "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "k_means": {
        "centres": 5, "samples": 60, "width": 8, "teacher_steps": 30, "teacher_batch": 8,
        "teacher_rate": 3e-3,
    },
    "cnn_dictionary": {
        "features": "teacher", "words": 5, "samples": 60, "width": 8, "teacher_steps": 30,
        "teacher_batch": 8, "teacher_rate": 3e-3,
    },
    "deep_svdd": {
        "boundary": "soft", "warm_up": 1, "channels": [4, 8, 8], "code": 16, "pretraining": 2,
        "epochs": 3, "batch_size": 10, "patches_per_epoch": 30, "learning_rate": 1e-3,
    },
    "fused": {
        "smoothing": 0.2,
        "members": {
            "one": {"method": "wei2018", "options": {
                "epochs": 1, "batch_size": 8, "patches_per_epoch": 8, "activation": "leaky_relu"}},
            "other": {"method": "wei2018", "weight": 0.5, "options": {
                "epochs": 2, "batch_size": 8, "patches_per_epoch": 8, "activation": "leaky_relu"}},
        },
    },
    "fanogan": {"width": 1, "code": 8, "batch_size": 2, "steps": 2, "critic_steps": 1,
        "encoder_steps": 8, "encoder_learning_rate": 1e-2},
    "anogan": {"width": 2, "code": 8, "batch_size": 4, "steps": 10, "iterations": 3, "rate": 0.1},
    "ali": {"width": 1, "code": 8, "hidden": 8, "batch_size": 2, "steps": 5},
    "advae": {"width": 1, "code": 8, "batch_size": 2, "steps": 5, "critic_steps": 1},
    "a_d": {"width": 1, "code": 8, "batch_size": 2, "steps": 3, "critic_steps": 1},
    "aae": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 2,
    },
    "caae": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 2,
    },
    "anovaegan": {
        "side": 32, "channels": [4, 8, 8, 8], "hidden": 32, "epochs": 25, "batch_size": 3,
        "critic_steps": 1, "learning_rate": 0.002,
    },
    "ganomaly": {"side": 32, "width": 4, "code": 8, "epochs": 25, "batch_size": 3},
    "igd": {
        "side": 32, "width": 2, "code": 8, "levels": 2, "epochs": 8, "batch_size": 2,
        "refresh": 3, "learning_rate": 0.003,
    },
    "ddad": {
        "networks": 1, "side": 16, "channels": [4, 8], "hidden": 8, "epochs": 10, "batch_size": 8,
    },
}  # fmt: skip
BREAST = setting_with(stride=16)


def setting_of(name: str) -> Setting:
    method = method_of(name)
    setting = BREAST if "breast" in method.needs.body_parts else CHEST
    return replace(setting, **method.setting)


@cache
def films_of(setting: Setting) -> TrainingSet:
    """Negatives, and unlabelled films: others of their kind, of which every second has a spot."""
    if setting.preprocessing.body_part == "chest":
        films, others = ([chest_film(seed) for seed in seeds] for seeds in (range(6), range(6, 10)))
    else:
        films, others = ([breast(seed) for seed in seeds] for seeds in (range(4), range(4, 8)))
    others[1::2] = [spot(film, setting)[0] for film in others[1::2]]
    known, unlabelled = (training_set(some, setting.patch_size) for some in (films, others))
    return replace(known, unlabelled=unlabelled)


def breast(seed: int) -> Prepared:
    one = mammogram(np.random.default_rng(seed), shape=(320, 256), spacing_mm=0.5)
    return prepared(one.pixels, one.foreground, (0.5, 0.5))


class Untouched:
    """Unlabelled films that nobody may look at."""

    def __getattribute__(self, name: str) -> object:
        raise AssertionError("a method that does not need unlabelled films looked at them")


def config_of(name: str) -> object:
    return parse(method_of(name).config, QUICK.get(name, {}), f"{name}.")


def data_of(name: str) -> TrainingSet:
    """What the method is given: unlabelled films are there, but for those that need them alone."""
    data = films_of(setting_of(name))
    if method_of(name).needs_with(config_of(name)).unlabelled:
        return data
    return replace(data, unlabelled=Untouched())


def fitted(name: str, **rest: object) -> Fitted:
    run = run_with(3, setting_of(name), **rest)
    return fit(method_of(name), config_of(name), data_of(name), run)


@cache
def once(name: str) -> Fitted:
    """A fit of the method that several tests look at, and don't change."""
    return fitted(name)


def detector_of(name: str, one: Fitted) -> Detector:
    setting, method, options = setting_of(name), method_of(name), config_of(name)
    card = ModelCard(
        method=name,
        config={"method": name, name: json.loads(json.dumps(options, default=vars))},
        score_unit=one.unit,
        seed=one.seed,
        data=TrainingData("ab", 3, 2, "by patient", ("MG",), (0.5, 0.5), (0.3, 0.6)),
        **vars(setting),
    )
    return Detector(card, method, options, one.module)


def spot(image: Prepared, setting: Setting) -> tuple[Prepared, int]:
    """The film with a bright disc in a patch of tissue, or of a lung; that patch's number."""
    shape = image.pixels.shape
    grid = setting.grid((shape[0], shape[1]))
    boxes = grid.boxes(shape)
    middles = boxes[:, :2] + boxes[:, 2:] / 2
    wanted = np.multiply(shape, (0.45, 0.28) if setting.preprocessing.body_part == "chest" else 0.5)
    number = int(np.abs(middles - wanted).sum(1).argmin())
    row, col = middles[number]
    rows, cols = np.ogrid[: shape[0], : shape[1]]
    away = np.hypot(rows - row, cols - col)
    disc = np.clip(1.5 - away / (0.2 * setting.patch_size), 0, 1).astype(np.float32)
    return replace(image, pixels=image.pixels + (np.float32(0.95) - image.pixels) * disc), number
