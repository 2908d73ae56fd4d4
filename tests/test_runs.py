"""A run directory: opened, refused, calibrated anew."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

import softfree
from softfree.data.task import Task
from softfree.data.transforms import Preprocessing
from softfree.errors import UserError
from softfree.runs import Operating, Run, build_model, read_config, read_cost, read_operating, write_config


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """The trained run's folder, free to be damaged."""
    return Path(shutil.copytree(run.folder, tmp_path / "copy"))


def test_a_loaded_run_is_the_trained_one(trained_once: Run) -> None:
    run = softfree.load(str(trained_once.folder))
    assert run == trained_once
    assert run.task == Task("binary", ("high", "low"))
    assert run.preprocessing == Preprocessing("radiograph", 32, "pad", 1)
    assert run.operating.thresholds.keys() == {"low"}
    assert not run.model.training
    weights = load_file(run.folder / "model.safetensors")
    assert run.model.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[name]) for name, value in run.model.state_dict().items())


def test_a_run_can_be_moved(run: Run, copy: Path) -> None:
    picture = str(run.folder.parent / "data" / "00.png")
    assert Run.load(copy).predict(picture).equals(run.predict(picture))


def test_another_operating_point_is_kept(copy: Path) -> None:
    run = Run.load(copy)
    before = run.operating
    changed = run.with_operating(Operating(2.5, {"low": 0.1}))
    assert changed.operating == Run.load(copy).operating == Operating(2.5, {"low": 0.1})
    assert run.operating == before
    (copy / "operating.json").unlink()
    assert Run.load(copy).operating == Operating(1.0, {})


def test_the_configuration_alone_describes_the_model(run: Run, quick: dict[str, Any]) -> None:
    fresh, model = build_model(run.config).eval(), Run.load(run.folder).model
    pixels = torch.ones(1, 1, 32, 32)
    assert not torch.equal(fresh(pixels), model(pixels))
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh(pixels), model(pixels))
    assert run.config["model"]["name"] == quick["model"]


def test_a_training_that_has_not_ended_says_how_to_go_on(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(UserError, match=f"go on with: softfree train --resume {copy}"):
        Run.load(copy)


def test_weights_of_another_model_are_refused(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    save_file({name: value for name, value in weights.items() if "qkv" not in name}, copy / "model.safetensors")
    with pytest.raises(UserError, match="does not hold the weights that config"):
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
        read_config(tmp_path)
    assert "\n" not in str(error.value)


def test_a_configuration_comes_back_in_its_order(tmp_path: Path) -> None:
    config = {"task": {"classes": ["Erguß", "anders"]}, "preprocessing": {}, "options": {"lr": 1e-5}, "model": None}
    write_config(tmp_path / "new", config)
    assert read_config(tmp_path / "new") == config
    text = (tmp_path / "new" / "config.yaml").read_text(encoding="utf-8")
    assert list(yaml.safe_load(text)) == list(config)
    assert "Erguß" in text


def test_the_cost_is_there_or_empty(run: Run, tmp_path: Path) -> None:
    cost = read_cost(run.folder)
    assert cost["parameters"] == sum(p.numel() for p in run.model.parameters())
    assert cost["shape"] == [1, 32, 32]
    assert read_cost(tmp_path) == {}


@pytest.mark.parametrize("text", ["{", "[]", '{"temp": 1}'])
def test_damaged_operating_points_are_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "operating.json").write_text(text)
    with pytest.raises(UserError, match="copy the run again"):
        read_operating(tmp_path)


def test_a_damaged_cost_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "cost.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read as JSON"):
        read_cost(tmp_path)


def test_a_task_without_kind_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not say its task"):
        _ = Run(tmp_path, {"task": {"kin": "binary"}}).task
