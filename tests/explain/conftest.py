"""Runs with fresh weights, of each kind of sample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.inference.run import Run

Write = Callable[..., Run]


@pytest.fixture
def image_run(tmp_path: Path, write_run: Write) -> Run:
    steps = ImagePreprocessing.create("radiograph", 64, "pad")
    return write_run(tmp_path / "image_run", "seqnorm_vit_nano_patch16", steps)


@pytest.fixture
def volume_run(tmp_path: Path, write_run: Write) -> Run:
    steps = VolumePreprocessing.create("mr", (32, 48, 40), (1.5, 1.5, 1.5))
    return write_run(tmp_path / "volume_run", "seqnorm_vit3d_nano", steps, patch_size=[4, 8, 8])


@pytest.fixture
def slide_run(tmp_path: Path, write_run: Write) -> Run:
    return write_run(tmp_path / "slide_run", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(8.0))
