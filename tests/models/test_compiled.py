"""Whole models through ``torch.compile`` and ``torch.export``, for images of any number and size.

Methods with ``fixed_size`` choose a grid of landmarks by the grid of tokens: an exported program of theirs is for any
number of images, but refuses grids with other landmarks.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.export import Dim

from softfree.attention import ATTENTIONS
from softfree.models import SoftPyramid, VisionTransformer

FIXED = tuple(name for name, method in ATTENTIONS.items() if method.fixed_size)
FREE = tuple(name for name in ATTENTIONS if name not in FIXED)
# Each step of an iteration is compiled: few are needed where the landmarks' kernel is well-conditioned.
STEPS: dict[str, dict[str, float]] = {
    "soft": {"ridge": 100.0, "iterations": 4},
    "soft_norm": {"ridge": 100.0, "iterations": 4},
    "nystromformer": {"iterations": 2},
}
WITHOUT_VALUES = pytest.mark.cpu("compiling for another device needs its compiler, and takes minutes")
SLOW_BUT_SEQNORM = [name if name == "seqnorm" else pytest.param(name, marks=pytest.mark.slow) for name in FREE]


def make(name: str) -> VisionTransformer:
    torch.manual_seed(0)
    options = {"attention": name, "attention_options": STEPS.get(name, {})}
    model = VisionTransformer(64, 8, embed_dim=24, depth=2, num_heads=3, num_classes=2, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


def assert_near(got: Tensor, want: Tensor) -> None:
    torch.testing.assert_close(got, want, rtol=1e-4, atol=1e-5 * max(1.0, want.abs().max().item()))


@WITHOUT_VALUES
@pytest.mark.parametrize("name", SLOW_BUT_SEQNORM)
def test_exported_for_any_number_and_size(name: str) -> None:
    """Sizes that are no multiples of the patch and another aspect, too."""
    model, example = make(name), torch.randn(2, 3, 64, 48)
    program = torch.export.export(
        model, (example,), dynamic_shapes={"x": {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}}
    ).module()
    for shape in ((1, 3, 64, 64), (3, 3, 40, 104), (2, 3, 50, 37)):
        x = torch.randn(shape)
        assert_near(program(x), model(x))


@WITHOUT_VALUES
@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_exported_for_any_number_of_one_size(name: str) -> None:
    model = make(name)
    program = torch.export.export(model, (torch.randn(2, 3, 64, 48),), dynamic_shapes={"x": {0: Dim.DYNAMIC}}).module()
    for images in (1, 5):
        x = torch.randn(images, 3, 64, 48)
        assert_near(program(x), model(x))


@WITHOUT_VALUES
@pytest.mark.slow
@pytest.mark.parametrize("name", FIXED)
def test_other_landmarks_are_refused_rather_than_wrong(name: str) -> None:
    """8 x 6 tokens and 5 x 13 have other grids of landmarks."""
    free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    program = torch.export.export(make(name), (torch.randn(2, 3, 64, 48),), dynamic_shapes={"x": free}).module()
    with pytest.raises((AssertionError, RuntimeError), match="Guard failed"):
        program(torch.randn(2, 3, 40, 104))


@WITHOUT_VALUES
@pytest.mark.parametrize(
    "name", [name if name == "seqnorm" else pytest.param(name, marks=pytest.mark.slow) for name in ATTENTIONS]
)
def test_compiled_training_on_other_sizes(name: str) -> None:
    """Logits and gradients of each parameter; the second size makes the graph one for any size."""
    torch._dynamo.reset()
    model = make(name)
    compiled = torch.compile(model, backend="aot_eager")
    for shape in ((2, 3, 64, 48), (1, 3, 40, 56), (3, 3, 50, 37)):
        x, results = torch.randn(shape), []
        for run in (compiled, model):
            model.zero_grad()
            logits = run(x)
            logits.square().sum().backward()
            results.append([logits.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
        assert len(results[0]) == len(results[1]) > 10
        for got, want in zip(*results, strict=True):
            torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-4 * max(1.0, want.abs().max().item()))


@WITHOUT_VALUES
@pytest.mark.slow
@pytest.mark.parametrize("name", ["seqnorm", "sima", "soft_norm", "softmax"])
def test_compiled_code(name: str) -> None:
    """The compiler's own code rather than PyTorch's operators, for inference."""
    torch._dynamo.reset()
    model = make(name)
    compiled = torch.compile(model)
    with torch.no_grad():
        for shape in ((2, 3, 64, 48), (1, 3, 40, 56)):
            x = torch.randn(shape)
            assert_near(compiled(x), model(x))


@WITHOUT_VALUES
@pytest.mark.slow
@pytest.mark.parametrize("method", ["soft", "soft_norm"])
def test_pyramids(method: str) -> None:
    """Compiled for any size; exported for any number of images of one size."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    shape = {"embed_dims": (8, 8, 8, 8), "depths": (1, 1, 1, 1), "num_heads": (1, 1, 1, 1)}
    model = SoftPyramid(32, num_classes=2, attention=method, **shape).eval()  # type: ignore[arg-type]
    compiled = torch.compile(model, backend="aot_eager")
    with torch.no_grad():
        for side in (32, 64):
            x = torch.randn(2, 3, side, side)
            assert_near(compiled(x), model(x))
        program = torch.export.export(
            model, (torch.randn(2, 3, 32, 32),), dynamic_shapes={"x": {0: Dim.DYNAMIC}}
        ).module()
        x = torch.randn(5, 3, 32, 32)
        assert_near(program(x), model(x))
