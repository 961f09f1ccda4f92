"""Stitching patch scores into a map: patchad against MONAI's AvgMerger, as ratios of one run.

    python benchmarks/stitch.py

Both give the mean of the overlapping patches; the result is compared before it is timed.
"""

import statistics
import time
import tracemalloc
from collections.abc import Callable

import numpy as np
import torch
from monai.inferers.merger import AvgMerger

from patchad.core.grid import PatchGrid
from patchad.core.patches import stitch

REPEATS = 5
GRID = PatchGrid((4096, 3328), 128, 64)  # a digital mammogram at the default stride


def with_patchad(values: np.ndarray) -> np.ndarray:
    """One number per patch, as in patchad."""
    return stitch(GRID, torch.from_numpy(values), weighting="mean", mask=None).numpy()


def with_monai(values: np.ndarray) -> np.ndarray:
    """MONAI merges whole patches, so each score is spread over one."""
    merger = AvgMerger(merged_shape=(1, 1, *GRID.shape))
    patch = torch.ones(1, 1, GRID.size, GRID.size)
    for value, (row, col) in zip(values, GRID.corners, strict=True):
        merger.aggregate(patch * float(value), (int(row), int(col)))
    return merger.finalize()[0, 0].numpy()


def measure(work: Callable[[], object]) -> tuple[float, float]:
    """Median seconds, and the peak of memory from Python's allocators in MiB."""
    seconds = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    return statistics.median(seconds), peak


def main() -> None:
    """Compare, measure and print."""
    values = np.random.default_rng(0).random(len(GRID), dtype=np.float32)
    np.testing.assert_allclose(with_patchad(values), with_monai(values), rtol=1e-5)
    ours, _ = measure(lambda: with_patchad(values))
    theirs, _ = measure(lambda: with_monai(values))
    print(f"{len(GRID)} patches into {GRID.shape[0]} x {GRID.shape[1]} pixels")
    print(f"patchad / MONAI, time: {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
