"""Processes that do not outlive the one that started them."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

EVERY = 0.5  # seconds


def end_with(parent: int, clean: Callable[[], object] = lambda: None) -> None:
    """End this process when the one that started it has ended, whatever it is doing.

    Args:
        parent: Id of the process that started this one.
        clean: Called before the end.
    """
    threading.Thread(target=_watch, args=(parent, clean), daemon=True).start()


def _watch(parent: int, clean: Callable[[], object]) -> None:
    while os.getppid() == parent:
        time.sleep(EVERY)
    try:
        clean()
    finally:
        os._exit(1)
