"""A small ONNX file as softfree export makes it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.small_model import ABOUT, write_model

from softfree_runtime.metadata import Metadata


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "model.onnx")


@pytest.fixture
def make_model(tmp_path: Path) -> Callable[..., Path]:
    def make(about: Metadata | None = ABOUT, **options: int) -> Path:
        return write_model(tmp_path / "made.onnx", about, **options)

    return make


@pytest.fixture
def about() -> Callable[..., Metadata]:
    return lambda **changes: replace(ABOUT, **changes)
