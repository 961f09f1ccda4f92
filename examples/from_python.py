"""Train on phantoms and screen one of them, from Python: python from_python.py [FOLDER].

A real training takes 500 epochs and real negatives; this one takes seconds and shows the calls.
"""

import sys
from pathlib import Path

import torch

import patchad
from patchad.commands.train import train
from patchad.methods.configure import read_config
from patchad.phantoms.phantom import phantom_set
from patchad.read.manifest import read_manifest


def main(folder: Path) -> None:
    """Draw, train, screen, and print the result."""
    torch.set_num_threads(2)
    manifest, _ = phantom_set(
        folder / "phantoms", train_patients=6, test_patients=2, shape=(256, 208)
    )
    settings = ["patch_size=32", "stride=16", "split.held_out=0.4", "wei2018.epochs=5"]
    config = read_config("wei2018_leaky", settings)
    train(manifest, folder / "model", config, device=torch.device("cpu"))

    detector = patchad.load(folder / "model")
    film = next(row.path for row in read_manifest(manifest) if row.split == "test")
    result = patchad.screen(film, detector)
    print(f"score {result.score:.4f}, percentile {result.percentile:.0f}, flagged {result.flagged}")
    print(f"heatmap {result.heatmap.values.shape}, {result.heatmap.unit}")
    top = result.scores.values.argsort()[result.scores.scored.sum() - 1]
    row, col, height, width = result.boxes[top]
    print(f"highest patch at x {col:.0f}, y {row:.0f}, {width:.0f} × {height:.0f} pixels")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "from_python"))
