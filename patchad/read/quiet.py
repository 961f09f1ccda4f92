"""Silence around foreign data: what libraries say of a file may quote the patient."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# The libraries that are given foreign data. What has no handler would land on the terminal.
_TALKATIVE = tuple(map(logging.getLogger, ("pydicom", "highdicom", "pynetdicom", "tifffile")))
for _logger in _TALKATIVE:
    _logger.addHandler(logging.NullHandler())
_lock = threading.Lock()
_stack = ExitStack()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what these libraries log and warn of from users and logs.

    Whatever parses, converts or writes foreign data does so in here. pydicom converts an element
    when it is first looked at, so looking counts as well.

    Python's warning filters belong to the whole process: of several threads, the first one in
    changes them and the last one out puts them back.
    """
    global _inside
    with _lock:
        if _inside == 0:
            _stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            for logger in _TALKATIVE:
                _stack.callback(setattr, logger, "propagate", logger.propagate)
                logger.propagate = False
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                _stack.close()
