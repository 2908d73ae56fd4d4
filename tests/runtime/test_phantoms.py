"""Phantoms never change, and an exported file says whether a machine gives its logits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from softfree_runtime import Model
from softfree_runtime.cli import main
from softfree_runtime.metadata import Metadata
from softfree_runtime.phantoms import pattern, phantom_logits, phantoms, recorded


def test_the_pattern_of_version_1() -> None:
    """Recorded logits would differ if it changed: increase VERSION then."""
    pixels = pattern(7, (40, 32))
    assert pixels[0, :6].tolist() == [123, 96, 109, 120, 54, 87]
    assert hashlib.sha256(pixels.tobytes()).hexdigest()[:16] == "ff221abf227651f4"
    assert hashlib.sha256(pattern(8, (5, 6, 7)).tobytes()).hexdigest()[:16] == "2e771cdfa81bc549"
    assert np.ptp(pixels) > 150
    assert pixels[32:, 28:].mean() != pytest.approx(pixels[:8, :4].mean(), abs=20), "blocks"


def test_phantoms_differ_in_size_and_channels(about: Callable[..., Metadata]) -> None:
    with phantoms(about().preprocessing) as images:
        assert [image.pixels.shape for image in images] == [(32, 32, 1), (40, 32, 1), (32, 24, 3)]


def test_a_file_is_checked(make_model: Callable[..., Path], about: Callable[..., Metadata], capsys) -> None:
    path = make_model()
    assert main(["check", str(path)]) == 2
    assert "has no logits to compare with: export the run again" in capsys.readouterr().err
    logits = phantom_logits(Model(path))
    assert logits is not None
    known = about(phantoms=recorded(logits))
    assert main(["check", str(make_model(known)), "--threads", "1"]) == 0
    assert "the same logits as recorded for 3 phantoms" in capsys.readouterr().out
    # A wrong normalization, as if the preprocessing had been changed on the way.
    wrong = replace(known, preprocessing=replace(known.preprocessing, mean=(0.4,)))
    assert main(["check", str(make_model(wrong))]) == 1
    assert "OTHER LOGITS" in capsys.readouterr().out
    assert main(["check", str(make_model(replace(known, phantoms={"version": 9})))]) == 2
    assert main(["check"]) == 2
    assert main(["check", "nowhere.onnx"]) == 2
