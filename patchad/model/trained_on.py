"""Which images a model has seen: the beginnings of their digests, packed into a line of the card.

Six bytes of the SHA-256 of an image's pixels tell it from others: among a hundred thousand images
in training and as many to judge, the chance that any two unlike ones agree is 4 in 100,000.
"""

import base64
import binascii
from collections.abc import Iterable

from patchad.errors import ModelError

_BYTES = 6


def pack_digests(digests: Iterable[str]) -> str:
    """The digests (SHA-256 in hex) as base64 text, 8 characters an image, in no telling order."""
    heads = sorted({_head(digest) for digest in digests})
    return base64.b64encode(b"".join(heads)).decode("ascii")


def among(packed: str, digests: Iterable[str]) -> list[bool]:
    """Of each digest (SHA-256 in hex; anything else is unknown) whether it is among the packed.

    Raises:
        ModelError: ``packed`` is not what :func:`pack_digests` gives.
    """
    try:
        joined = base64.b64decode(packed, validate=True)
    except binascii.Error:
        raise ModelError("the card's list of images is damaged: train anew") from None
    heads = {joined[start : start + _BYTES] for start in range(0, len(joined), _BYTES)}
    return [_head(digest) in heads for digest in digests]


def _head(digest: str) -> bytes:
    try:
        return bytes.fromhex(digest)[:_BYTES]
    except ValueError:
        return b""
