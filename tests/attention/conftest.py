"""Memory that nobody has written holds NaN, so that a value read too early shows."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def _poisoned_memory() -> Iterator[None]:
    torch.manual_seed(0)
    # torch.empty and its kin are then filled with NaN; some operators of GPUs have no deterministic form
    torch.use_deterministic_algorithms(True, warn_only=torch.get_default_device().type != "cpu")
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)
