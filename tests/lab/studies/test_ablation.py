import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from softfree.training.checkpoints import folder_lock
from softfree_lab.cli import main
from softfree_lab.studies.ablation import read_recipe
from softfree_runtime.core.errors import UserError

TINY = {
    "model": "seqnorm_vit_nano_patch16", "size": 32, "epochs": 1, "batch_size": 4, "accelerator": "cpu",
    "model_options": {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
}  # fmt: skip


@pytest.fixture
def recipe(small_table: Path, tmp_path: Path) -> Path:
    file = tmp_path / "films.yaml"
    file.write_text(yaml.safe_dump({"table": str(small_table.relative_to(tmp_path)), **TINY}))
    return file


@pytest.mark.slow
def test_a_study_trains_records_and_goes_on(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants = tmp_path / "two.yaml"
    variants.write_text("softmax: {attention: softmax}\nfast: {lr: 0.01}\n")
    out = tmp_path / "study"
    arguments = [
        "study", "ablation", str(recipe), "--variants", f"[{variants}]", "--seeds", "[0]", "--scales", "[1, 1.5]",
        "--out", str(out), "--jobs", "2",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "| fast |" in capsys.readouterr().out
    record = (out / "cells.jsonl").read_text()
    assert not (out / "runs" / "films" / "softmax_seed0").exists(), "only what the tables need is kept"
    assert len(pd.read_csv(out / "cells.csv")) == 2 * 2 + 1, "variants at two sides, and the baseline"
    assert {path.name for path in out.glob("*.png")} == {"summary.png", "scales.png"}
    assert str(tmp_path) not in record, "paths are nobody's business"
    assert main(arguments) == 0
    assert (out / "cells.jsonl").read_text() == record, "nothing was trained again"
    capsys.readouterr()
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 2"))
    assert main(arguments) == 2
    assert "epochs 1, but 2 was requested" in capsys.readouterr().err


@pytest.mark.slow
def test_folds_hold_out_every_image_once(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    variants, out = tmp_path / "one.yaml", tmp_path / "study"
    variants.write_text("plain: {}\n")
    arguments = ["study", "ablation", str(recipe), "--variants", f"[{variants}]", "--seeds", "[0]", "--folds", "2"]
    assert main([*arguments, "--out", str(out)]) == 0
    trials = [json.loads(line) for line in (out / "cells.jsonl").read_text().splitlines()]
    keys = [(trial["key"]["variant"], trial["key"]["fold"]) for trial in trials]
    assert sorted(keys) == [("32 x 32 pixels", 1), ("32 x 32 pixels", 2), ("plain", 1), ("plain", 2)]
    held = {key: len(trial["targets"]) for key, trial in zip(keys, trials, strict=True)}
    assert held["plain", 1] + held["plain", 2] == 32 == held["32 x 32 pixels", 1] + held["32 x 32 pixels", 2]
    assert str(tmp_path) not in (out / "cells.jsonl").read_text()
    summary = pd.read_csv(out / "summary.csv").set_index("variant")
    assert summary.loc["32 x 32 pixels", "auroc"] == 1, "bright at the top or at the bottom"
    variants.write_text("plain: {patience: 3}\n")
    assert main([*arguments, "--out", str(out)]) == 2
    assert "patience would choose the epoch on the held-out fold" in capsys.readouterr().err


@pytest.mark.slow
def test_a_cell_that_fails_does_not_stop_the_others(recipe: Path, tmp_path: Path, capsys) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text(yaml.safe_dump({"table": "broken.csv", **TINY}))
    (tmp_path / "broken.csv").write_text("path,label\nno.png,a\nno2.png,b\n")
    variants = tmp_path / "one.yaml"
    variants.write_text("plain: {}\n")
    out = tmp_path / "study"
    arguments = ["study", "ablation", str(broken), str(recipe), "--variants", f"[{variants}]", "--seeds", "[0]"]
    assert main([*arguments, "--out", str(out)]) == 2
    assert "1 of 2 trials failed, the others are kept; the first: broken, plain, seed 0:" in capsys.readouterr().err
    keys = [json.loads(line)["key"] for line in (out / "cells.jsonl").read_text().splitlines()]
    assert [(key["data"], key["variant"]) for key in keys] == [("films", "32 x 32 pixels"), ("films", "plain")]


def test_a_recipe_names_its_table_from_the_data_folder(recipe: Path, tmp_path: Path) -> None:
    assert read_recipe(recipe, None).table == tmp_path / "data" / "table.csv"
    moved = tmp_path / "elsewhere.yaml"
    moved.write_text(yaml.safe_dump({"table": "table.csv"}))
    assert read_recipe(moved, tmp_path / "data").table == tmp_path / "data" / "table.csv"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "either table or phantoms"),
        ({"table": "data/table.csv", "phantoms": {}}, "either table or phantoms"),
        ({"table": "data/no.csv"}, "name the folder of the tables with --data"),
        ({"table": "data/table.csv", "epoch": 3}, "did you mean epochs"),
        (
            {"table": "data/table.csv", "seed": 3},
            "seed is not for recipes, because the study sets it by --seeds",
        ),
        ({"table": "data/table.csv", "image_root": "data"}, "image_root is not for recipes, .* put the table there"),
        ({"phantoms": {"count": 32}}, "expected a mapping of some of n_train, n_val, n_test, size, seed"),
        ({"phantoms": 32}, "got phantoms 32"),
        ({"table": "data/table.csv", "image": "data"}, r"'image': (?!did you mean images)"),
    ],
)
def test_recipes_that_cannot_work(small_table: Path, tmp_path: Path, content: dict[str, object], message: str) -> None:
    file = tmp_path / "films.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match=message):
        read_recipe(file, None)


def test_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        read_recipe(tmp_path / "no.yaml", None)


def test_nothing_is_trained_when_a_variant_cannot_work(recipe: Path, tmp_path: Path, capsys) -> None:
    variants = tmp_path / "bad.yaml"
    variants.write_text("softmax: {attention: softmax}\nmixed: {mixup: 0.5}\n")
    out = tmp_path / "study"
    assert main(["study", "ablation", str(recipe), "--variants", f"[{variants}]", "--out", str(out)]) == 2
    assert "--mixup and --cutmix are for the color presets" in capsys.readouterr().err
    assert not out.exists()


def test_a_study_has_its_folder_to_itself(recipe: Path, tmp_path: Path, capsys) -> None:
    with folder_lock(tmp_path / "study"):
        arguments = ["study", "ablation", str(recipe), "--variants", "[zoo]", "--out", str(tmp_path / "study")]
        assert main(arguments) == 2
    assert "another process is running a study in" in capsys.readouterr().err
