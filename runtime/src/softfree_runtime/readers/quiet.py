"""Silencing of libraries that warn about unusual files, safe in threads."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

# Their messages may quote patient data from the file.
_LOGGERS = tuple(logging.getLogger(name) for name in ("pydicom", "nibabel.global", "tifffile", "highdicom.base"))
_lock = threading.Lock()
_inside = 0
_warnings = warnings.catch_warnings()


@contextmanager
def quiet() -> Iterator[None]:
    """Ignore warnings and the readers' log lines inside the block.

    ``warnings.catch_warnings`` saves and restores state of the whole process, so threads that leave in another order
    than they entered would restore each other's state. Here the first to enter saves and the last to leave restores.
    """
    global _inside, _warnings
    with _lock:
        _inside += 1
        if _inside == 1:
            _warnings = warnings.catch_warnings(action="ignore")
            _warnings.__enter__()
            for logger in _LOGGERS:
                logger.addFilter(_nothing)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                for logger in _LOGGERS:
                    logger.removeFilter(_nothing)
                _warnings.__exit__(None, None, None)


def _nothing(record: logging.LogRecord) -> bool:
    return False
