"""The closed forms of memory and work against the real models."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from softfree.attention import ATTENTIONS
from softfree.bench import plan_check
from softfree.bench.peaks import measure_peak
from softfree.cli import main
from softfree.errors import UserError
from softfree.models import create_model
from softfree.options import PlanOptions
from softfree.planning import GIB, layers
from softfree.planning.memory import kept_bytes, memory
from softfree.planning.plan import largest_size, make_plan
from softfree.planning.text import print_check
from softfree.planning.work import Work, count_parameters, multiply_adds

KNOWN = sorted(layers.ATTENTIONS)


def build(work: Work, device: str = "cpu") -> torch.nn.Module:
    with torch.device(device):
        model = create_model(
            work.model,
            img_size=work.size,
            in_chans=work.channels,
            num_classes=work.classes,
            stem=work.stem,
            mlp_chunk=work.mlp_chunk,
        )
    model.set_grad_checkpointing(work.checkpointing)
    return model.to(torch.bfloat16) if work.pure else model


def pixels(work: Work, device: str = "cpu") -> Tensor:
    dtype = torch.bfloat16 if work.pure else torch.float32
    return torch.ones(work.batch, work.channels, work.size, work.size, device=device, dtype=dtype)


class Products(TorchDispatchMode):
    """Count the multiply-adds of products and convolutions, those in place and into a given tensor among them."""

    total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::").rstrip("_")
        if name in ("mm", "bmm", "addmm", "baddbmm"):
            left, right = args[-2:] if len(args) >= 2 else args
            self.total += left.numel() * right.shape[-1]
        elif name == "convolution":
            self.total += out.numel() * args[1][0].numel()
        elif "scaled_dot_product" in name:
            query, key = args[:2]
            self.total += 2 * query.numel() * key.shape[-2]
        return out


def autograd_keeps(work: Work) -> int:
    model = build(work).train()
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor  # held, so that no address comes twice
        return tensor

    autocast = torch.autocast("cpu", torch.bfloat16, enabled=work.shape.autocast)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        model(pixels(work))
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("size", [64, 250])  # below and above the turn to the Gram order; whole and cut patches
@pytest.mark.parametrize("attention", KNOWN)
def test_parameters_and_products_are_the_models(attention: str, size: int, stem: str) -> None:
    work = Work(model=f"{attention}_vit_nano_patch8", size=size, stem=stem, channels=1, classes=5)
    model = build(work, "meta").eval()
    assert count_parameters(work) == sum(parameter.numel() for parameter in model.parameters())
    with torch.no_grad(), Products() as counted:
        model(pixels(work, "meta"))
    assert multiply_adds(work) == pytest.approx(counted.total, rel=1e-3)


@pytest.mark.parametrize(
    "choice", [{}, {"pure": True, "precision": "bf16"}, {"precision": "bf16"}, {"batch": 2}], ids=str
)
@pytest.mark.parametrize("size", [64, 250])
@pytest.mark.parametrize("attention", KNOWN)
def test_kept_bytes_are_those_that_autograd_keeps(attention: str, size: int, choice: dict[str, Any]) -> None:
    work = Work(model=f"{attention}_vit_nano_patch8", size=size, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)


@pytest.mark.parametrize("choice", [{"checkpointing": True}, {"mlp_chunk": 256}, {"stem": "patch"}], ids=str)
def test_what_is_computed_again_is_not_kept(choice: dict[str, Any]) -> None:
    work = Work(model="seqnorm_vit_nano_patch8", size=256, **choice)
    assert kept_bytes(work) == pytest.approx(autograd_keeps(work), rel=0.04)
    assert kept_bytes(work) < kept_bytes(Work(model=work.model, size=256))


@pytest.mark.parametrize("choice", [{}, {"checkpointing": True}, {"inference": True}, {"gpu": True}], ids=str)
@pytest.mark.parametrize("attention", KNOWN)
def test_larger_pictures_take_more(attention: str, choice: dict[str, Any]) -> None:
    # From the turn to the Gram order on, the only place where less is kept.
    works = [Work(model=f"{attention}_vit_tiny_patch16", size=size, **choice) for size in range(288, 4096, 112)]
    for measure in (multiply_adds, lambda work: memory(work).total):
        costs = [measure(work) for work in works]
        assert costs == sorted(costs)
        assert costs[0] < costs[-1] / 2


@pytest.mark.parametrize("choice", [{}, {"mlp_chunk": 4096}, {"mlp_chunk": 64}, {"inference": True}], ids=str)
@pytest.mark.parametrize("gib", [0.8, 0.85, 0.9, 1.0, 1.5, 3.0])
def test_the_largest_size_is_the_largest_that_fits(gib: float, choice: dict[str, Any]) -> None:
    work = Work(model="seqnorm_vit_nano_patch16", **choice)
    available = int(gib * GIB)
    tried = [side for side in range(16, 6000, 16) if memory(dataclasses.replace(work, size=side)).total <= available]
    found = largest_size(work, available)
    assert found == max(tried, default=0) or (found > 6000 and tried[-1] == 5984)


def test_nothing_fits_into_nothing() -> None:
    plan = make_plan(PlanOptions(memory=0.1))
    assert (plan.largest, plan.fits) == (0, False)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"model": "seqnorm_vit_tiny_patch61"}, "did you mean seqnorm_vit_tiny_patch16"),
        ({"size": 0}, "size 0"),
        ({"batch": -1}, "batch -1"),
        ({"mlp_chunk": 0}, "mlp_chunk 0"),
        ({"stem": "stone"}, "stem 'stone'"),
        ({"precision": "8"}, "precision '8'"),
    ],
)
def test_impossible_work_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Work(**wrong)


def test_an_attention_without_a_formula_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(layers.ATTENTIONS, "sima")
    with pytest.raises(UserError, match="'sima', which has no formula"):
        Work(model="sima_vit_tiny_patch16")


def test_formulas_belong_to_methods_that_exist() -> None:
    assert set(KNOWN) <= set(ATTENTIONS)


def test_the_split_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--size", "1024", "--memory", "8"]) == 0
    found = json.loads(capsys.readouterr().out)
    parts = found["memory"]
    assert parts.pop("total") == sum(parts.values())
    assert found["available"] == 8 * GIB
    assert found["fits"] is True
    assert found["largest_size"] > 1024
    assert parts["optimizer"] == 2 * parts["weights"] == 8 * found["parameters"]


def test_the_answer_is_one_of_yes_and_no(capsys: pytest.CaptureFixture[str]) -> None:
    for gib, answer in (("4", "It fits: 4.00 GiB"), ("0.8", "It does not fit: 819 MiB")):
        assert main(["plan", "--size", "1024", "--memory", gib]) == 0
        assert answer in capsys.readouterr().out


def test_a_wrong_memory_and_a_file_without_check_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--memory", "-1"]) == 2
    assert main(["plan", "--out", "plan.csv"]) == 2
    assert capsys.readouterr().err.count("softfree: error: Got ") == 2


def test_the_check_is_written_with_its_machine(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    works = [Work(size=64), Work(size=64, inference=True, stem="patch", pure=True, precision="bf16")]
    twice = {work.size: 2 * memory(work).total for work in works[:1]}
    monkeypatch.setattr(plan_check, "measure_peak", lambda case: (twice[case["size"]], 0))
    found = plan_check.check_plan(works, tmp_path / "plan.csv")
    print_check(found)
    assert found["ratio"][0] == pytest.approx(0.5)
    assert pd.read_csv(tmp_path / "plan.csv")["ratio"][0] == pytest.approx(0.5)
    assert found["case"][1] == f"{Work().model} inference 64 px precision=bf16 pure stem=patch"
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["machine"]
    assert [Work(**case) for case in record["cases"]] == works
    assert "0.50" in capsys.readouterr().out


@pytest.mark.slow
def test_a_case_that_cannot_be_measured_says_why() -> None:
    case = dataclasses.asdict(Work()) | {"model": "seqnorm_vit_none_patch16"}
    with pytest.raises(UserError, match="seqnorm_vit_none_patch16"):
        measure_peak(case)


@pytest.mark.slow
def test_the_peak_is_within_fifteen_percent_of_the_measured_one() -> None:
    # Large enough that activations weigh as much as the process.
    found = plan_check.check_plan([Work(model="seqnorm_vit_small_patch16", size=768)]).iloc[0]
    assert found["ratio"] == pytest.approx(1, abs=0.15)
    assert found["ratio_above_base"] == pytest.approx(1, abs=0.3)
