import json
import math

import pytest
import torch
from PIL import Image

from softfree.demo.options import DemoOptions
from softfree.streaming import stream_forward
from softfree_lab.demo_slide import WITH, WITHOUT, Plan, Stage, demo_slide, make_model, train
from softfree_lab.needles import KINDS, NeedleRows, NeedleSlide
from softfree_runtime.core.errors import UserError

SMALL = Plan(
    stages=(Stage((256,), 1, 1e-3), Stage((256, 300), 2, 1e-3)),
    pixels=1,
    tests=((256, 4), (512, 4)),
    streamed=512,
    shown=512,
)


def strong(attention: bool):
    """A model in float64 whose weights are as large as after long training."""
    torch.manual_seed(0)
    model = make_model(attention).double().eval()
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


@pytest.mark.parametrize("attention", [True, False])
def test_only_with_attention_a_mixed_pair_differs_from_the_mean_of_the_equal_ones(attention):
    model, logits = strong(attention), []
    for kinds in [(one, other) for one in KINDS for other in KINDS]:
        rows = NeedleRows(NeedleSlide(3, 256, kinds=kinds), lambda pixels: pixels.double() / 255)
        with torch.no_grad():
            logits.append(model(rows.read(0, 256)[None]).item())
    spread = max(logits) - min(logits)
    assert spread > 1e-3
    interaction = abs(logits[0] + logits[3] - logits[1] - logits[2])
    assert (interaction > 1e-4 * spread) if attention else (interaction < 1e-10 * spread)


@pytest.mark.parametrize("attention", [True, False])
def test_a_streamed_slide_has_the_logit_of_the_one_in_memory(attention):
    model = strong(attention)
    rows = NeedleRows(NeedleSlide(8, 400), lambda pixels: pixels.double() / 255)
    with torch.no_grad():
        torch.testing.assert_close(stream_forward(model, rows), model(rows.read(0, 400)[None]), rtol=1e-8, atol=1e-8)


def test_training_is_the_same_for_the_same_seed_and_leaves_the_frozen_alone():
    losses = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model = make_model(attention=False)
        losses.append(train(model, SMALL, DemoOptions(seed=seed, progress=False)))
        assert all(not block.attn.proj.weight.any() for block in model.blocks)
    assert losses[0] == losses[1] != losses[2]
    assert len(losses[0]) == 3
    assert all(math.isfinite(loss) for loss in losses[0])


def test_the_demo_writes_its_image_and_numbers(tmp_path, capsys):
    options = DemoOptions(out=tmp_path / "demo", progress=False)
    result = demo_slide(options, SMALL)
    written = json.loads((options.out / "results.json").read_text())
    assert written["auroc"] == result["auroc"]
    assert [(row["model"], row["side"], row["tokens"]) for row in written["auroc"]] == [
        (model, side, tokens) for model in (WITH, WITHOUT) for side, tokens in ((256, 256), (512, 1024))
    ]
    assert all(0 <= row["low"] <= row["auroc"] <= row["high"] <= 1 for row in written["auroc"])
    with Image.open(options.out / "slides.png") as image:
        assert image.size[0] > 1000
    assert "phantoms" in capsys.readouterr().out
    with pytest.raises(UserError, match="already exists"):
        demo_slide(options, SMALL)


@pytest.mark.slow
def test_attention_finds_both_needles_and_sums_do_not(tmp_path):
    plan = Plan(tests=((256, 100), (1024, 40)))
    rows = demo_slide(DemoOptions(out=tmp_path / "demo", progress=False), plan)["auroc"]
    for row in rows:
        if row["model"] == WITH:
            assert row["auroc"] > 0.95
        else:
            assert row["low"] < 0.5 < row["high"]
