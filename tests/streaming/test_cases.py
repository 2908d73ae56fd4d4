"""A case that streams against the same case in memory, with one tokenizer and with several."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from softfree.models.case import CaseTransformer
from softfree.models.registry import create_case_model
from softfree.streaming import Streaming, streamed
from softfree.streaming.adaptive import _tokens
from softfree.streaming.cases import CaseTokens
from softfree_runtime.core.errors import UserError

GradientsOf = Callable[[nn.Module, Tensor], dict[str, Tensor]]
SHAPE = [1, 24, 40]
OTHERS = [{"kind": "volume", "shape": [1, 8, 16, 16]}, {"kind": "image", "shape": [3, 20, 20], "patch_size": 4}]


def make(attention: str, others: list[dict], stem: str = "pool", **options: object) -> CaseTransformer:
    torch.manual_seed(0)
    variables = [{"mean": 1.0, "std": 2.0}, {"categories": 2}]
    case = {"shape": SHAPE, "views": 2, "timed": True, "others": others, "variables": variables}
    options = {"img_size": (24, 40), "in_chans": 1, "num_classes": 3, "depth": 2, "embed_dim": 24, "num_heads": 3,
               "patch_size": 8, "stem": stem, **options}  # fmt: skip
    model = create_case_model(f"{attention}_vit_nano_patch8", case, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double()


def draw(model: CaseTransformer, tokenizers: list[float]) -> Tensor:
    """A case (R, F + 3) of images of these tokenizers; NaN is padding."""
    case = torch.randn(len(tokenizers), model.row_width, dtype=torch.float64)
    case[:, -3] = torch.randint(0, 3, (len(tokenizers),)).double()
    case[:, -5:-3] = torch.tensor([0.7, 1.0])
    case[:, -2], case[:, -1] = -0.3, torch.tensor(tokenizers)
    case[0, -2] = math.nan
    return case


@pytest.mark.parametrize("chunk", [4, 7, 1000])
@pytest.mark.parametrize(("others", "tokenizers"), [([], [0, 0, math.nan, 0]), (OTHERS, [1, 0, 2, math.nan, 0])])
@pytest.mark.parametrize(("attention", "pool"), [("seqnorm", "mean_topk"), ("sima", "avg"), ("galerkin", "topk")])
def test_as_in_memory(
    attention: str, pool: str, others: list[dict], tokenizers: list[float], chunk: int, gradients_of: GradientsOf
) -> None:
    model = make(attention, others, pool=pool)
    case = draw(model, tokenizers)
    expected = gradients_of(model, model(case[None]))
    got = streamed(model, case, Streaming(chunk=chunk))
    torch.testing.assert_close(got, model(case[None]), rtol=1e-9, atol=1e-10)
    found = gradients_of(model, got)
    assert expected.keys() == found.keys()
    for name, grad in expected.items():
        torch.testing.assert_close(found[name], grad, rtol=1e-7, atol=1e-9, msg=name)


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_other_stems(stem: str, gradients_of: GradientsOf) -> None:
    model = make("seqnorm", OTHERS, stem)
    case = draw(model, [0, 1, 2])
    expected, got = gradients_of(model, model(case[None])), streamed(model, case, Streaming(chunk=6))
    torch.testing.assert_close(gradients_of(model, got), expected, rtol=1e-7, atol=1e-9)


def test_chunks_lie_within_images() -> None:
    model = make("seqnorm", OTHERS)
    source = CaseTokens(model, draw(model, [1, 0, 2]).numpy(force=True), 5)
    assert source.sizes == [4, 4, 5, 5, 5, 5, 5, 5, 5, 5] == [source.tokens(n).shape[1] for n in range(10)]
    with torch.no_grad():
        whole = torch.cat([source.tokens(chunk) for chunk in range(10)], dim=1)
        torch.testing.assert_close(whole, model.embed_cases(source.rows[None])[0])
    assert _tokens(model, torch.empty(1).expand(1, 6, model.row_width)) == 6 * 25


def test_cases_that_are_none() -> None:
    model = make("seqnorm", [])
    with pytest.raises(UserError, match=r"a case of shape \(2, 9\): expected \(images, 965\)"):
        streamed(model, np.zeros((2, 9)))
    with pytest.raises(UserError, match="a case without images"):
        streamed(model, draw(model, [math.nan, math.nan]))
    with pytest.raises(UserError, match="a mask for a case"):
        streamed(model, draw(model, [0]), mask=torch.ones(15, dtype=torch.bool))
