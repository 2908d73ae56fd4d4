"""Runs with fresh weights, written as training writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from softfree.data.preparation import stored
from softfree.data.slides import SlidePreprocessing
from softfree.data.transforms import Preprocessing
from softfree.data.volumes import VolumePreprocessing
from softfree.runs import WEIGHTS, Run, build_model, write_config

TINY: dict[str, Any] = {"depth": 2, "embed_dim": 24, "num_heads": 2}


def write_run(folder: Path, name: str, steps: Any, **options: Any) -> Run:
    folder.mkdir()
    config = {
        "task": {"kind": "binary", "classes": ["well", "ill"]},
        "preprocessing": stored(steps),
        "model": {"name": name, "num_classes": 2, **steps.model_arguments(), **TINY, **options},
        "options": {},
    }
    write_config(folder, config)
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    save_file(model.state_dict(), folder / WEIGHTS)
    return Run.load(folder)


@pytest.fixture
def picture_run(tmp_path: Path) -> Run:
    steps = Preprocessing.create("radiograph", 64, "pad")
    return write_run(tmp_path / "picture_run", "seqnorm_vit_nano_patch16", steps)


@pytest.fixture
def volume_run(tmp_path: Path) -> Run:
    steps = VolumePreprocessing.create("mr", (32, 48, 40), (1.5, 1.5, 1.5))
    return write_run(tmp_path / "volume_run", "seqnorm_vit3d_nano", steps, patch_size=[4, 8, 8])


@pytest.fixture
def slide_run(tmp_path: Path) -> Run:
    return write_run(tmp_path / "slide_run", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(8.0))
