import json
import math
import shlex
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from softfree.cli.main import main
from softfree.conversion.calibration import labeled_table
from softfree.conversion.convert import convert, infer
from softfree.conversion.next_step import next_command
from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import open_source
from softfree.inference.run import Run
from softfree.models import create_model, load_pretrained
from softfree_runtime.core.errors import UserError

from .conftest import DEPTH, HEADS, WIDTH


@pytest.fixture
def given(softmax_run, tmp_path):
    table = Run.load(softmax_run).config["options"]["table"]
    return ConvertOptions(images=[table], out=tmp_path / "made.safetensors", batch_size=6, progress=False)


def loaded(path: Path, **attention_options):
    shape = {
        "depth": DEPTH,
        "embed_dim": WIDTH,
        "num_heads": HEADS,
        "patch_size": 8,
        "stem": "pool",
        "pool": "mean_topk",
    }
    made = {"num_classes": 2, "img_size": 32, "in_chans": 1, "attention_options": attention_options, **shape}
    model = create_model("seqnorm_vit_nano_patch16", **made).eval()
    return model, load_pretrained(model, path)


@pytest.mark.parametrize("normalized", ["qk", "qkv"])
def test_each_stage_comes_closer(softmax_run, given, normalized):
    done = convert(str(softmax_run), replace(given, normalized=normalized, adam_steps=20))
    assert list(done.errors) == ["block 0", "block 1", "features"]
    for errors in done.errors.values():
        assert list(errors) == ["plain", "first_order", "closed_form", "fit"]
        assert errors["closed_form"] < 0.7 * min(errors["plain"], 1)
    for block in ("block 0", "block 1"):
        assert done.errors[block]["closed_form"] <= done.errors[block]["first_order"]
        assert done.errors[block]["fit"] <= done.errors[block]["closed_form"]
    assert list(done.auroc) == ["source", "plain", "first_order", "closed_form", "fit"]
    assert done.auroc["source"] == done.auroc["fit"] == 1.0
    assert done.images == 16


def test_the_file_says_what_it_is_for_and_fills_that_model(softmax_run, given):
    done = convert(str(softmax_run), given)
    with safe_open(given.out, "pt") as file:
        stated = file.metadata()
    assert stated["model"] == done.model == "seqnorm_vit_nano_patch16"
    assert json.loads(stated["attention_options"]) == done.attention_options == {"normalized": "qk"}
    model, report = loaded(given.out, normalized="qk")
    assert report.resized == report.new == report.dropped == ()
    source = Run.load(softmax_run).model
    weights = source.state_dict()
    assert torch.equal(model.blocks[1].attn.qkv.weight, weights["blocks.1.attn.qkv.weight"])
    assert torch.equal(model.head.weight, weights["head.weight"])


def test_another_normalization_is_refused(softmax_run, given):
    convert(str(softmax_run), given)
    with pytest.raises(UserError, match=r"converted for normalized='qk'.*add --attention-options '\{normalized: qk\}'"):
        loaded(given.out)
    softmax = create_model("softmax_vit_nano_patch16", depth=DEPTH, embed_dim=WIDTH, num_heads=HEADS)
    assert load_pretrained(softmax, given.out).matched


def test_the_next_command_runs(softmax_run, given, tmp_path, capsys):
    command = shlex.split(convert(str(softmax_run), given).command)
    assert command[:2] == ["softfree", "train"]
    command[command.index("--out") + 1] = str(tmp_path / "next")
    short = ["--epochs", "1", "--batch-size", "4", "--progress=false", "--accelerator", "cpu"]
    assert main([*command[1:], *short]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "new 0 dropped 0" in printed
    assert Run.load(tmp_path / "next").config["model"]["attention_options"] == {"normalized": "qk"}


def test_the_verb_prints_a_table_or_json(softmax_run, given, capsys):
    command = ["convert", str(softmax_run), "--images", *given.images, "--out", str(given.out)]
    assert main([*command, "--progress=false"]) == 0
    printed = capsys.readouterr().out
    assert "closed form" in printed
    assert "Next: softfree train" in printed
    assert main([*command, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["attention_options"] == {"normalized": "qk"}
    assert math.isfinite(content["errors"]["features"]["closed_form"])


def test_the_auroc_is_that_of_images_the_run_was_not_trained_on(softmax_run, given, monkeypatch, capsys):
    tested = []
    monkeypatch.setattr(
        "softfree.conversion.convert.infer",
        lambda *args, **kwargs: (tested.append(len(args[1])), infer(*args, **kwargs))[1],
    )
    rows = pd.read_csv(given.images[0]).drop(columns="split").assign(age=50)
    table = Path(given.images[0]).with_name("again.csv")
    rows.to_csv(table, index=False)
    assert convert(str(softmax_run), replace(given, images=[str(table)])).auroc["source"] == 1.0
    assert set(tested) == {8}
    assert "24 test rows left out: the run was trained on their files or patients" in capsys.readouterr().err
    rows.iloc[:24].to_csv(table, index=False)
    command = ["convert", str(softmax_run), "--images", str(table), "--out", str(given.out), "--progress=false"]
    assert main(command) == 0
    assert "No AUROC: the table has no test rows that the run was not trained on" in capsys.readouterr().out


def test_the_next_command_keeps_a_split_that_was_drawn(softmax_run, given):
    origin = open_source(str(softmax_run), given)
    table = labeled_table(origin.run, given.images)
    assert "--split-from" not in next_command(origin, {**origin.arguments}, given, table)
    origin.run.config["table"]["split"] = "patients drawn"
    assert "--split-from" not in next_command(origin, origin.arguments, given, table)  # one with a split of its own
    words = shlex.split(next_command(origin, origin.arguments, given, replace(table, split_made="patients drawn")))
    assert words[words.index("--split-from") + 1] == str(softmax_run)


def test_published_weights_become_a_model_that_begins_where_they_ended(given, tmp_path, capsys):
    torch.manual_seed(0)
    shape = {"embed_dim": 32, "depth": 2, "num_heads": 2}
    published = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=5, init_values=0.5, **shape)
    save_file(published.state_dict(), tmp_path / "vit.safetensors")
    made = {"model": "softmax_vit_nano_patch16", "model_options": shape, "preset": "photo", "size": 64}
    done = convert(str(tmp_path / "vit.safetensors"), replace(given, **made))
    assert done.errors["features"]["closed_form"] < 0.1  # a random model's scores are small
    assert done.auroc == {}
    words = shlex.split(done.command)
    pairs = dict(zip(words[3::2], words[4::2], strict=True))
    assert (pairs["--stem"], pairs["--pool"], pairs["--preset"], pairs["--size"]) == ("patch", "token", "photo", "64")
    quick = [
        "--epochs",
        "1",
        "--batch-size",
        "4",
        "--progress=false",
        "--accelerator",
        "cpu",
        "--out",
        str(tmp_path / "r"),
    ]
    assert main([*words[1:], *quick]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "new 2 head.weight, head.bias dropped 2 head." in printed


def test_images_without_labels_give_no_auroc(softmax_run, given):
    folder = Path(given.images[0]).parent
    done = convert(str(softmax_run), replace(given, images=[str(folder)], count=5))
    assert (done.auroc, done.images) == ({}, 5)
    assert "have no labels" in done.no_auroc_reason


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention": "sima"}, "--attention sima: only seqnorm"),
        ({"out": Path("a.pth")}, "ends in .safetensors"),
        ({"count": 0}, "--count 0"),
        ({"adam_steps": -1}, "--adam-steps -1"),
        ({"images": ["nowhere.png"]}, "none of the 1 images can be read"),
    ],
    ids=str,
)
def test_a_mistake_is_told_and_nothing_is_written(softmax_run, given, changes, message, tmp_path):
    with pytest.raises(UserError, match=message):
        convert(str(softmax_run), replace(given, **changes))
    assert list(tmp_path.iterdir()) == []


def test_what_was_converted_is_not_converted_again(softmax_run, given):
    convert(str(softmax_run), given)
    shape = {"depth": DEPTH, "embed_dim": WIDTH, "num_heads": HEADS, "patch_size": 8}
    again = replace(given, model="seqnorm_vit_nano_patch16", model_options=shape, preset="radiograph", size=32)
    with pytest.raises(UserError, match=r"does not fill seqnorm_vit_nano_patch16: blocks\.0\.attn\.qkv\.bias"):
        convert(str(given.out), again)
