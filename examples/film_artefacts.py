"""Write phantoms with the artefacts of scanned films, to see what patchad segments as breast.

    python examples/film_artefacts.py FOLDER
    python examples/foreground_sheet.py FOLDER --out sheet.png

Stickers, step wedges, scratches, bright film edges, light leaks and padding, as in film archives.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from patchad.phantoms.phantom import mammogram

Film = NDArray[np.float32]


def sticker(film: Film, rng: np.random.Generator) -> None:
    """A white label in the upper air, with dark print on it."""
    film[60:150, -260:-40] = 0.95
    film[80:130, -240:-60:7] = 0.2


def wedge(film: Film, rng: np.random.Generator) -> None:
    """A step wedge of eleven greys, upright in the air."""
    film[300:740, -110:-50] = np.repeat(np.linspace(0.15, 1, 11), 40)[:, None]


def scratches(film: Film, rng: np.random.Generator) -> None:
    """Bright straight scratches across film and breast."""
    rows = np.arange(film.shape[0])
    for start in rng.integers(100, film.shape[1] - 100, 4):
        columns = np.clip(start + (0.25 * rows).astype(int), 0, film.shape[1] - 3)
        film[rows, columns] = film[rows, columns + 1] = 1.0


def edges(film: Film, rng: np.random.Generator) -> None:
    """A film that is brighter along its upper, lower and right edges."""
    film[:14] = film[-14:] = film[:, -12:] = 0.9


def leak(film: Film, rng: np.random.Generator) -> None:
    """Fog that falls off from a corner in the air."""
    rows, cols = np.ogrid[: film.shape[0], : film.shape[1]]
    reach = np.hypot(rows - film.shape[0], cols - film.shape[1])
    film += (0.12 * np.exp(-reach / 200)).astype(np.float32)


def padding(film: Film, rng: np.random.Generator) -> None:
    """Black bars left and right, as films that were padded to a square have them."""
    film[:, -120:] = 0.0


def main(folder: Path) -> None:
    """A film for each artefact, and one with all of them, left and right in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    faults = (sticker, wedge, scratches, edges, leak, padding)
    cases = [(), *((fault,) for fault in faults), faults]
    for number, case in enumerate(cases):
        rng = np.random.default_rng(number)
        phantom = mammogram(rng, laterality="L", view="MLO")
        film = 0.04 + 0.9 * phantom.pixels  # the grey base of a scanned film
        for fault in case:
            fault(film, rng)
        if number % 2:
            film = film[:, ::-1]
        name = "_".join(fault.__name__ for fault in case) if len(case) < 2 else "everything"
        grey = (255 * np.clip(film, 0, 1)).astype(np.uint8)
        Image.fromarray(grey).save(folder / f"{number}_{name or 'clean'}.png")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "films"))
