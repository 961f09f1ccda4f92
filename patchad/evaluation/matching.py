"""Which image each row of a table is about: by path, by SOP instance UID, or by one move.

A bare file name is not enough: ``P0008/1.dcm`` and ``P0009/1.dcm`` are two patients. So the ends
of paths count only for a tree that was moved as a whole, from one folder to another.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

How = Literal["path", "sop_instance_uid", "moved_path"]
HOWS: tuple[How, ...] = ("path", "sop_instance_uid", "moved_path")
_Parts = tuple[str, ...]
_Move = tuple[_Parts, _Parts]  # from the folder of the rows to that of the images


@dataclass(frozen=True)
class Named:
    """A table's entry on an image: its path, UID and patient; empty if unknown."""

    path: Path
    uid: str = ""
    patient: str = ""


@dataclass(frozen=True, eq=False)
class Matches:
    """For the rows that were matched, by their number: which image, and how.

    ``clashes`` are rows that fit several images, or share theirs with other rows, and how;
    ``contradicted`` rows have the path of an image, but another UID. ``move`` is the folder of
    the rows and that of the images, None if nothing moved.
    """

    image: Mapping[int, int]
    how: Mapping[int, How]
    clashes: Mapping[int, How]
    contradicted: frozenset[int]
    move: tuple[Path, Path] | None

    @property
    def counts(self) -> dict[How, int]:
        """How many rows were matched in which way."""
        counted = Counter(self.how.values())
        return {how: counted[how] for how in HOWS}


def match(rows: Sequence[Named], images: Sequence[Named]) -> Matches:
    """Match rows with images, one to one; links are followed, and case counts.

    1. By the resolved path.
    2. Else by the UID.
    3. Else, if no row matched by path: by the longest common end of both paths, of rows whose
       file does not exist. The end must be unique among all rows and all images, and all such
       pairs must be due to one move of a folder; pairs that need another move are not matched.
       A folder that is named after the row's patient must be in both paths.
    """
    ours, theirs = _resolved(rows), _resolved(images)
    found: dict[int, int] = {}
    how: dict[int, How] = {}
    clashes: dict[int, How] = {}

    def take(pairs: Iterable[tuple[int, int]], name: How) -> None:
        for row, image in pairs:
            found[row], how[row] = image, name

    pairs, unclear = _one_to_one([*ours], [*theirs])
    contradicted = frozenset(n for n, image in pairs if _differ(rows[n].uid, images[image].uid))
    take((pair for pair in pairs if pair[0] not in contradicted), "path")
    clashes |= dict.fromkeys(unclear, "path")
    any_path = bool(pairs or unclear)

    settled, taken = {*found, *clashes, *contradicted}, {*found.values()}
    pairs, unclear = _one_to_one(
        ["" if n in settled else row.uid for n, row in enumerate(rows)],
        ["" if n in taken else image.uid for n, image in enumerate(images)],
    )
    take(pairs, "sop_instance_uid")
    clashes |= dict.fromkeys(unclear, "sop_instance_uid")
    if any_path:
        return Matches(found, how, clashes, contradicted, None)

    settled, taken = {*found, *clashes}, {*found.values()}
    left = [n for n, row in enumerate(rows) if n not in settled and _absent(row.path)]
    free = [n for n in range(len(images)) if n not in taken]
    ends = _Ends([ours[n].parts for n in left], [theirs[n].parts for n in free])
    fits = {
        (a, b): move
        for a, b, move in ends.pairs()
        if _may_be(rows[left[a]], ours[left[a]], images[free[b]], theirs[free[b]])
    }
    move = _outermost({*fits.values()})
    if move is None:
        clashes |= dict.fromkeys((left[a] for a, _ in fits), "moved_path")
        clashes |= dict.fromkeys((left[a] for a in ends.unclear()), "moved_path")
        return Matches(found, how, clashes, contradicted, None)
    take(((left[a], free[b]) for (a, b), by in fits.items() if by == move), "moved_path")
    moved_to = {theirs[n].parts for n in free}
    clashes |= {
        left[a]: "moved_path"
        for a in ends.unclear()
        if _moved(ours[left[a]].parts, move) in moved_to
    }
    return Matches(found, how, clashes, contradicted, (Path(*move[0]), Path(*move[1])))


def _resolved(named: Sequence[Named]) -> list[Path]:
    return [Path(os.path.realpath(one.path)) for one in named]  # resolve() fails on looping links


def _absent(path: Path) -> bool:
    """Whether the file certainly doesn't exist; without access it may exist."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _one_to_one(
    ours: Sequence[Hashable], theirs: Sequence[Hashable]
) -> tuple[list[tuple[int, int]], list[int]]:
    """Pairs with a unique common key, and the rows whose key is not; empty keys don't count."""
    at = _places(theirs)
    asked = Counter(ours)
    pairs, unclear = [], []
    for number, key in enumerate(ours):
        if key and key in at:
            if len(at[key]) * asked[key] == 1:
                pairs.append((number, at[key][0]))
            else:
                unclear.append(number)
    return pairs, unclear


def _places(keys: Iterable[Hashable]) -> dict[Hashable, list[int]]:
    places = defaultdict(list)
    for number, key in enumerate(keys):
        places[key].append(number)
    return places


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


def _may_be(row: Named, path: Path, image: Named, image_path: Path) -> bool:
    """Whether nothing contradicts that the row is about this image."""
    if _differ(row.uid, image.uid):
        return False
    patients = {name for name in (row.patient, image.patient) if name}
    return all((name in path.parts) == (name in image_path.parts) for name in patients)


class _Ends:
    """The longest common ends of paths, each way."""

    def __init__(self, ours: Sequence[_Parts], theirs: Sequence[_Parts]) -> None:
        self._ours, self._theirs = ours, theirs
        self._best_of_ours = _longest(ours, _ends(theirs))
        self._best_of_theirs = _longest(theirs, _ends(ours))

    def pairs(self) -> Iterable[tuple[int, int, _Move]]:
        """Pairs that are each other's only longest match, and the move that would explain them."""
        for row, (length, images) in enumerate(self._best_of_ours):
            if len(images) == 1 and self._best_of_theirs[images[0]] == (length, [row]):
                image = images[0]
                yield row, image, (self._ours[row][:-length], self._theirs[image][:-length])

    def unclear(self) -> Iterable[int]:
        """Rows with several longest matches, or with one that other rows share."""
        for row, (length, images) in enumerate(self._best_of_ours):
            rivals = [self._best_of_theirs[image] for image in images]
            mutual = [(k, rows) for k, rows in rivals if k == length]
            if mutual and not (len(images) == 1 and mutual[0][1] == [row]):
                yield row


def _ends(paths: Sequence[_Parts]) -> dict[_Parts, list[int]]:
    ends = defaultdict(list)
    for number, parts in enumerate(paths):
        for start in range(len(parts)):
            ends[parts[start:]].append(number)
    return ends


def _longest(
    paths: Sequence[_Parts], ends: Mapping[_Parts, list[int]]
) -> list[tuple[int, list[int]]]:
    """For each path, the length of its longest end that is in ``ends``, and the owners."""
    return [
        next(
            ((len(parts) - n, ends[parts[n:]]) for n in range(len(parts)) if parts[n:] in ends),
            (0, []),
        )
        for parts in paths
    ]


def _outermost(moves: set[_Move]) -> _Move | None:
    """The one move that contains all others; None if there is none."""
    for move in moves:
        if all(a[: len(move[0])] == move[0] and b[: len(move[1])] == move[1] for a, b in moves):
            return move
    return None


def _moved(parts: _Parts, move: _Move) -> _Parts | None:
    return (*move[1], *parts[len(move[0]) :]) if parts[: len(move[0])] == move[0] else None
