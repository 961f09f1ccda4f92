"""Silencing libraries that parse foreign data: their messages may quote the patient."""

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

# The libraries that parse foreign data. Logs without a handler would appear on the terminal.
_TALKATIVE = tuple(map(logging.getLogger, ("pydicom", "highdicom", "pynetdicom", "tifffile")))
for _logger in _TALKATIVE:
    _logger.addHandler(logging.NullHandler())
_lock = threading.Lock()
_stack = ExitStack()
_inside = 0


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the warnings and logs of these libraries.

    All code that parses, converts or writes foreign data runs in this block. pydicom converts an
    element on first access, so access counts as well.

    Python's warning filters belong to the whole process: the first thread to enter changes them and
    the last one to leave restores them.
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
