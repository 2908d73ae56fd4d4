"""The methods on small models in float64: each against what it is by definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from softfree.attention import ATTENTIONS
from softfree.models import BagTransformer, SoftPyramid, VisionTransformer, VolumeTransformer
from softfree.models.classifier import Classifier
from softfree.models.registry import create_case_model
from softfree.saliency.activations import attention_inputs, classify, encoder_input, run_blocks, run_blocks_with_grad
from softfree.saliency.log_odds import LogOdds
from softfree.saliency.maps import explain_tensor
from softfree.saliency.methods import METHODS, default_methods
from softfree.saliency.methods.attention_weights import attention_row
from softfree.saliency.methods.gradients import grad_cam, gradient_times_input
from softfree.saliency.methods.integrated_gradients import empty_sample, integrated_gradients
from softfree.saliency.methods.logit_decomposition import split_log_odds
from softfree.saliency.methods.occlusion import windows
from softfree.saliency.methods.rollout import rollout
from softfree_runtime.core.errors import UserError


def model(attention: str = "seqnorm", **options: Any) -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(32, 8, 1, 3, 32, 3, 2, attention=attention, **options)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval().double()


@pytest.fixture
def pixels() -> Tensor:
    return torch.randn(1, 1, 32, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def bag(**options: Any) -> tuple[BagTransformer, Tensor]:
    """A model and two bags, the second padded."""
    torch.manual_seed(0)
    made = BagTransformer(6, 3, 32, 2, 2, **options).eval().double()
    bags = torch.rand(2, 9, 9, dtype=torch.float64)
    bags[1, 5:, -1] = float("nan")
    return made, bags


@pytest.mark.parametrize("pool", ["avg", "token", "topk"])
def test_a_pass_in_parts_is_the_pass(pool: str, pixels: Tensor) -> None:
    network = model(pool=pool)
    entry = encoder_input(network, pixels)
    half = entry._replace(tokens=run_blocks(network, entry, 0, 1))
    torch.testing.assert_close(classify(network, half, run_blocks(network, half, 1)), network(pixels))
    assert not network.blocks._forward_pre_hooks


HOW = [LogOdds(), LogOdds(temperature=0.4), LogOdds(exclusive=False, temperature=2.5)]


def split(network: Classifier, sample: Tensor, target: int, odds: LogOdds) -> tuple[Tensor, Tensor]:
    """The parts (B, N), and the log odds (B,) straight from the logits."""
    with torch.no_grad():
        entry = encoder_input(network, sample)
        last = run_blocks(network, entry)
        logits = classify(network, entry, last)
        return split_log_odds(network, entry, last, odds.linearize(logits, target), target), odds(logits, target)


@pytest.mark.parametrize("odds", HOW)
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_split_sums_to_the_log_odds(attention: str, odds: LogOdds, pixels: Tensor) -> None:
    network = model(attention, class_token=True)
    for index in range(3):
        parts, want = split(network, pixels, index, odds)
        torch.testing.assert_close(parts.sum(1), want, rtol=0, atol=1e-10)
        assert parts.std() > 1e-3


@pytest.mark.parametrize("odds", HOW)
@pytest.mark.parametrize("pool", ["avg", "topk", "mean_topk"])
def test_split_of_heads(pool: str, odds: LogOdds, pixels: Tensor) -> None:
    """Exact, whatever the head; and a sample's parts know nothing of padding."""
    network: Classifier = model(pool=pool, class_token=True)
    for index in range(3):
        parts, want = split(network, pixels, index, odds)
        torch.testing.assert_close(parts.sum(1), want, rtol=0, atol=1e-10)
    network, bags = bag(pool=pool)
    parts, want = split(network, bags, 1, odds)
    torch.testing.assert_close(parts.sum(1), want, rtol=0, atol=1e-10)
    assert (parts[1, 5:] == 0).all()
    torch.testing.assert_close(split(network, bags[1:, :5], 1, odds)[0], parts[1:, :5])


def test_the_split_of_topk_is_what_each_feature_selected(pixels: Tensor) -> None:
    network = model(pool="topk")
    parts, _ = split(network, pixels, 1, LogOdds(exclusive=False))
    tokens = network.norm(run_blocks(network, encoder_input(network, pixels)))[0].detach()  # (N, C)
    chosen = tokens >= tokens.topk(4, dim=0).values[3]
    assert (chosen.sum(0) == 4).all()
    row, bias = network.head.weight[1].detach(), network.head.bias[1].detach()  # type: ignore[index]
    want = (chosen * tokens) @ row / 4 + bias * chosen.double().mean(1) / 4
    torch.testing.assert_close(parts[0], want)


def test_a_part_is_what_is_lost_without_the_token_when_the_deviation_stays(pixels: Tensor) -> None:
    network = model()
    parts, _ = split(network, pixels, 2, LogOdds(exclusive=False))
    tokens = run_blocks(network, encoder_input(network, pixels)).detach()
    mean, less = tokens.mean(1), tokens.mean(1) - tokens[:, 7] / tokens.shape[1]
    row, norm = network.head.weight[2] * network.fc_norm.weight, (mean.var(correction=0) + 1e-6).rsqrt()  # type: ignore
    lost = ((mean - mean.mean()) - (less - less.mean())) * norm @ row
    bias = network.head.weight[2] @ network.fc_norm.bias + network.head.bias[2]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(parts[0, 7], (lost[0] + bias / tokens.shape[1]).detach())


def test_the_sign_of_a_map_is_that_of_the_prediction(pixels: Tensor) -> None:
    """One number added to all logits changes no probability; the parts of the logit would all be against the class."""
    network = model()
    network.head.bias.data -= 100  # type: ignore[union-attr, operator]
    network.head.weight.data *= 20  # type: ignore[union-attr, operator]
    result = explain_tensor(network, pixels, "split")
    probability = torch.from_numpy(result.logits).softmax(0)[result.target]
    assert probability > 0.9
    assert result.logits[result.target] < 0
    logit, _ = split(network, pixels, result.target, LogOdds(exclusive=False))
    assert logit.sum() < 0
    assert result.values.sum() == pytest.approx(float(torch.logit(probability)), abs=1e-6)
    for target in {0, 1, 2} - {result.target}:
        assert explain_tensor(network, pixels, "split", target=target).values.sum() < 0


def test_a_shift_of_all_logits_changes_no_map(pixels: Tensor) -> None:
    network = model()
    before = {method: explain_tensor(network, pixels, method, target=1).values for method in METHODS}  # type: ignore
    network.head.bias.data += 7  # type: ignore[union-attr, operator]
    network.head.weight.data += torch.randn(32, dtype=torch.float64)  # type: ignore[union-attr, operator]
    for method, values in before.items():
        again = explain_tensor(network, pixels, method, target=1).values  # type: ignore[arg-type]
        assert abs(again - values).max() < 1e-9 * abs(values).max() + 1e-12, method


def test_two_classes_have_opposite_maps(pixels: Tensor) -> None:
    network = model()
    network.reset_classifier(2)
    torch.nn.init.normal_(network.head.weight)  # type: ignore[arg-type]
    network.double()
    for method in ("split", "gradient", "integrated"):
        one, other = (explain_tensor(network, pixels, method, target=k) for k in (0, 1))  # type: ignore[arg-type]
        assert abs(one.values + other.values).max() < 1e-10
        assert one.log_odds == pytest.approx(-other.log_odds)


# The odds are a function of the logits, whatever the attention.
@pytest.mark.parametrize(
    ("attention", "odds"), [(attention, HOW[number % 3]) for number, attention in enumerate(ATTENTIONS)]
)
def test_integrated_gradients_are_the_mean_slope_on_the_way(attention: str, odds: LogOdds, pixels: Tensor) -> None:
    """And what is left is shared out evenly, so that they sum to the log odds."""
    network = model(attention)
    entry, start = encoder_input(network, pixels), encoder_input(network, empty_sample(network, pixels)).tokens
    with torch.no_grad():
        whole = network(pixels)
    result = integrated_gradients(network, entry, pixels, odds, whole, 1, steps=3)
    torch.testing.assert_close(result.sum(1), odds(whole, 1), rtol=0, atol=1e-10)
    way = entry.tokens - start

    def value(part: float, token: int, more: float) -> float:
        tokens = start + part * way
        tokens[:, token] += more * way[:, token]
        with torch.no_grad():
            return float(odds(classify(network, entry, run_blocks(network, entry._replace(tokens=tokens))), 1))

    slopes = [
        sum((value(part, token, 1e-5) - value(part, token, -1e-5)) / 2e-5 for part in (1 / 6, 1 / 2, 5 / 6)) / 3
        for token in (3, 7)
    ]
    if attention not in ("soft", "soft_norm", "performer"):  # whose gradient is another, see below
        assert float(result[0, 7] - result[0, 3]) == pytest.approx(slopes[1] - slopes[0], rel=1e-4, abs=1e-7)


def test_integrated_gradients_are_complete(pixels: Tensor) -> None:
    """By the theorem of the paper: a patch like that of the empty sample has its even share of the empty one's odds."""
    network, odds = model(), LogOdds(temperature=0.7)
    pixels[..., 8:16, 16:24] = 0
    pixels -= pixels.mean() * pixels.numel() / (pixels.numel() - 64)
    pixels[..., 8:16, 16:24] = 0
    with torch.no_grad():
        base, whole = odds(network(empty_sample(network, pixels)), 1), network(pixels)
    result = integrated_gradients(network, encoder_input(network, pixels), pixels, odds, whole, 1, steps=64)
    assert float(result[0, 7]) == pytest.approx(float(base) / 20, abs=1e-3)
    assert abs(float(base)) / 20 > 0.01
    assert result.std() > 0.01


def test_an_empty_sample_shows_nothing(pixels: Tensor) -> None:
    assert float(empty_sample(model(), pixels).std()) == pytest.approx(0, abs=1e-12)
    network, bags = bag()
    result = empty_sample(network, bags)
    torch.testing.assert_close(result[1, :, :6], bags[1, :5, :6].mean(0).expand(9, -1))
    torch.testing.assert_close(result[..., 6:], bags[..., 6:], equal_nan=True)
    with torch.no_grad():
        whole = network(bags)
    values = integrated_gradients(network, encoder_input(network, bags), bags, LogOdds(), whole, 1)
    assert (values[1, 5:] == 0).all()
    torch.testing.assert_close(values.sum(1), LogOdds()(whole, 1).detach())
    alone = integrated_gradients(network, encoder_input(network, bags[1:, :5]), bags[1:, :5], LogOdds(), whole[1:], 1)
    torch.testing.assert_close(alone, values[1:, :5])


@pytest.mark.parametrize("pool", ["avg", "token", "topk"])
def test_occlusion_is_what_is_lost_without_a_window(pool: str, pixels: Tensor) -> None:
    """By patches: what the empty image shows there is put into the image itself."""
    network, odds = model(pool=pool), LogOdds(temperature=0.7)
    result = explain_tensor(network, pixels, "occlusion", target=1, odds=odds)

    def lost(top: int, left: int) -> float:
        without = pixels.clone()
        without[:, :, top : top + 8, left : left + 8] = pixels.mean()
        with torch.no_grad():
            return float(odds(network(pixels), 1) - odds(network(without), 1))

    assert result.values[2, 1] - result.values[0, 3] == pytest.approx(lost(16, 8) - lost(0, 24), abs=1e-10)
    assert result.values.sum() == pytest.approx(result.log_odds, abs=1e-10)


def test_a_window_of_several_tokens_shares_its_loss() -> None:
    network, sample = model(), torch.randn(1, 1, 32, 128, dtype=torch.float64)
    result = explain_tensor(network, sample, "occlusion", target=1)
    assert result.values.shape == (4, 16)
    assert (result.values[:, ::2] == result.values[:, 1::2]).all()
    without = sample.clone()
    without[..., :8, :16] = sample.mean()
    other = sample.clone()
    other[..., 8:16, 16:32] = sample.mean()
    with torch.no_grad():
        difference = LogOdds()(network(other), 1) - LogOdds()(network(without), 1)
    assert 2 * (result.values[0, 0] - result.values[1, 2]) == pytest.approx(float(difference), abs=1e-10)


def test_windows_of_a_case_lie_within_its_images() -> None:
    torch.manual_seed(0)
    others = [{"kind": "volume", "shape": [1, 8, 16, 16], "patch_size": [4, 8, 8]}]
    case = {"shape": [1, 16, 128], "views": 0, "others": others}
    options = {"img_size": (16, 128), "in_chans": 1, "num_classes": 2, "depth": 1}
    network = create_case_model("seqnorm_vit_nano_patch8", case, **options).double().eval()
    sample = torch.randn(1, 3, 16 * 128 + 3, dtype=torch.float64)
    sample[..., -3:] = 0
    sample[0, 1, -1] = 1
    result = explain_tensor(network, sample, "occlusion", target=1)
    values = np.split(result.values, [32, 40])
    first, last = values[0].reshape(2, 16), values[2].reshape(2, 16)
    assert (first[:, ::2] == first[:, 1::2]).all()
    assert len(np.unique(np.concatenate([first.ravel(), values[1], last.ravel()]))) == 16 + 8 + 16

    def lost(image: int, pixels: Tensor, emptied: Tensor) -> float:
        without = sample.clone()
        without[0, image, : pixels.numel()] = emptied.flatten()
        with torch.no_grad():
            return float(LogOdds()(network(sample), 1) - LogOdds()(network(without), 1))

    image, volume = sample[0, 2, : 16 * 128].view(16, 128), sample[0, 1, : 8 * 16 * 16].view(8, 16, 16)
    one, other = image.clone(), volume.clone()
    one[8:, 16:32], other[4:, :8, 8:] = image.mean(), volume.mean()
    expected = lost(2, image, one) / 2 - lost(1, volume, other)
    assert last[1, 2] - values[1].reshape(2, 2, 2)[1, 0, 1] == pytest.approx(expected, abs=1e-10)


def test_windows_are_at_most_64_in_all() -> None:
    assert windows((4, 5)).tolist() == list(range(20))
    wide = windows((9, 40)).reshape(9, 40)
    assert wide[:2, :5].unique().tolist() == [0]
    assert wide[0, 5] == 1
    assert wide[2, 0] == 8
    assert len(windows((30, 20, 10)).unique()) == 4 * 4 * 4
    assert len(windows((1000,)).unique()) == 63
    network, bags = bag()
    result = explain_tensor(network, bags[1], "occlusion", target=1)
    assert (result.values[5:] == 0).all()
    np.testing.assert_allclose(explain_tensor(network, bags[1, :5], "occlusion", target=1).values, result.values[:5])


# Each two of the three together.
@pytest.mark.parametrize(
    ("attention", "pool", "residual"),
    [
        (attention, pool, ("half", "identity")[(number + (pool == "token")) % 2])
        for number, attention in enumerate(ATTENTIONS)
        for pool in ("avg", "token")
    ],
)
def test_rollout_is_dense_rollout(attention: str, pool: str, residual: Any, pixels: Tensor) -> None:
    network = model(attention, pool=pool)
    entry = encoder_input(network, pixels)
    inputs, _ = attention_inputs(network, entry)
    number = entry.tokens.shape[1]
    whole = torch.eye(number, dtype=torch.float64)
    for one, x in zip(network.blocks, inputs, strict=True):
        rows = [attention_row(one.attn, x, query, grid=entry.grid)[0].mean(0) for query in range(number)]
        mixing = torch.stack(rows) + torch.eye(number)
        whole = (mixing if residual == "identity" else mixing / 2) @ whole
    want = whole[0, 1:] if pool == "token" else whole.mean(0)
    assert whole.std() > 1e-3
    torch.testing.assert_close(rollout(network, entry, residual)[0], want, rtol=1e-9, atol=1e-12)


def test_rollout_of_softmax_is_a_distribution(pixels: Tensor) -> None:
    network = model("softmax")
    result = rollout(network, encoder_input(network, pixels))
    assert float(result.min()) > 0
    torch.testing.assert_close(result.sum(1), torch.ones(1, dtype=torch.float64))


def test_padding_has_no_part_in_a_rollout() -> None:
    network, bags = bag()
    result = rollout(network, encoder_input(network, bags))
    assert (result[1, 5:] == 0).all()
    torch.testing.assert_close(rollout(network, encoder_input(network, bags[1:, :5])), result[1:, :5])


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_gradient_times_input_is_the_slope_as_a_token_grows(attention: str, layer: int, pixels: Tensor) -> None:
    network = model(attention)
    entry = encoder_input(network, pixels)
    odds = LogOdds(temperature=0.7)
    result = gradient_times_input(network, entry, run_blocks_with_grad(network, entry, layer), odds, 1)
    tokens = run_blocks(network, entry, 0, layer).detach()

    def value(step: float) -> float:
        grown = tokens.clone()
        grown[:, 7] *= 1 + step
        logits = classify(network, entry, run_blocks(network, entry._replace(tokens=grown), layer))
        return float(odds(logits, 1)[0].detach())

    # SOFT's gradient is that of the exact inverse, which its iteration comes close to; Performer's takes the maximum
    # in its exponent, which cancels but for eps, as fixed.
    tolerance = 1e-2 if attention in ("soft", "soft_norm", "performer") else 1e-5
    assert float(result[0, 7]) == pytest.approx((value(1e-5) - value(-1e-5)) / 2e-5, rel=tolerance, abs=1e-7)


@pytest.mark.parametrize("pool", ["avg", "token"])
@pytest.mark.parametrize("attention", ATTENTIONS)
def test_grad_cam_is_its_formula(attention: str, pool: str, pixels: Tensor) -> None:
    network = model(attention, pool=pool)
    kept: list[Tensor] = []

    def keep(_module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        given[0].retain_grad()
        kept.append(given[0])

    network.blocks[-1].register_forward_pre_hook(keep)
    odds = LogOdds(temperature=0.7)
    odds(network(pixels), 1)[0].backward()
    prefix = network.num_prefix_tokens
    tokens, gradient = kept[0][0, prefix:], kept[0].grad[0, prefix:]  # type: ignore[index]
    want = (tokens * gradient.mean(0)).sum(1).clamp(min=0)
    entry = encoder_input(network, pixels)
    result = grad_cam(network, entry, run_blocks_with_grad(network, entry, -1), odds, 1)[0]
    assert float(result.max()) > 0
    torch.testing.assert_close(result, want.detach())


@pytest.mark.parametrize(("pool", "first"), [("avg", "integrated"), ("topk", "split"), ("mean_topk", "split")])
def test_a_head_that_pools_logits_says_itself_where_its_evidence_is(pool: str, first: str, pixels: Tensor) -> None:
    network = model(pool=pool)
    assert default_methods(network) == (first, "occlusion")
    assert explain_tensor(network, pixels[0]).method == first


@pytest.mark.parametrize("method", METHODS)
def test_every_method_gives_a_map_on_the_grid(method: Any, pixels: Tensor) -> None:
    result = explain_tensor(model(), pixels[0], method, target=1)
    assert result.values.shape == (4, 5)
    assert result.values.std() > 0
    assert result.target == 1
    assert result.description.endswith(".")
    assert "\n" not in result.description
    if method in ("split", "integrated", "occlusion"):
        assert result.values.sum() == pytest.approx(result.log_odds, abs=1e-10)
    assert result.class_specific == (method not in ("rollout", "attention"))
    if method in ("integrated", "occlusion"):
        blank = explain_tensor(model(), pixels[0].mean(dim=(1, 2), keepdim=True).expand_as(pixels[0]), method, target=1)
        assert result.empty_log_odds == pytest.approx(blank.log_odds, abs=1e-10)
        assert result.empty_log_odds != pytest.approx(result.log_odds, abs=1e-3)
    else:
        assert result.empty_log_odds is None
    assert (result.values.min() < 0) == (result.signed and method != "rollout") or method == "rollout"


def test_volumes_and_bags_have_maps() -> None:
    torch.manual_seed(0)
    volumes = VolumeTransformer((8, 16, 16), (4, 8, 8), 1, num_classes=2, embed_dim=24, depth=1, num_heads=2).eval()
    assert explain_tensor(volumes, torch.randn(1, 8, 16, 24)).values.shape == (2, 2, 3)
    assert explain_tensor(volumes, torch.randn(1, 8, 16, 24), "attention", at=[0.9, 0, 0]).values.shape == (2, 2, 3)
    network, bags = bag()
    assert explain_tensor(network, bags[0], "rollout").values.shape == (9,)


def test_the_query_is_where_it_is_asked_for(pixels: Tensor) -> None:
    network = model()
    entry = encoder_input(network, pixels)
    want = attention_row(network.blocks[1].attn, attention_inputs(network, entry)[0][1], 3 * 5 + 1)  # type: ignore
    result = explain_tensor(network, pixels, "attention", layer=1, head=1, at=[0.3, 0.9])
    torch.testing.assert_close(torch.from_numpy(result.values.ravel()), want[0, 1].detach())


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"method": "gradient", "layer": 3}, "--layer 3: this model has 3 layers, from 0 to 2"),
        ({"method": "attention", "head": 2}, "--head 2: the layer has 2 heads"),
        ({"method": "attention", "at": [0.5, 1.0]}, "expected fractions of the sample's sides"),
        ({"method": "attention", "at": [0.5]}, r"as '\[0.5, 0.5\]'"),
        ({"method": "split", "layer": 1}, "--layer is not for --method split"),
        ({"method": "rollup"}, "did you mean rollout"),
        ({"target": 3}, "3 classes, from 0 to 2"),
        ({"target": "ill"}, "expected its number"),
    ],
)
def test_what_cannot_be_asked(given: dict[str, Any], says: str, pixels: Tensor) -> None:
    with pytest.raises(UserError, match=says):
        explain_tensor(model(), pixels, **given)


class Other(torch.nn.Module):
    """An attention of another library."""

    def forward(self, x: Tensor, **_: Any) -> Tensor:
        return x


def test_models_without_an_explanation(pixels: Tensor) -> None:
    with pytest.raises(UserError, match="gradcam, rollout, attention"):
        explain_tensor(model(pool="token"), pixels, "split")
    with pytest.raises(UserError, match="SoftPyramid has no single grid"):
        explain_tensor(SoftPyramid(32, 1, 2, (8, 8, 8, 8), (1, 1, 1, 1), (1, 1, 1, 1)), pixels)
    replaced = model()
    replaced.blocks[0].attn = Other()
    with pytest.raises(UserError, match="Other, whose weights are unknown"):
        explain_tensor(replaced, pixels, "attention", layer=0)
    with pytest.raises(UserError, match="batch of 1"):
        explain_tensor(model(), pixels.expand(2, -1, -1, -1))
    with pytest.raises(UserError, match="num_classes > 0"):
        explain_tensor(VisionTransformer(32, 8, 1, 0, 32, 1, 2), pixels)
