"""A run directory: opened, refused, calibrated anew."""

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import softfree
from softfree.data.modalities.image import ImagePreprocessing
from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration, RunDirectory
from softfree.models.registry import build_model
from softfree_runtime.core.conformal import ConformalSets
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The trained run's folder, free to be damaged."""
    return Path(shutil.copytree(run.folder, tmp_path / "copy"))


def test_a_loaded_run_is_the_trained_one(trained_once: Run) -> None:
    run = softfree.load(str(trained_once.folder))
    assert run == trained_once
    assert run.task == Task("binary", ("high", "low"))
    assert run.preprocessing == ImagePreprocessing("radiograph", 32, "pad", 1)
    assert run.calibration.thresholds.keys() == {"low"}
    assert not run.model.training
    weights = load_file(run.folder / "model.safetensors")
    assert run.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())


def test_a_run_can_be_moved(run: Run, copy: Path) -> None:
    image = str(run.folder.parent / "data" / "00.png")
    assert Run.load(copy).predict(image).equals(run.predict(image))


def test_another_calibration_is_kept(copy: Path) -> None:
    run = Run.load(copy)
    before = run.calibration
    changed = run.with_calibration(Calibration(2.5, {"low": 0.1}))
    assert changed.calibration == Run.load(copy).calibration == Calibration(2.5, {"low": 0.1})
    assert run.calibration == before
    (copy / "calibration.json").unlink()
    assert Run.load(copy).calibration == Calibration(1.0, {})


def test_conformal_sets_are_kept_and_checked(copy: Path) -> None:
    trained = Run.load(copy)
    assert trained.calibration.sets is not None
    assert trained.calibration.sets.coverage == trained.config["options"]["coverage"] == 0.9
    sets = ConformalSets(0.8, {"high": 0.25, "low": 0.0})
    assert trained.with_calibration(Calibration(2.5, sets=sets)).calibration == Run.load(copy).calibration
    for content, words in (
        ({"coverage": 0.8, "present": {"high": 0.25}, "absent": {}}, "sets.present has .'high'.; expected high, low"),
        ({"coverage": 0.8, "present": {"high": 1.25, "low": 0.1}, "absent": {}}, "sets has 1.25; expected"),
        ({"coverage": 1.0, "present": {"high": 0.2, "low": 0.1}, "absent": {}}, "sets has 1.0; expected"),
        ({"coverage": 0.8, "present": {"high": "x", "low": 0.1}, "absent": {}}, "sets.present is"),
        ([], "sets is"),
    ):
        (copy / "calibration.json").write_text(json.dumps({"temperature": 1.0, "thresholds": {}, "sets": content}))
        with pytest.raises(UserError, match=words):
            Run.load(copy)


def test_the_configuration_alone_describes_the_model(run: Run, quick: dict[str, Any]) -> None:
    fresh, model = build_model(run.config).eval(), Run.load(run.folder).model
    pixels = torch.ones(1, 1, 32, 32)
    assert not torch.equal(fresh(pixels), model(pixels))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(pixels), model(pixels))
    assert run.config["model"]["name"] == quick["model"]


def test_a_training_that_has_not_ended_says_how_to_go_on(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"resume it with: softfree train --resume {copy}"):
        Run.load(copy)


def test_weights_of_another_model_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "qkv" not in name}, copy / "model.safetensors")
    with pytest.raises(UserError, match="not the file that training wrote"):
        Run.load(copy).model  # noqa: B018
    (copy / "digests.json").unlink()  # of a run that has none
    with pytest.raises(UserError, match="does not contain the weights that config"):
        Run.load(copy).model  # noqa: B018


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"task: {", "cannot be read as YAML"),
        (b"task: \xff", "cannot be read as YAML"),
        (b"", "not a softfree configuration"),
        (b"- task\n- model\n", "not a softfree configuration"),
        (b"task: 1\nmodel: 2\noptions: 3\n", "not a softfree configuration"),
        (None, "made by softfree train"),
    ],
)
def test_what_is_no_configuration(tmp_path: Path, content: bytes | None, words: str) -> None:
    if content is not None:
        (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(UserError, match=words) as error:
        RunDirectory(tmp_path).read_config()
    assert "\n" not in str(error.value)


def test_a_configuration_comes_back_in_its_order(tmp_path: Path) -> None:
    config = {"task": {"classes": ["Erguß", "anders"]}, "preprocessing": {}, "options": {"lr": 1e-5}, "model": None}
    RunDirectory(tmp_path / "new").write_config(config)
    assert RunDirectory(tmp_path / "new").read_config() == config
    text = (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == list(config)
    assert "Erguß" in text


def test_the_cost_is_there_or_empty(run: Run, tmp_path: Path) -> None:
    cost = run.directory.read_cost()
    assert cost["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert cost["shape"] == [1, 32, 32]
    assert RunDirectory(tmp_path).read_cost() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "JSON"),
        ("[]", "JSON object"),
        ('{"temp": 1}', "temp"),
        ('{"temperature": -0.5}', "temperature is -0.5"),
        ('{"temperature": 0}', "temperature is 0"),
        ('{"temperature": NaN}', "temperature is nan"),
        ('{"temperature": null}', "temperature is None"),
        ('{"temperature": "1"}', "temperature is '1'"),
        ('{"temperature": true}', "temperature is True"),
        ('{"thresholds": []}', "thresholds"),
        ('{"thresholds": {"low": 1.5}}', "'low' is 1.5"),
        ('{"thresholds": {"low": "a"}}', "thresholds"),
        ('{"thresholds": {"other": 0.5}}', "threshold of 'other'"),
    ],
)
def test_calibrations_that_cannot_be_are_one_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(UserError, match=words) as error:
        RunDirectory(tmp_path).read_calibration(Task("binary", ("high", "low")))
    assert str(tmp_path / "calibration.json") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_damaged_cost_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "cost.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        RunDirectory(tmp_path).read_cost()


def _leaves(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths to all values of a configuration, dictionaries and lists themselves among them."""
    if at:
        yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from _leaves(one, (*at, key))


def _edited(config: dict[str, Any], at: tuple[Any, ...], value: Any) -> dict[str, Any]:
    config = deepcopy(config)
    inner = config
    for key in at[:-1]:
        inner = inner[key]
    if value is _edited:  # a mark: delete it
        del inner[at[-1]]
    else:
        inner[at[-1]] = value
    return config


@pytest.mark.parametrize("part", ["task", "preprocessing", "model", "options"])
def test_no_edit_of_a_configuration_is_a_traceback_or_goes_unsaid(
    copy: Path, part: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if yaml.__with_libyaml__:  # the same ten times as fast
        monkeypatch.setattr(yaml, "safe_load", partial(yaml.load, Loader=yaml.CSafeLoader))
        monkeypatch.setattr(yaml, "safe_dump", partial(yaml.dump, Dumper=yaml.CSafeDumper))
    config = RunDirectory(copy).read_config()
    image = np.random.default_rng(0).integers(0, 255, (40, 40), np.uint8)
    said: list[str] = []
    for at in _leaves({part: config[part]}):
        for value in (_edited, "no such word", -1, float("nan"), [], None):
            RunDirectory(copy).write_config(_edited(config, at, value))
            try:
                run = Run.load(copy)
                if part != "options":
                    rows = run.predict(image)
                    assert ((rows.filter(like="p_") >= 0) & (rows.filter(like="p_") <= 1)).all(None), (at, value)
            except UserError as error:
                said.append(str(error))
            else:
                changed = _edited(config, at, value) != config
                assert not changed or "config.yaml was changed" in capsys.readouterr().err, (at, value)
    assert len(said) > 10
    assert not [line for line in said if "\n" in line or not re.search("config.yaml|calibration.json|model", line)]


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (("task", "kind"), "binry", "task.kind is 'binry'; expected binary or multiclass or ordinal"),
        (("task", "classes"), ["a", "a"], "task.classes"),
        (("preprocessing", "resize_mode"), "padd", "preprocessing.resize_mode is 'padd'; expected pad or"),
        (("preprocessing", "preset"), "radio", "preprocessing.preset is 'radio'"),
        (("preprocessing", "size"), "32", "preprocessing.size is '32'; expected a whole number"),
        (("preprocessing", "kind"), "film", "preprocessing.kind is 'film'"),
        (("model", "num_classes"), 3, "model.num_classes is 3 for 2 classes"),
        (("model", "in_chans"), 3, "model.in_chans is 3; the preprocessing gives 1"),
        (("model", "depth"), "deep", "model"),
        (("options", "seed"), "one", "options.seed is 'one'"),
    ],
)
def test_the_field_that_is_wrong_is_named(copy: Path, at: tuple[str, ...], value: Any, words: str) -> None:
    RunDirectory(copy).write_config(_edited(RunDirectory(copy).read_config(), at, value))
    with pytest.raises(UserError, match=words):
        Run.load(copy).model  # noqa: B018


def test_stored_predictions_that_were_edited_are_not_taken(copy: Path, run: Run) -> None:
    from softfree.reporting.scoring import open_table, stored_rows

    part = open_table(run).where("test")
    assert stored_rows(Run.load(copy), part) is not None
    (copy / "predictions.csv").write_text((copy / "predictions.csv").read_text().replace("0.", "1.", 1))
    assert stored_rows(Run.load(copy), part) is None
