"""A process of its own that has imported everything already: a fresh one would spend ten seconds on it."""

from __future__ import annotations

import os
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def fork(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Start a function in a copy of this process."""

    def target() -> None:
        torch.set_num_threads(1)  # its threads do not survive a fork
        function(*arguments)

    process = get_context("fork").Process(target=target)
    process.start()
    return process
