from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from softfree.attention import SeqNormAttention
from softfree.data.dataset import SampleDataset
from softfree.data.modalities.image import ImagePreprocessing
from softfree.models import create_model
from softfree.models.registry import create_case_model
from softfree.training.configuration import read_training_table
from softfree.training.loop import train
from softfree.training.modality import create_preprocessing
from softfree.training.weights import (
    _chosen,
    imitate_softmax,
    is_softmax,
    load_weights,
    options_for_weights,
    refuse_seen,
)
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers import DecodedImage

SIZE = {"depth": 2, "embed_dim": 32, "num_heads": 2, "patch_size": 8}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A softmax ViT of timm's with a class token, as it is published: a safetensors file of its state."""
    torch.manual_seed(0)
    vit = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=10, init_values=0.5
    )
    for parameter in vit.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter) * parameter.std()
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(vit.state_dict(), path)
    return path


def test_a_softmax_vit_is_converted_on_the_way(
    options_for: Any, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(options_for(weights=str(published), preset="photo", epochs=1, lr=1e-12)).run
    text = " ".join(capsys.readouterr().err.split())
    assert "--stem patch is used" in text
    assert "SeqNorm keeps the mean of V" in text
    assert "converted to SeqNorm on 16 training images" in text
    match = re.search(r"differ by (\S+) standard deviations .* layers\), (\S+) without", text)
    assert match is not None
    after, before = map(float, match.groups())
    assert after < 0.9 * before
    assert run.config["model"]["attention_options"] == {"normalized": "qk"}
    assert run.config["model"]["stem"] == "patch"
    kept = load_file(run.folder / "model.safetensors")
    torch.testing.assert_close(kept["blocks.0.mlp.fc1.weight"], load_file(published)["blocks.0.mlp.fc1.weight"])
    assert not torch.equal(kept["blocks.0.attn.q_norm.weight"], torch.ones_like(kept["blocks.0.attn.q_norm.weight"]))


@pytest.mark.parametrize(("number", "last"), [(10, 9), (100, 99), (127, 126), (191, 190)])
def test_images_for_a_conversion_are_taken_evenly_and_as_they_are(number: int, last: int) -> None:
    images = [DecodedImage(np.full((16, 16, 1), index, np.uint8), 0, 255, None, (), "") for index in range(number)]
    steps = ImagePreprocessing.create("photo", 16, "native", 1)
    samples = SampleDataset(images, None, steps, augmentation=lambda image, _: image + 1000)
    places = np.linspace(0, number - 1, min(number, 64)).astype(int)
    assert places[-1] == last
    plain = SampleDataset(images, None, steps)
    for image, place in zip(_chosen(samples), places, strict=True):
        torch.testing.assert_close(image, plain[place]["image"])


def test_an_attention_without_a_closed_form_says_so(
    options_for: Any, published: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(options_for(weights=str(published), preset="photo", epochs=1, model="sima_vit_nano_patch16"))
    assert "which only SeqNorm can imitate: SimaAttention" in " ".join(capsys.readouterr().err.split())


def test_weights_of_a_run_bring_their_stem(options_for: Any, run: Any, tmp_path: Path) -> None:
    own, said = options_for_weights(options_for(weights=str(run.folder)))
    assert (own.stem, said) == ("pool", ())
    strided = Path(shutil.copytree(run.folder, tmp_path / "strided"))
    config = strided / "config.yaml"
    config.write_text(config.read_text().replace("stem: pool", "stem: conv"))
    other, said = options_for_weights(options_for(weights=str(strided)))
    assert other.stem == "conv"
    assert said == ("the weights have a stem of strided convolutions: --stem conv is used",)


@pytest.mark.parametrize("option", ["weights", "teacher"])
@pytest.mark.parametrize(
    ("splits", "known"),
    [
        ({"train": "test", "test": "train"}, 16),
        ({"train": "val", "val": "train"}, 16),
        ({"val": "test", "test": "val"}, 8),
        ({}, 0),
    ],
    ids=str,
)
def test_a_run_is_not_tested_on_images_that_it_knows(
    options_for: Any, run: Any, option: str, splits: dict[str, str], known: int
) -> None:
    """It may be validated on its own validation rows."""
    options = options_for(**{option: run.folder if option == "teacher" else str(run.folder)})
    rows = pd.read_csv(options.table)
    rows.assign(split=rows["split"].replace(splits), age=50).to_csv(options.table, index=False)
    table = read_training_table(options)
    if not known:
        refuse_seen(option, run.folder, table, create_preprocessing(options, table.sources))
        return
    with pytest.raises(UserError, match=rf"--{option} .* was trained on {known} of the (16|24) rows .*--split-from"):
        train(options)
    assert not options.out.exists()


def test_weights_know_no_image_of_the_split_that_they_were_trained_with(options_for: Any, run: Any) -> None:
    options = options_for()
    pd.read_csv(options.table).drop(columns="split").to_csv(options.table, index=False)
    for source in (run.folder, str(run.folder / "model.safetensors")):
        for own, refused in ((replace(options, seed=5), True), (replace(options, split_from=run.folder), False)):
            table = read_training_table(own)
            given = "weights", source, table, create_preprocessing(own, table.sources)
            if refused:
                with pytest.raises(UserError, match=f"use its split with --split-from {run.folder}"):
                    refuse_seen(*given)
            else:
                refuse_seen(*given)


def test_own_weights_are_not_converted(options_for: Any, run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    options = options_for(weights=str(run.folder), model_options=run.config["options"]["model_options"])
    assert options_for_weights(options) == (options, ())
    assert imitate_softmax(run.model, run.config["model"], str(run.folder), None) is None  # type: ignore[arg-type]
    assert all(isinstance(block.attn, SeqNormAttention) for block in run.model.blocks)


def test_a_softmax_run_is_known_by_its_configuration(tmp_path: Path) -> None:
    for name, softmax in (("softmax_vit_nano_patch16", True), ("sima_vit_nano_patch16", False)):
        (tmp_path / "config.yaml").write_text(f"model: {{name: {name}}}")
        assert is_softmax(str(tmp_path), {"blocks.0.attn.qkv.weight"}) is softmax


def test_weights_without_positions_are_refused(options_for: Any, published: Path, tmp_path: Path) -> None:
    rotary = {name: tensor for name, tensor in load_file(published).items() if name != "pos_embed"}
    save_file(rotary, tmp_path / "rotary.safetensors")
    options = options_for(weights=str(tmp_path / "rotary.safetensors"))
    with pytest.raises(UserError, match="rotary"):
        train(options)
    assert not options.out.exists()


def test_softmax_weights_for_cases_are_converted(
    options_for: Any, published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = options_for(weights=str(published), preset="photo", epochs=1, lr=1e-12)
    frame = pd.read_csv(options.table)
    frame["case_id"] = [
        f"{label} {split} {n // 2}" for n, (label, split) in enumerate(zip(frame["label"], frame["split"], strict=True))
    ]
    views = frame.groupby("case_id").cumcount().map({0: "first", 1: "second"}).fillna("third")
    frame.assign(view=views).drop(columns="patient_id", errors="ignore").to_csv(
        options.table.with_name("cases.csv"), index=False
    )
    (tmp_path / "views.yaml").write_text("first: {}\nsecond: {size: 16}\nthird: {}\n")
    for changes in ({}, {"views": tmp_path / "views.yaml"}):
        own = replace(
            options, table=options.table.with_name("cases.csv"), out=tmp_path / f"run{len(changes)}", **changes
        )
        run = train(own).run
        text = " ".join(capsys.readouterr().err.split())
        match = re.search(r"on (\d+) training cases: .* differ by (\S+) standard .* layers\), (\S+) without", text)
        assert match is not None
        assert float(match[2]) < 0.9 * float(match[3])
        kept = load_file(run.folder / "model.safetensors")
        patches = load_file(published)["patch_embed.proj.weight"]
        names = [name for name in kept if name.endswith("patch_embed.proj.weight")]
        assert len(names) == 1 + len(changes)
        assert all(torch.allclose(kept[name], patches) for name in names)


def test_image_weights_are_inflated_for_cases_of_volumes(published: Path) -> None:
    options = {"img_size": (8, 16, 16), "in_chans": 1, "num_classes": 2, "depth": 2, "embed_dim": 32, "num_heads": 2,
               "stem": "patch"}  # fmt: skip
    single = create_model("softmax_vit3d_nano", **options)
    image = {"kind": "image", "shape": [3, 32, 32], "patch_size": 8}
    joined = create_case_model("softmax_vit3d_nano", {"shape": (1, 8, 16, 16), "others": [image]}, **options)
    for model in (single, joined):
        load_weights(model, str(published))
    torch.testing.assert_close(joined.patch_embed.proj.weight, single.patch_embed.proj.weight)
    torch.testing.assert_close(joined.blocks[1].mlp.fc1.weight, load_file(published)["blocks.1.mlp.fc1.weight"])
    stored = load_file(published)
    torch.testing.assert_close(joined.tokenizers[0].patch_embed.proj.weight, stored["patch_embed.proj.weight"])
    torch.testing.assert_close(joined.tokenizers[0].pos_embed, stored["pos_embed"][:, 1:])
