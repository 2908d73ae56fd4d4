"""Cases are what they say, and a wrong module is found out."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from softfree.attention.seqnorm import orders
from softfree_lab.bench.cases import FLOOR, INVERSE, TOLERANCES, BenchCase, _products, numerical_error, prepare

METHODS = ["softmax", "sima", "seqnorm literal", "seqnorm folded", "seqnorm gram"]
SMALL = {"width": 64, "heads": 2}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("method", METHODS)
def test_attentions_are_near_float64_and_run(method: str, precision: str) -> None:
    for passes in ("forward", "training"):
        case = BenchCase("attention", method, 100, precision, passes, **SMALL)  # type: ignore[arg-type]
        assert 0 < numerical_error(case) < TOLERANCES[precision]
        prepare(case)()


def test_a_wrong_order_is_far_from_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    case = BenchCase("attention", "seqnorm gram", 100, **SMALL)
    assert numerical_error(case) < 1e-5
    original = orders.fold
    monkeypatch.setattr(orders, "fold", lambda variance, *rest: original(variance * 1.01, *rest))
    assert numerical_error(case) > TOLERANCES["fp32"]


@pytest.mark.parametrize(
    "name", ["seqnorm_vit_nano_patch16", "seqnorm_vit_nano_patch16 literal", "vit_tiny_patch16_224"]
)
@pytest.mark.parametrize("passes", ["forward", "training"])
def test_models_run(name: str, passes: str) -> None:
    case = BenchCase("model", name, 64, "fp32", passes)  # type: ignore[arg-type]
    assert numerical_error(case) < 1e-4
    prepare(case)()


@pytest.mark.parametrize(("passes", "products"), [("forward", 2), ("training", 5)])
def test_the_floor_of_a_sublayer(passes: str, products: int) -> None:
    case = BenchCase("attention", FLOOR, 1000, "fp32", passes, **SMALL)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        _products(case)()
    assert counter.get_total_flops() == products * 2 * 1000 * 64 * 64


def test_the_floor_of_a_model() -> None:
    case = BenchCase("model", FLOOR, 64, options=(("floor_of", "seqnorm_vit_nano_patch16"),))
    with FlopCounterMode(display=False) as counter:
        _products(case)()
    tokens, width, depth = 16, 128, 6
    layer = 2 * tokens * width * width + 2 * tokens * width * 4 * width
    assert counter.get_total_flops() == 2 * (tokens * width * 768 + depth * layer)


@pytest.mark.parametrize("passes", ["forward", "training"])
def test_encoders_of_any_attention_run_on_a_grid(passes: str) -> None:
    for method in ("soft", "seqnorm gram", "softmax"):
        case = BenchCase("attention", method, 36, "fp32", passes, **SMALL, depth=2)  # type: ignore[arg-type]
        assert numerical_error(case) < 1e-4
        prepare(case)()


def test_the_floor_of_an_encoder() -> None:
    case = BenchCase("attention", FLOOR, 1000, **SMALL, depth=3)
    with FlopCounterMode(display=False) as counter:
        _products(case)()
    assert counter.get_total_flops() == 2 * 3 * (2 + 8) * 1000 * 64 * 64


@pytest.mark.parametrize("passes", ["forward", "training"])
def test_the_inverse_of_soft_by_itself(passes: str) -> None:
    """It inverts what SOFT inverts for the same tokens: 20 iterations of two products, and the residual."""
    case = BenchCase("attention", INVERSE, 100, "fp32", passes, **SMALL)  # type: ignore[arg-type]
    with FlopCounterMode(display=False) as counter:
        prepare(case)()
    alone = counter.get_total_flops()
    with FlopCounterMode(display=False) as counter:
        prepare(BenchCase("attention", "soft", 100, "fp32", passes, **SMALL))()  # type: ignore[arg-type]
    assert 0 < alone < counter.get_total_flops()
    assert numerical_error(case) == 0
