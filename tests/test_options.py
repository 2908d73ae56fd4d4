"""Options: their names, their defaults, and how they are read from text."""

import dataclasses
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import pytest
from jsonargparse import ArgumentParser

from softfree.core.options import ModelOptions, PresetName, ResizeMode, Split, TrainOptions
from softfree.data.modalities.image import ImageAugmentation, ImagePreprocessing
from softfree.data.table import SPLITS
from softfree.models import list_models
from softfree_lab.bench.options import LoaderBenchOptions
from softfree_lab.studies.options import AblationOptions
from softfree_lab.studies.variants import PRESETS

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(file.relative_to(ROOT / root).with_suffix("").parts)
    for root in ("src", "lab/src")
    for file in sorted((ROOT / root).rglob("options.py"))
]
GROUPS: list[Any] = [
    group
    for module in MODULES
    for group in vars(import_module(module)).values()
    if dataclasses.is_dataclass(group) and group.__module__ == module
]


@pytest.mark.parametrize("group", GROUPS, ids=lambda group: group.__name__)
def test_every_field_is_described_for_help(group: type) -> None:
    described = set(re.findall(r"^ {8}(\w+): ", group.__doc__ or "", re.MULTILINE))
    assert set(vars(group).get("__annotations__", {})) == described


@pytest.mark.parametrize("group", [g for g in GROUPS if len(g.__mro__) > 3], ids=lambda group: group.__name__)
def test_joined_groups_have_no_name_in_common(group: type) -> None:
    names = [name for part in group.__mro__[:-1] for name in vars(part).get("__annotations__", {})]
    assert sorted(names) == sorted({field.name for field in dataclasses.fields(group)})


def test_defaults_are_names_that_exist() -> None:
    assert {ModelOptions().model, LoaderBenchOptions().model} <= set(list_models())
    assert set(AblationOptions().variants) <= set(PRESETS)
    assert get_args(Split) == SPLITS


def test_every_preset_and_fit_is_known_to_preprocessing() -> None:
    for preset in get_args(PresetName):
        for resize_mode in get_args(ResizeMode):
            preprocessing = ImagePreprocessing.create(preset, 32, resize_mode)
            assert len(preprocessing.in_words()) == 2
            assert ImageAugmentation(preprocessing).in_words()


def test_one_object_does_not_change_the_next() -> None:
    first = TrainOptions(table=Path("a.csv"))
    first.model_options["patch_size"] = 8
    assert TrainOptions(table=Path("a.csv")).model_options == {}


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("labels", "[effusion, nodule]", ["effusion", "nodule"]),
        ("channels", "3", 3),
        ("model_options", "{patch_size: 8}", {"patch_size": 8}),
        ("attention_options", "{affine: false}", {"affine": False}),
        ("layer_scale", "1e-5", 1e-5),
        ("lr", "1e-4", 1e-4),
        ("precision", "fp16", "fp16"),
        ("devices", "2", 2),
        ("devices", "auto", "auto"),
        ("out", "runs/a", Path("runs/a")),
    ],
)
def test_text_becomes_the_type_of_the_field(name: str, text: str, value: Any, tmp_path: Path) -> None:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(TrainOptions, None)
    parser.add_argument("--config", action="config")
    quoted = f"'{text}'" if isinstance(value, str) else text
    (tmp_path / "chosen.yaml").write_text(f"{name}: {quoted}\n")
    for given in ([f"--{name}", text], ["--config", str(tmp_path / "chosen.yaml")]):
        read = parser.instantiate_classes(parser.parse_args(["--table", "t.csv", *given]))[name]
        assert read == value
        assert isinstance(read, type(value))


def test_options_load_nothing_heavy() -> None:
    code = f"import sys, {', '.join(MODULES)}; print([m for m in ('torch', 'numpy', 'pandas') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
