"""Losses that several methods share: structural similarity of one scale or several, focal loss.

Pictures are (N, C, H, W) in [0, ``span``]; all is computed in float32, under autocast too.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, one_hot

WINDOW = 11  # pixels: the side of the Gaussian window, whose σ is 1.5
_SIGMA, _RADIUS = 1.5, WINDOW // 2
_K1, _K2 = 0.01, 0.03
_SCALES = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # weights of the scales, from fine to coarse
_LEAST = 1e-6  # of a similarity that is raised to a power: at 0 that has no gradient


def ssim_map(one: Tensor, other: Tensor, span: float = 1.0) -> Tensor:
    """Structural similarity around each pixel: (N, C, H, W) float32 in [-1, 1], 1 for equal.

    Z. Wang, A. Bovik, H. Sheikh, E. Simoncelli: Image quality assessment: from error visibility to
    structural similarity. IEEE Trans. Image Processing 13:600-612, 2004,
    https://doi.org/10.1109/TIP.2003.819861. Gaussian window of 11 pixels, beyond the edge pictures
    are reflected; as scikit-image's ``structural_similarity`` with ``gaussian_weights``.

    Raises:
        ValueError: the pictures are smaller than the window.
    """
    luminance, contrast = _parts(one, other, span)
    return luminance * contrast


def ssim_loss(one: Tensor, other: Tensor, span: float = 1.0) -> Tensor:
    """1 - the mean of :func:`ssim_map` over all pixels: a scalar."""
    return 1 - ssim_map(one, other, span).mean()


def ms_ssim(one: Tensor, other: Tensor, levels: int = 5, span: float = 1.0) -> Tensor:
    """Structural similarity over several scales: (N,) float32 in [0, 1], 1 for equal pictures.

    Z. Wang, E. Simoncelli, A. Bovik: Multiscale structural similarity for image quality assessment.
    Asilomar 2003, https://doi.org/10.1109/ACSSC.2003.1292216. The product of the contrast at each
    scale and the luminance at the last, to the power of their weights; each scale is the mean of
    2 × 2 pixels of the one before; windows lie wholly in the picture. With fewer ``levels`` than
    the published 5, their weights are the first ones, scaled to a sum of 1 (chosen).

    Raises:
        ValueError: the last scale is smaller than the window (:func:`most_levels`), or there are
            no weights for so many.
    """
    if not 1 <= levels <= len(_SCALES):
        raise ValueError(f"there are weights for 1 to {len(_SCALES)} levels, not for {levels}")
    total = sum(_SCALES[:levels])
    found = one.new_ones(len(one), dtype=torch.float32)
    one, other = one.float(), other.float()
    for level, weight in enumerate(_SCALES[:levels]):
        if level:
            one, other = avg_pool2d(one, 2), avg_pool2d(other, 2)
        luminance, contrast = _parts(one, other, span)
        last = level == levels - 1
        values = luminance * contrast if last else contrast
        inside = values[..., _RADIUS:-_RADIUS, _RADIUS:-_RADIUS].flatten(1).mean(1)
        found = found * inside.clamp_min(_LEAST) ** (weight / total)
    return found


def most_levels(side: int) -> int:
    """How many scales :func:`ms_ssim` can have for pictures of this side; 0 for none."""
    levels = 0
    while levels < len(_SCALES) and side >> levels >= WINDOW:
        levels += 1
    return levels


def focal_loss(
    logits: Tensor, target: Tensor, gamma: float = 2.0, smoothing: float = 1e-5
) -> Tensor:
    """Mean of -(1 - p)^γ log p, with p the probability of the true class: a scalar.

    T.-Y. Lin, P. Goyal, R. Girshick, K. He, P. Dollár: Focal loss for dense object detection. ICCV
    2017, https://arxiv.org/abs/1708.02002. As in the code of DRAEM and DDAD, which is the same: p
    is (1 - s) of the true class and s / (K - 1) of each other, + s. No class weighs more.

    Args:
        logits: (N, K, …), of K ≥ 2 classes.
        target: (N, …) int64, the number of the class.
        gamma: of the easy ones' discount.
        smoothing: s.
    """
    classes = logits.shape[1]
    with torch.autocast(logits.device.type, enabled=False):
        shares = logits.float().softmax(1).movedim(1, -1)
        wanted = one_hot(target, classes).clamp(smoothing / (classes - 1), 1 - smoothing)
        true = (wanted * shares).sum(-1) + smoothing
        return (-((1 - true) ** gamma) * true.log()).mean()


def _parts(one: Tensor, other: Tensor, span: float) -> tuple[Tensor, Tensor]:
    """Luminance, and contrast × structure, at each pixel: (N, C, H, W) float32 each."""
    if min(one.shape[-2:]) < WINDOW:
        raise ValueError(f"pictures of {tuple(one.shape[-2:])} are smaller than {WINDOW} pixels")
    luminance, contrast = (_K1 * span) ** 2, (_K2 * span) ** 2
    with torch.autocast(one.device.type, enabled=False):
        x, y = one.float(), other.float()
        down, across = (_window(length, one.device) for length in one.shape[-2:])
        # As matrix products: on a CPU fifteen times as fast as convolutions of one channel.
        means = down @ torch.stack([x, y, x * x, y * y, x * y]) @ across.T
        mx, my, xx, yy, xy = means.unbind()
        return (
            (2 * mx * my + luminance) / (mx.square() + my.square() + luminance),
            (2 * (xy - mx * my) + contrast) / (xx - mx.square() + yy - my.square() + contrast),
        )


@lru_cache(maxsize=64)
def _window(length: int, device: torch.device) -> Tensor:
    """The window as a matrix that works on lines, reflected beyond the edge: (length, length)."""
    with torch.inference_mode(False):  # cached for later callers in any mode
        offsets = torch.arange(-_RADIUS, _RADIUS + 1)
        kernel = torch.exp(-0.5 * (offsets.double() / _SIGMA) ** 2)
        places = torch.arange(length)[:, None] + offsets
        places = torch.where(places < 0, -1 - places, places)
        places = torch.where(places >= length, 2 * length - 1 - places, places)
        matrix = torch.zeros(length, length, dtype=torch.float64)
        matrix.scatter_add_(1, places, (kernel / kernel.sum()).expand(length, -1))
        return matrix.float().to(device)
