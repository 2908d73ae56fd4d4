"""Section 1: the results are right on this device, against float64 on the processor and by the project's own tests."""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from softfree.attention import ATTENTIONS, SeqNormAttention, create_attention
from softfree.core.precision import DTYPES
from softfree_lab.bench.cases import TOLERANCES, attention_of
from softfree_lab.bench.gpu.kernels import kernels_of
from softfree_lab.bench.gpu.section import Place, Task

TOKENS = {"cuda": (1, 63, 1024, 4097), "cpu": (63,)}
PRECISIONS = {"cuda": ("fp32", "bf16", "fp16"), "cpu": ("fp32", "bf16")}
WIDTH, HEADS = 192, 3
# On a processor, where the suite runs anyway, a file of each shows that the command works.
TESTS = {
    "cuda": ("tests/attention", "tests/models", "tests/streaming"),
    "cpu": ("tests/attention/test_sima.py", "tests/models/test_token_mean.py", "tests/streaming/test_store.py"),
}
ROOT = Path(__file__).parents[5]
RESULT = re.compile(r"\b(PASSED|FAILED|SKIPPED|ERROR|XFAIL|XPASS)\b")


def tasks(place: Place) -> Iterator[Task]:
    """Yield first the comparison with float64 of each attention, then the tests, then the names of fused kernels."""
    on_trial = ["seqnorm gram triton"] if place.device == "cuda" else []
    for name in (*ATTENTIONS, "seqnorm gram", "seqnorm folded", *on_trial):
        for precision in PRECISIONS[place.device]:
            yield Task({"what": "values", "attention": name, "precision": precision}, _compare(name, precision, place))
    yield Task({"what": "kernels"}, lambda: _kernels(place))
    for folder in TESTS[place.device]:
        yield Task({"what": "tests", "folder": folder}, lambda folder=folder: _tests(folder, place))  # type: ignore[misc]


def _compare(name: str, precision: str, place: Place) -> Any:
    def run() -> dict[str, Any]:
        worst = {"error": 0.0, "gradient_error": 0.0}
        for tokens in TOKENS[place.device]:
            for key, error in compare(name, tokens, precision, place.device).items():
                worst[key] = max(worst[key], error)
        # Gradients of deep sums lose a digit more than values, as in the tests.
        fine = worst["error"] <= TOLERANCES[precision] and worst["gradient_error"] <= 5 * TOLERANCES[precision]
        return {"status": "ok" if fine else "wrong", **worst}

    return run


def compare(name: str, tokens: int, precision: str, device: str) -> dict[str, float]:
    """Compare an attention in ``precision`` with the same weights in float64 on the processor.

    Returns:
        ``error`` of the values and ``gradient_error`` of the input's gradient: max|x - reference| / max|reference|.
    """
    torch.manual_seed(0)
    module = attention_of(name, WIDTH, HEADS).to(DTYPES[precision])
    x, weights = (torch.randn(2, tokens, WIDTH).to(DTYPES[precision]) for _ in range(2))
    exact = copy.deepcopy(module).double()
    for submodule in exact.modules():
        if isinstance(submodule, SeqNormAttention):
            submodule.order = "literal"
    want = _with_gradient(exact, x.double(), weights.double())
    got = _with_gradient(module.to(device), x.to(device), weights.to(device))
    errors = (_error(one, other) for one, other in zip(got, want, strict=True))
    return dict(zip(("error", "gradient_error"), errors, strict=True))


def _with_gradient(module: torch.nn.Module, x: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.detach().requires_grad_()
    y = module(leaf)
    (y * weights).sum().backward()
    assert leaf.grad is not None
    return y.detach(), leaf.grad


def _error(got: Tensor, want: Tensor) -> float:
    difference = (got.double().cpu() - want).abs().max() / want.abs().max().clamp(min=1e-12)
    return float(difference.nan_to_num(nan=float("inf")))


def _kernels(place: Place) -> dict[str, Any]:
    """Name the kernels of each attention at 1,024 tokens of head width 64, forward and backward."""
    found = {}
    for name in ("softmax", "seqnorm", "sima", "soft_norm"):
        for precision in PRECISIONS[place.device][1:]:
            module = create_attention(name, 384, 6).to(place.device, DTYPES[precision])
            x = torch.randn(1, 1024, 384, device=place.device, dtype=DTYPES[precision], requires_grad=True)
            found[f"{name} {precision}"] = kernels_of(
                lambda module=module, x=x: module(x).sum().backward(),  # type: ignore[misc]
                place.device,
            )
    return {"kernels": found}


def _tests(folder: str, place: Place) -> dict[str, Any]:
    """Run a folder of the suite on this device; what has been reached counts when the time is over."""
    if not (ROOT / folder).exists():
        return {"status": "skipped", "reason": f"no {folder}: run from a copy of the whole project"}
    workers = ["-n", str(min(8, os.cpu_count() or 1))] if _is_installed("xdist") and place.device == "cuda" else []
    command = [
        sys.executable,
        "-m",
        "pytest",
        folder,
        "-vv",  # against -q of the project's own options
        "--tb=short",
        "--continue-on-collection-errors",
        "-pno:cacheprovider",
        *workers,
    ]
    log = place.out / "tests.txt"
    share = 1.0 if folder == TESTS[place.device][-1] else 0.6  # of the time, so that the next folder has some
    try:
        with open(log, "a", encoding="utf-8") as file:
            start = file.tell()
            completed = subprocess.run(
                [*command, f"--device={place.device}"], cwd=ROOT, stdout=file, stderr=subprocess.STDOUT,
                timeout=max(1.0, share * place.left - 2), env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
        status = {0: "ok", 1: "failed"}.get(completed.returncode, f"pytest ended with {completed.returncode}")
    except subprocess.TimeoutExpired:
        status = "time over"
    with open(log, encoding="utf-8", errors="replace") as file:
        file.seek(start)
        written = file.read()
    return {"status": status, **counts(written)}


def counts(text: str) -> dict[str, Any]:
    """Count the results in pytest's verbose output, and list the tests that failed."""
    lines = [line for line in text.splitlines() if "::" in line and not line.startswith(("FAILED ", "ERROR "))]
    found = [(match[1], line) for line in lines if (match := RESULT.search(line))]
    numbers = Counter(result.lower() for result, _ in found)
    failed = [re.search(r"\S+::\S.*", line) for result, line in found if result in ("FAILED", "ERROR")]
    uncollected = re.findall(r"^ERROR (tests/[^\s:]+\.py)(?: - .*)?$", text, re.MULTILINE)
    return {
        **numbers,
        "not_collected": sorted(set(uncollected)),
        "failures": [match[0].split(" FAILED")[0].split(" ERROR")[0] for match in failed if match][:40],
    }


def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
