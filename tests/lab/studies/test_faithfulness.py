"""Curves, random weights: on models that are known by heart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from softfree.models import VisionTransformer
from softfree.saliency.maps import explain_tensor
from softfree.saliency.sanity_checks import ALL, HEAD, cascade, similarity
from softfree_lab.studies.faithfulness import Perturbed, without_tokens
from softfree_runtime.core.errors import UserError

GRID, PATCH = (4, 6), (8, 8)


@pytest.fixture
def weights() -> np.ndarray:
    return np.random.default_rng(0).normal(size=GRID)


@pytest.fixture
def image() -> Tensor:
    return torch.rand(1, 32, 48, generator=torch.Generator().manual_seed(0)) + 0.5


def linear(image: Tensor, weights: np.ndarray, **options: int) -> tuple[Perturbed, np.ndarray]:
    """A model that weighs the mean of each patch, and its exact parts: what each token adds to the logit."""

    def logits(images: Tensor) -> np.ndarray:
        patches = images[:, 0].double().unfold(1, 8, 8).unfold(2, 8, 8).mean((3, 4)).numpy()
        return (patches * weights).sum((1, 2))

    blank = torch.zeros_like(image)
    parts = image[0].double().unfold(0, 8, 8).unfold(1, 8, 8).mean((2, 3)).numpy() * weights
    score_fn = lambda images: 1 / (1 + np.exp(-logits(images)))  # noqa: E731
    return Perturbed(score_fn, image, blank, PATCH, GRID, **options), parts


def test_no_order_beats_the_exact_parts_of_a_linear_model(image: Tensor, weights: np.ndarray) -> None:
    perturbed, parts = linear(image, weights)
    best = perturbed.curves(parts)
    rng = np.random.default_rng(1)
    for values in (*rng.normal(size=(20, *GRID)), -parts, np.abs(parts)):
        other = perturbed.curves(values)
        assert (best.deletion <= other.deletion + 1e-12).all()
        assert (best.insertion >= other.insertion - 1e-12).all()
    assert perturbed.area(best.deletion) < perturbed.area(perturbed.random()) - 0.1
    assert perturbed.area(best.insertion) > perturbed.area(perturbed.random()) + 0.1


@pytest.mark.parametrize(("steps", "batch_size"), [(16, 16), (7, 3), (24, 1), (100, 8)])
def test_a_curve_is_the_answer_to_each_image(image: Tensor, weights: np.ndarray, steps: int, batch_size: int) -> None:
    """Against the sums of parts: at each step the highest, or all but the highest, are there."""
    perturbed, parts = linear(image, weights, steps=steps, batch_size=batch_size)
    sums = np.concatenate([[0], np.cumsum(np.sort(parts.ravel())[::-1])])
    counts = np.rint(perturbed.shares * parts.size).astype(int)
    assert (counts[0], counts[-1], len(counts)) == (0, parts.size, steps + 1)
    curves = perturbed.curves(parts)
    np.testing.assert_allclose(curves.insertion, 1 / (1 + np.exp(-sums[counts])), rtol=1e-6)
    np.testing.assert_allclose(curves.deletion, 1 / (1 + np.exp(sums[counts] - sums[-1])), rtol=1e-6)


def test_patches_that_reach_beyond_the_image(weights: np.ndarray) -> None:
    image = torch.ones(3, 29, 45)
    perturbed = Perturbed(lambda x: x.mean((1, 2, 3)).numpy(), image, torch.zeros_like(image), PATCH, GRID)
    first = perturbed.kept(np.arange(24), np.array([0, 6, 24]))  # the first row of tokens is 8 of 29 pixels high
    np.testing.assert_allclose(first, [0, 8 / 29, 1], rtol=1e-6)


def test_equal_values_come_in_a_random_order(image: Tensor, weights: np.ndarray) -> None:
    """A map that says nothing is as good as chance, not as good as reading from the top."""
    perturbed, _ = linear(image, weights)
    areas = [perturbed.area(perturbed.curves(np.zeros(GRID), seed).deletion) for seed in range(200)]
    assert np.std(areas) > 0.01
    assert np.mean(areas) == pytest.approx(perturbed.area(perturbed.random(200)), abs=0.04)


def test_areas() -> None:
    perturbed = Perturbed(lambda x: np.zeros(len(x)), torch.zeros(1, 32, 48), torch.zeros(1, 32, 48), PATCH, GRID)
    assert perturbed.area(np.ones(17)) == pytest.approx(1)
    assert perturbed.area(perturbed.shares) == pytest.approx(0.5)
    with pytest.raises(UserError, match="--steps 1"):
        Perturbed(lambda x: np.zeros(len(x)), torch.zeros(1, 8, 8), torch.zeros(1, 8, 8), (8, 8), (1, 1), steps=1)


def test_what_stands_for_a_token_that_is_gone(image: Tensor) -> None:
    two = torch.cat([image, image + 1])
    mean = without_tokens(two, PATCH)
    torch.testing.assert_close(mean, two.mean((1, 2), keepdim=True).expand_as(two))
    blurred = without_tokens(two, PATCH, "blur")
    assert blurred.std() < two.std()
    assert blurred[0].std() < image.std() / 5  # nothing as fine as a patch is left of noise
    assert abs(float(blurred[1].mean() - blurred[0].mean()) - 1) < 1e-4  # channels stay apart
    with pytest.raises(UserError, match="did you mean blur"):
        without_tokens(two, PATCH, "blurr")  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def network() -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(64, 8, 1, 3, 32, 3, 2)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return made.eval()


def test_weights_are_shuffled_from_the_head_down(network: VisionTransformer) -> None:
    before = {name: one.clone() for name, one in network.state_dict().items()}
    changed: dict[str, set[str]] = {}
    for name, model in cascade(network):
        after = model.state_dict()
        changed[name] = {one for one in before if not torch.equal(before[one], after[one])}
        for one in before:  # the same numbers in another order
            torch.testing.assert_close(before[one].flatten().sort().values, after[one].flatten().sort().values)
    assert list(changed) == [HEAD, "blocks.2", "blocks.1", "blocks.0", ALL]
    assert {one.partition(".")[0] for one in changed[HEAD]} == {"head"}
    assert "fc_norm.weight" in changed["blocks.2"]
    assert not any(one.startswith("blocks.1") for one in changed["blocks.2"])
    assert changed["blocks.1"] < changed["blocks.0"] < changed[ALL]
    assert {"pos_embed", "head.weight", "blocks.0.attn.qkv.weight"} <= changed[ALL]
    assert all(torch.equal(before[one], after) for one, after in network.state_dict().items())


def test_a_part_once_shuffled_stays_as_it_is(network: VisionTransformer) -> None:
    heads = [model.head.weight.clone() for _, model in cascade(network)]
    assert all(torch.equal(heads[0], one) for one in heads)
    others = [model.head.weight for _, model in cascade(network, seed=1)]
    assert not torch.equal(heads[0], others[0])


def test_random_weights_change_maps_that_look_at_the_model(network: VisionTransformer) -> None:
    """The split and the gradients change with the head; rollout and attention know no class, and stay."""
    sample = torch.randn(1, 64, 64, generator=torch.Generator().manual_seed(3))
    results: dict[str, dict[str, float]] = {}
    for name, model in cascade(network):
        for method in ("split", "gradient", "rollout"):
            own, other = (explain_tensor(one, sample, method, target=1).values for one in (network, model))  # type: ignore[arg-type]
            results.setdefault(name, {})[method] = similarity(own, other)
    assert results[HEAD]["rollout"] == pytest.approx(1)
    assert all(results[HEAD][method] < 0.9 for method in ("split", "gradient"))
    assert all(value < 0.6 for value in results[ALL].values())


def test_similarity_of_maps() -> None:
    values = np.random.default_rng(0).normal(size=(5, 7))
    assert similarity(values, np.exp(values)) == pytest.approx(1)
    assert similarity(values, -values) == pytest.approx(1)
    assert similarity(values, np.zeros((5, 7))) == 0
