"""Films read and prepared once for a whole study, and kept on disk.

Preparing a film takes a tenth of a second, and a fold reads each of its films three times. A kept
film has the prepared pixels and the facts of the image, but not the pixels as read: a study that
writes no pictures needs none.
"""

import hashlib
import json
import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter
from safetensors import safe_open
from safetensors.numpy import save_file

from patchad.core.image import Foreground, Radiograph, Source
from patchad.core.turn import Turn
from patchad.files.whole import write_whole
from patchad.prepare.look import Look
from patchad.prepare.preprocess import Prepared
from patchad.prepare.workers import Ahead, Fault, How, Ready, readers
from patchad.read.manifest import ManifestRow, facts_of

_SOURCE = TypeAdapter(Source)


@dataclass(frozen=True)
class FilmStore:
    """A folder of prepared films; ``readers`` stands for that of :mod:`patchad.prepare.workers`."""

    folder: Path

    @contextmanager
    def readers(self, how: How) -> Iterator[Ahead]:
        """A function that gives films as ``readers`` would; those that are new are kept."""

        def ahead(
            entries: Sequence[ManifestRow],
        ) -> Generator[tuple[ManifestRow, Ready | Fault], None, None]:
            files = [self._file(entry, how) for entry in entries]
            missing = [e for e, file in zip(entries, files, strict=True) if not file.exists()]
            fresh = read(missing)
            for entry, file in zip(entries, files, strict=True):
                if not file.exists():
                    found = next(ready for new, ready in fresh if new == entry)
                    if isinstance(found, Ready):
                        _keep(file, found)
                    yield entry, found
                else:
                    yield entry, _kept(file)

        with _late(how) as read:
            yield ahead

    def _file(self, entry: ManifestRow, how: How) -> Path:
        """Where a film is kept: another for each content, preprocessing, and fact of the user."""
        try:
            facts = entry.path.stat()
            content = [facts.st_size, facts.st_mtime_ns]
        except OSError:
            content = []
        key = [
            str(entry.path),
            content,
            asdict(how.preprocessing),
            how.spacing_mm,
            facts_of(entry),
        ]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{digest}.safetensors"


@contextmanager
def _late(
    how: How,
) -> Iterator[Callable[[Sequence[ManifestRow]], Iterator[tuple[ManifestRow, Ready | Fault]]]]:
    """The real readers; they start no process before the first new film."""
    with readers(how) as ahead:
        yield lambda entries: ahead(entries) if entries else iter(())


def _keep(file: Path, ready: Ready) -> None:
    image, film = ready.radiograph, ready.prepared
    arrays = {
        "pixels": np.ascontiguousarray(film.pixels, np.float32),
        "mask": np.packbits(film.foreground.mask),
    }
    facts: dict[str, Any] = {
        "source": asdict(image.source),
        "shape": image.shape,
        "image_spacing_mm": image.spacing_mm,
        "foreground": [film.foreground.method, film.foreground.threshold],
        "measures": dict(film.foreground.measures),
        "brightness": film.brightness,
        "spacing_mm": film.spacing_mm,
        "turn": film.turn.name,
        "cautions": film.cautions,
        "assumed_mm": film.assumed_mm,
        "seconds": ready.seconds,
        "content": ready.content,
        "identity": dict(ready.identity),
    }
    look = film.look
    if look is not None:
        arrays |= {"look_picture": look.picture.copy(), "look_outline": look.outline.copy()}
        own = [look.body_part, dict(look.measures), look.pixels, look.pixel_mm]
        facts["look"] = own
    told = {"facts": json.dumps(facts)}
    write_whole(file, lambda aside: save_file(arrays, aside, metadata=told))


def _kept(file: Path) -> Ready:
    with safe_open(file, framework="numpy") as kept:
        facts = json.loads(kept.metadata()["facts"])
        arrays = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    pixels = arrays["pixels"]
    mask = np.unpackbits(arrays["mask"], count=pixels.size).reshape(pixels.shape).astype(bool)
    look = None
    if "look" in facts:
        part, measures, size, millimetres = facts["look"]
        look = Look(
            part, measures, arrays["look_picture"], arrays["look_outline"], size,
            math.nan if millimetres is None else millimetres,
        )  # fmt: skip
    # A stand-in for the pixels as read, which take no memory.
    blank = np.broadcast_to(np.float32(0), tuple(facts["shape"]))
    foreground = Foreground(mask, *facts["foreground"], facts["measures"])
    mask.flags.writeable = True  # as in a film that another process prepared
    source = _SOURCE.validate_python(facts["source"])
    return Ready(
        Radiograph(blank, _pair(facts["image_spacing_mm"]), source),
        Prepared(
            pixels,
            foreground,
            facts["brightness"],
            _pair(facts["spacing_mm"]),
            Turn.named(facts["turn"]),
            tuple(facts["cautions"]),
            _pair(facts["assumed_mm"]),
            look,
        ),
        facts["seconds"],
        facts["content"],
        facts["identity"],
    )


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return None if values is None else (values[0], values[1])
