"""The same pixels have one answer: as a file or an array, alone or in a batch, in a run or an exported file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from softfree.data.modalities.image import ImagePreprocessing
from softfree.deployment.pipeline import Exported
from softfree.inference.run import Run
from softfree_runtime import predict
from softfree_runtime.readers import read_image
from softfree_runtime.sources.inputs import as_image

_RNG = np.random.default_rng(0)
_GRAY = _RNG.integers(20, 200, (40, 33), dtype=np.uint8)
_RGB = _RNG.integers(20, 200, (40, 33, 3), dtype=np.uint8)
KINDS = {
    "bool": _GRAY > 100,
    "uint8": _GRAY,
    "int8": (_GRAY // 2).astype(np.int8) - 40,
    "12 bits in uint16": _GRAY.astype(np.uint16) * 16,
    "10 bits in uint16": _GRAY.astype(np.uint16) * 4,
    "big-endian uint16": _GRAY.astype(">u2"),
    "int16": _GRAY.astype(np.int16) * 20 - 1000,
    "uint32": _GRAY.astype(np.uint32) + 2**31,
    "float16": (_GRAY / 255).astype(np.float16),
    "float32 in 0..1": (_GRAY / 255).astype(np.float32),
    "float32 in 0..255": _GRAY.astype(np.float32),
    "float64 Hounsfield units": _GRAY * 20.0 - 1000,
    "uint8 color": _RGB,
    "uint16 color": _RGB.astype(np.uint16) * 200,
    "float32 color in 0..1": (_RGB / 255).astype(np.float32),
    "float32 color in 0..255": _RGB.astype(np.float32),
}


@pytest.fixture(params=KINDS, ids=lambda name: name)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[np.ndarray, Path]:
    array: np.ndarray = KINDS[request.param]
    options: dict[str, Any] = {"byteorder": ">"} if array.dtype.byteorder == ">" else {}
    color = "rgb" if array.ndim == 3 else "minisblack"
    tifffile.imwrite(tmp_path / "a.tif", array, photometric=color, **options)
    return array, tmp_path / "a.tif"


def test_an_array_is_shown_as_its_file(pair: tuple[np.ndarray, Path]) -> None:
    array, file = pair
    given, read = as_image(array), read_image(file)
    assert (given.low, given.high, given.steps, given.pixels.dtype) == (
        read.low,
        read.high,
        read.steps,
        read.pixels.dtype,
    )
    np.testing.assert_array_equal(given.unit(), read.unit())
    for preset in ("radiograph", "photo", "microscopy"):
        preprocessing = ImagePreprocessing.create(preset, 32, "pad")  # type: ignore[arg-type]
        np.testing.assert_array_equal(preprocessing(given), preprocessing(read))


def test_run_and_exported_file_have_one_answer_for_both(
    pair: tuple[np.ndarray, Path], run: Run, exported: Exported
) -> None:
    array, file = pair
    other = np.zeros_like(array)
    other[:9] = array[:9]
    given: list[Any] = [str(file), array, other]
    together = run.predict(given, batch_size=3)["p_low"]
    assert together[0] == pytest.approx(together[1], abs=1e-6)
    assert together[2] != pytest.approx(together[1], abs=1e-6)
    assert run.predict(array)["p_low"][0] == pytest.approx(together[1], abs=1e-6)
    for batch_size in (1, 3):
        rows = predict(exported.path, given, batch_size=batch_size)
        assert [row["p_low"] for row in rows] == pytest.approx(together.tolist(), abs=1e-4)
