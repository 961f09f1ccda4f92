"""Names for patients and studies that tell which films belong together, and nothing else."""

import hashlib
import hmac
import json


def pseudonym(salt: str, *parts: str) -> str:
    """A name for what ``parts`` identify: the same for the same salt and parts, else another.

    HMAC-SHA256 of the parts, cut to 64 bits. Who has the salt can try out patients' numbers; who
    hasn't can't. It begins with a letter, so that no spreadsheet takes it for a number.

    Args:
        salt: kept secret, or nowhere.
        parts: what identifies, told apart from one another; each is taken without its outer and
            doubled white space, and without its case.

    Raises:
        ValueError: there is no salt.
    """
    if not salt:
        raise ValueError("a pseudonym without a salt could be guessed")
    told = json.dumps([" ".join(part.split()).casefold() for part in parts])
    key = salt.encode("utf-8", "surrogateescape")
    return "p" + hmac.new(key, told.encode(), hashlib.sha256).hexdigest()[:16]
