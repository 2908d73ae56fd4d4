from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from softfree.core.options import TrainOptions


def small_options(table: Path, out: Path, **changes: Any) -> TrainOptions:
    """Options of a training run that takes seconds."""
    options: dict[str, Any] = {
        "model": "seqnorm_vit_nano_patch16",
        "model_options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
        "size": 32,
        "epochs": 3,
        "batch_size": 4,
        "lr": 2e-3,
        "progress": False,
        "accelerator": "cpu",
    }
    return TrainOptions(table=table, out=out, **(options | changes))


@pytest.fixture
def options_with_figures(small_table: Path, tmp_path: Path) -> Callable[..., TrainOptions]:
    """Options of a training run that takes seconds, on the small table."""

    def make(out: str = "run", **changes: Any) -> TrainOptions:
        return small_options(small_table, tmp_path / out, **changes)

    return make


@pytest.fixture
def options_for(
    options_with_figures: Callable[..., TrainOptions], without_figures: None
) -> Callable[..., TrainOptions]:
    """The same, for a training run whose report has no figures."""
    return options_with_figures
