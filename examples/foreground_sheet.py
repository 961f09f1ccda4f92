"""Draw the breast or chest that patchad finds on your images: a contact sheet.

    python examples/foreground_sheet.py FOLDER_OR_FILES… --out sheet.png [--body-part chest]

The outline is the foreground's; "area" its share of the image, "pectoral" that of the muscle.
"""

import argparse
import math
from pathlib import Path
from typing import get_args

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from patchad.core.image import Radiograph
from patchad.errors import ImageError, RequestError
from patchad.prepare.foreground import BodyPart, find_foreground
from patchad.prepare.resize import resize
from patchad.read.read import find_images, read_entry


def main() -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(description="A contact sheet of foregrounds.")
    parser.add_argument("inputs", nargs="+", type=Path, help="images, folders, a manifest")
    parser.add_argument("--out", required=True, type=Path, help="the sheet, a PNG")
    parser.add_argument("--body-part", choices=get_args(BodyPart), default="breast")
    parser.add_argument("--columns", type=int, default=6)
    options = parser.parse_args()
    try:
        rows = find_images(options.inputs)
    except RequestError as error:
        parser.error(str(error))
    lines = math.ceil(len(rows) / options.columns)
    # 2.4 inches an image; squeeze=False keeps a single line of axes two-dimensional.
    size = (2.4 * options.columns, 2.7 * lines)
    figure, axes = plt.subplots(lines, options.columns, figsize=size, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for row, axis in zip(rows, axes.flat, strict=False):
        try:
            radiograph = read_entry(row)
            note = draw(axis, radiograph, options.body_part)
        except ImageError as error:
            note = str(error)
            axis.text(0.5, 0.5, "no foreground", ha="center", transform=axis.transAxes)
        axis.set_title(f"{row.path.name}\n{note[:60]}", fontsize=7)
    figure.tight_layout()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.out, dpi=100)
    print(f"{len(rows)} images in {options.out}")


def draw(axis: Axes, radiograph: Radiograph, body_part: BodyPart) -> str:
    """Draw a small copy with the outline on ``axis``; returns the measures in words."""
    found = find_foreground(radiograph, body_part)
    scale = min(1.0, 400 / max(radiograph.shape))
    rows, cols = (max(2, round(length * scale)) for length in radiograph.shape)
    # The square root shows the faint skin line, and objects in the air.
    axis.imshow(np.sqrt(resize(radiograph.pixels, (rows, cols))), cmap="gray", vmin=0, vmax=1)
    outline = np.pad(resize(found.mask.astype(np.float32), (rows, cols)), 1)
    axis.contour(np.arange(-1, cols + 1), np.arange(-1, rows + 1), outline, [0.5], colors="red")
    words = {"area_fraction": "area", "pectoral_fraction": "pectoral"}
    measures = [f"{words.get(name, name)} {value:.2f}" for name, value in found.measures.items()]
    return ", ".join([*measures, f"threshold {found.threshold:.3f}"])


if __name__ == "__main__":
    main()
