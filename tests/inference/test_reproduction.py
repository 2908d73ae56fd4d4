"""A run says whether a machine gives the logits that it gave where it was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from softfree.cli.main import main
from softfree.data.modalities.bag import BagPreprocessing
from softfree.inference.reproduction import phantom_logits, record_phantoms, reproduce
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError
from softfree_runtime.phantoms import phantoms


@pytest.fixture(params=["image", "volume", "slide", "bag"])
def recorded_run(request: pytest.FixtureRequest, tmp_path: Path, write_run: Callable[..., Run]) -> Run:
    """A run of each kind with the logits of its phantoms."""
    if request.param == "bag":
        run = write_run(tmp_path / "run", "seqnorm_bag_nano", BagPreprocessing(16, "an encoder"))
    else:
        run = request.getfixturevalue(f"{request.param}_run")
    record_phantoms(run)
    return run


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_same_machine_gives_the_same_logits(recorded_run: Run) -> None:
    (result,) = reproduce(recorded_run.folder).values()
    assert result.same
    assert result.difference < 1e-6
    logits = np.array(recorded_run.directory.read_phantoms()["logits"])
    assert logits.shape == (3, 2)
    assert (np.ptp(logits, axis=0) > 1e-2).all(), "phantoms that a model tells apart"


def test_another_preprocessing_is_noticed(image_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    record_phantoms(image_run)
    assert main(["check", str(image_run.folder)]) == 0
    assert f"{image_run.folder}: the same logits as recorded for 3 phantoms (largest" in capsys.readouterr().out
    change(image_run.directory.config, "preset: radiograph", "preset: photo")
    assert main(["check", str(image_run.folder)]) == 1
    assert "OTHER LOGITS than recorded" in capsys.readouterr().out
    change(image_run.directory.config, "preset: photo", "preset: radiograph")
    change(image_run.directory.config, "resize_mode: pad", "resize_mode: stretch")
    assert main(["check", str(image_run.folder), "--json"]) == 1
    (result,) = json.loads(capsys.readouterr().out).values()
    assert result["same"] is False
    assert result["difference"] > 10 * result["tolerance"]


def test_other_weights_are_noticed(image_run: Run) -> None:
    record_phantoms(image_run)
    weights = load_file(image_run.directory.weights)
    name = next(name for name in weights if name.endswith("mlp.fc1.weight"))
    weights[name] = weights[name] * 1.02
    image_run.directory.write_weights(weights)
    (result,) = reproduce(image_run.folder).values()
    assert not result.same


def test_logits_that_are_not_finite_differ(image_run: Run) -> None:
    record_phantoms(image_run)
    weights = load_file(image_run.directory.weights)
    image_run.directory.write_weights({name: weight * float("nan") for name, weight in weights.items()})
    run = Run.load(image_run.folder)
    assert phantom_logits(run) is None
    (result,) = reproduce(run.folder).values()
    assert not result.same
    assert result.to_dict()["difference"] is None
    run.directory.phantoms.unlink()
    record_phantoms(run)
    assert not run.directory.phantoms.exists()


def test_what_cannot_be_compared_is_one_line(image_run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    def refused(words: str, *options: str) -> None:
        assert main(["check", str(image_run.folder), *options]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1

    refused("has no phantoms.json, the logits to compare with: it was trained by an earlier version")
    record_phantoms(image_run)
    refused("is not a table: softfree check RUN takes only --json", "--strict")
    image_run.directory.write_digests()
    change(image_run.directory.phantoms, '"version": 1', '"version": 2')
    refused("phantoms.json is not the file that training wrote")
    image_run.directory.digests.unlink()
    refused("has logits of phantoms of version 2; this version of softfree computes version 1")
    image_run.directory.write_phantoms({"version": 1, "tolerance": 1e-3, "logits": [[1.0]]})
    refused("holds no logits of the 3 phantoms")


def test_phantoms_pass_through_the_files_of_their_kind(slide_run: Run) -> None:
    with phantoms(slide_run.preprocessing) as sources:
        shapes = [slide_run.preprocessing.load(source).shape for source in sources]
        assert all(Path(source.path).is_file() for source in sources)
    assert shapes == [(3, 288, 288), (3, 360, 288), (3, 288, 216)], "the box of the tissue, at half the resolution"
    assert not any(Path(source.path).exists() for source in sources)


def test_every_training_records_them(run: Run) -> None:
    (result,) = reproduce(run.folder).values()
    assert result.same
    assert json.loads(run.directory.digests.read_text()).keys() >= {"phantoms.json"}
    with pytest.raises(UserError, match=r"is not a run directory"):
        reproduce(run.folder.parent / "nowhere")
