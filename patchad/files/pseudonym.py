"""Pseudonyms of patients and studies: they show which films belong together, nothing else."""

import hashlib
import hmac
import json


def pseudonym(salt: str, *parts: str) -> str:
    """The pseudonym of ``parts``: the same for the same salt and parts, else another.

    HMAC-SHA256 of the parts, cut to 64 bits. Only with the salt can patients' numbers be tried
    out. It begins with a letter, so that no spreadsheet takes it for a number.

    Args:
        salt: secret; keep it safe, or don't keep it.
        parts: the identifiers, in order; outer and repeated white space and case are ignored.

    Raises:
        ValueError: there is no salt.
    """
    if not salt:
        raise ValueError("a pseudonym without a salt could be guessed")
    identity = json.dumps([" ".join(part.split()).casefold() for part in parts])
    key = salt.encode("utf-8", "surrogateescape")
    return "p" + hmac.new(key, identity.encode(), hashlib.sha256).hexdigest()[:16]
