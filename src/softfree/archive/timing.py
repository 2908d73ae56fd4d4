"""How long a process is in its model, and with how many threads."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import nn

from softfree.archive.task import Handler


def set_threads(threads: int | None) -> None:
    """Set the threads of matrix products; None leaves those of the library."""
    if threads is not None:
        torch.set_num_threads(threads)


def count_time(model: nn.Module, handler: Handler) -> None:
    """Add the time of each forward pass of a model to a handler's ``model_seconds``."""
    started: list[float] = []
    model.register_forward_pre_hook(lambda *_: started.append(time.perf_counter()))

    def add(*_: Any) -> None:
        handler.model_seconds += time.perf_counter() - started.pop()

    model.register_forward_hook(add)
