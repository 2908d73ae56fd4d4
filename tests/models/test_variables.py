"""Embedding of clinical variables."""

from __future__ import annotations

import math

import pytest
import torch

from softfree.models.registry import create_case_model
from softfree.models.variables import VariableEmbedding
from softfree_runtime.core.errors import UserError

NAN = math.nan
VARIABLES = [{"mean": 60.0, "std": 10.0}, {"categories": 2}]
SHAPE = (1, 16, 16)


def test_the_sum_over_known_variables() -> None:
    embed = VariableEmbedding(VARIABLES, 4)
    with torch.no_grad():
        embed.embeddings[1].weight[1:] = torch.randn(2, 4)
        line, table = embed.embeddings
        values = torch.tensor([[70.0, 2.0], [60.0, NAN], [NAN, 1.0], [NAN, NAN], [NAN, 0.0]])
        rows = embed(values) / 2  # the square root of the width
        torch.testing.assert_close(rows[0], line.weight[:, 0] + line.bias + table.weight[0] + table.weight[2])
        torch.testing.assert_close(rows[1], line.bias)
        torch.testing.assert_close(rows[2], table.weight[0] + table.weight[1])
        torch.testing.assert_close(rows[3], torch.zeros(4))
        torch.testing.assert_close(rows[4], table.weight[0])


def test_a_category_without_training_acts_like_an_unknown_one() -> None:
    rows = VariableEmbedding([{"categories": 3}], 8)(torch.tensor([[0.0], [3.0]]))
    assert rows[0].abs().min() > 0
    assert torch.equal(rows[0], rows[1])


def test_unknown_variables_have_no_gradient() -> None:
    embed = VariableEmbedding(VARIABLES, 4)
    embed(torch.tensor([[NAN, 1.0]])).sum().backward()
    assert not embed.embeddings[0].weight.grad.any()
    assert embed.embeddings[1].weight.grad[1].all()


@pytest.mark.parametrize("variable", [{}, {"mean": 1.0}, {"mean": 1.0, "std": 0.0}, {"categories": 2, "mean": 1.0}])
def test_a_variable_without_a_scale_is_refused(variable: dict[str, float]) -> None:
    with pytest.raises(UserError, match="expected 'categories', or 'mean' and 'std' above 0"):
        VariableEmbedding([variable], 4)


def test_cases_with_variables() -> None:
    torch.manual_seed(0)
    options = {"img_size": 16, "in_chans": 1, "num_classes": 2, "depth": 1, "drop_path_rate": 0.0}
    case = {"shape": SHAPE, "views": 1, "variables": VARIABLES}
    model = create_case_model("seqnorm_vit_nano_patch8", case, **options).eval()
    plain = create_case_model("seqnorm_vit_nano_patch8", {"shape": SHAPE, "views": 1}, **options).eval()
    plain.load_state_dict(model.state_dict(), strict=False)
    pixels = torch.randn(2, 3, 256)
    header = torch.tensor([1.0, NAN, 0.0]).expand(2, 3, 3)

    def with_variables(age: float, sex: float) -> torch.Tensor:
        return torch.cat([pixels, torch.tensor([age, sex]).expand(2, 3, 2), header], dim=2)

    with torch.no_grad():
        unknown = model(with_variables(NAN, NAN))
        torch.testing.assert_close(unknown, plain(torch.cat([pixels, header], dim=2)))
        assert (model(with_variables(80.0, NAN)) - unknown).abs().max() > 1e-3
        padded = torch.full((2, 4, 261), NAN)
        padded[:, :3] = with_variables(80.0, 2.0)
        torch.testing.assert_close(model(padded), model(with_variables(80.0, 2.0)))
    with pytest.raises(UserError, match=r"expected \(batch, images, 261\).* 2 clinical variables"):
        model(torch.cat([pixels, header], dim=2))
    decayed = {name for name, parameter in model.named_parameters() if parameter.ndim > 1} - model.no_weight_decay()
    assert "variable_embed.embeddings.0.weight" in decayed
    assert "variable_embed.embeddings.1.weight" not in decayed
