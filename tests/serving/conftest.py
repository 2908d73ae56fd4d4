"""A small exported model for all tests of the server."""

from pathlib import Path

import pytest
from tests.small_model import write_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("served") / "small.onnx")
