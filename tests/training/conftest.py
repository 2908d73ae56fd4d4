from pathlib import Path
from typing import Any

import pytest

from softfree.core.options import TrainOptions


@pytest.fixture
def options_for(small_table: Path, tmp_path: Path):
    """Options of a training that takes seconds."""

    def make(out: str = "run", **changes: Any) -> TrainOptions:
        chosen: dict[str, Any] = {
            "model": "seqnorm_vit_nano_patch16",
            "model_options": {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
            "size": 32,
            "epochs": 3,
            "batch_size": 4,
            "lr": 2e-3,
            "progress": False,
            "accelerator": "cpu",
        }
        return TrainOptions(table=small_table, out=tmp_path / out, **(chosen | changes))

    return make
