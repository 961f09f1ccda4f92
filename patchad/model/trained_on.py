"""The images a model was trained on: the starts of their digests, packed into a line of the card.

Six bytes of the SHA-256 of an image's pixels identify it: among a hundred thousand images in
training and as many to compare, the chance that any two different ones agree is 4 in 100,000.
"""

import base64
import binascii
from collections.abc import Iterable

from patchad.errors import ModelError

_BYTES = 6


def pack_digests(digests: Iterable[str]) -> str:
    """The digests (SHA-256 in hex) as base64 text, 8 characters per image, sorted."""
    heads = sorted({_head(digest) for digest in digests})
    return base64.b64encode(b"".join(heads)).decode("ascii")


def among(packed: str, digests: Iterable[str]) -> list[bool]:
    """For each digest (SHA-256 in hex; anything else is unknown) whether it is among the packed.

    Raises:
        ModelError: ``packed`` is not from :func:`pack_digests`.
    """
    try:
        joined = base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise ModelError("the card's list of images is damaged: train again") from None
    heads = {joined[start : start + _BYTES] for start in range(0, len(joined), _BYTES)}
    return [_head(digest) in heads for digest in digests]


def _head(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)[:_BYTES]
    except ValueError:
        return b""
