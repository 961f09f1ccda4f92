"""Draw a contact sheet of phantoms, each lesion framed: python phantom_sheet.py [sheet.png]."""

import sys
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from patchad.phantoms.phantom import Phantom, chest, mammogram

SHRINK = 3


def tile(phantom: Phantom) -> Image.Image:
    """The phantom at a third of its size, with a frame around each lesion."""
    picture = Image.fromarray((phantom.pixels * 255).astype(np.uint8)).convert("RGB")
    picture = picture.reduce(SHRINK)
    for region in phantom.regions:
        left, top = region.x / SHRINK - 3, region.y / SHRINK - 3
        right, bottom = left + region.width / SHRINK + 6, top + region.height / SHRINK + 6
        ImageDraw.Draw(picture).rectangle((left, top, right, bottom), outline=(255, 160, 0))
    return picture


def main(path: Path) -> None:
    """Two rows of mammograms and one of chest films."""
    rng = np.random.default_rng(2)
    tiles = [
        tile(mammogram(rng, laterality=side, view=view, density=density, lesions=lesions))
        for side, view, density, lesions in (
            ("R", "MLO", 0.2, ()),
            ("L", "MLO", 0.4, ("mass",)),
            ("R", "MLO", 0.7, ("calcifications",)),
            ("L", "MLO", 0.3, ("spiculated mass", "calcifications")),
            ("R", "CC", 0.2, ("mass",)),
            ("L", "CC", 0.5, ("spiculated mass",)),
            ("R", "CC", 0.8, ()),
            ("L", "CC", 0.3, ("calcifications",)),
        )
    ]
    tiles += [
        tile(chest(rng, lesions=kinds)) for kinds in ((), ("nodule",), ("consolidation",), ())
    ]
    width, height = tiles[0].size
    sheet = Image.new("RGB", (4 * width, 3 * height))
    for place, picture in enumerate(tiles):
        sheet.paste(picture, (place % 4 * width, place // 4 * height))
    sheet.save(path)
    print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "phantoms.png"))
