"""The GPU benchmark without a GPU: its sections, what stops them, the report, and a rehearsal on the processor."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from softfree_lab.bench import clock
from softfree_lab.bench.gpu import correct, run
from softfree_lab.bench.gpu.report import write_report
from softfree_lab.bench.gpu.run import bench_gpu, check_device
from softfree_lab.bench.gpu.section import AGAIN, Place, Task, run_section
from softfree_lab.bench.journal import Journal
from softfree_lab.bench.options import GpuBenchOptions
from softfree_runtime.core.errors import UserError


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place("cpu", tmp_path, time.time() + 60)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "results.jsonl")


def raising(error: Exception) -> Any:
    def run() -> dict[str, Any]:
        raise error

    return run


def statuses(journal: Journal) -> dict[str, str]:
    return {str(row.get("name", row.get("what"))): row["status"] for row in journal.results()}


def test_out_of_memory_and_failures_stop_one_case_each(place: Place, journal: Journal) -> None:
    tasks = [
        Task({"name": "large"}, raising(torch.OutOfMemoryError("CUDA out of memory."))),
        Task({"name": "broken"}, raising(ValueError("no\nsuch kernel"))),
        Task({"name": "wrong"}, lambda: {"status": "wrong", "error": 2.0}),
        Task({"name": "good"}, lambda: {"ms": 1.0}),
    ]
    assert run_section("s", tasks, place, journal) == 0
    assert statuses(journal) == {
        "large": "out of memory",
        "broken": "failed",
        "wrong": "wrong",
        "good": "ok",
        "end": "ok",
    }
    assert next(journal.results(name="broken"))["reason"] == "ValueError: no"


def test_a_device_that_refuses_further_work_is_opened_anew(place: Place, journal: Journal) -> None:
    """The case that broke it is not tried again, and those after it are."""
    tasks = [
        Task({"name": "bad"}, raising(RuntimeError("CUDA error: an illegal memory access was encountered"))),
        Task({"name": "next"}, lambda: {"ms": 1.0}),
    ]
    assert run_section("s", tasks, place, journal) == AGAIN
    assert statuses(journal) == {"bad": "failed"}
    assert run_section("s", tasks, place, Journal(journal.path)) == 0
    assert statuses(Journal(journal.path)) == {"bad": "failed", "next": "ok", "end": "ok"}


def test_a_case_that_ends_its_process_is_tried_twice(place: Place, journal: Journal) -> None:
    for _ in range(2):
        journal.begin({"section": "s", "name": "deadly"})
    assert run_section("s", [Task({"name": "deadly"}, raising(AssertionError()))], place, journal) == 0
    assert "twice" in next(journal.results(name="deadly"))["reason"]


def test_time_over(tmp_path: Path, journal: Journal) -> None:
    tasks = [Task({"name": "long"}, lambda: {}, least=100.0), Task({"name": "short"}, lambda: {})]
    run_section("s", tasks, Place("cpu", tmp_path, time.time() + 50), journal)
    assert statuses(journal) == {"short": "ok", "end": "time over"}
    run_section("s", [Task({"name": "later"}, lambda: {})], Place("cpu", tmp_path, time.time() - 1), journal)
    assert statuses(journal) == {"short": "ok", "end": "time over"}


def test_results_of_tests_are_counted_with_and_without_processes() -> None:
    text = """
tests/a/test_b.py::test_c PASSED [ 33%]
tests/a/test_b.py::test_d[x FAILED-y] FAILED [ 66%]
[gw1] [ 99%] PASSED tests/a/test_b.py::test_e
[gw0] [ 99%] FAILED tests/a/test_b.py::test_f[0.5]
tests/a/test_b.py::test_g
FAILED tests/a/test_b.py::test_d - assert 1 == 2
ERROR tests/a/test_needs.py - ModuleNotFoundError: No module named 'pydicom'
"""
    found = correct.counts(text)
    assert (found["passed"], found["failed"]) == (2, 2)
    assert found["not_collected"] == ["tests/a/test_needs.py"]
    assert found["failures"][1] == "tests/a/test_b.py::test_f[0.5]"


def test_an_attention_that_is_wrong_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    good = correct.compare("sima", 63, "fp32", "cpu")
    assert max(good.values()) < 1e-5
    original = correct._with_gradient
    monkeypatch.setattr(
        correct,
        "_with_gradient",
        lambda module, x, weights: original(module, x if x.dtype == torch.float64 else x * 1.01, weights),
    )
    assert correct.compare("sima", 63, "fp32", "cpu")["error"] > 1e-4


@pytest.mark.parametrize(
    ("driver", "built", "words"),
    [
        (None, "13.0", "nvidia-smi finds no GPU"),
        ("470.1", "13.0", r"Driver 470.1 does not run torch \S+, built for CUDA 13.0: install"),
        ("580.1", None, r"Driver 580.1 does not run torch \S+, built without CUDA"),
    ],
)
def test_a_driver_without_a_torch_that_fits(
    monkeypatch: pytest.MonkeyPatch, driver: str | None, built: str | None, words: str
) -> None:
    monkeypatch.setattr(run, "device_says", lambda: {"driver_version": driver} if driver else {})
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=words) as caught:
        check_device("cuda")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("known", "fits"), [(["sm_80", "sm_90a"], True), (["sm_80"], False), (["compute_80"], True)])
def test_a_gpu_that_torch_was_not_built_for(monkeypatch: pytest.MonkeyPatch, known: list[str], fits: bool) -> None:
    monkeypatch.setattr(run, "device_says", lambda: {"driver_version": "580.1"})
    for name, value in {
        "is_available": True,
        "get_device_capability": (9, 0),
        "get_arch_list": known,
        "get_device_name": "H200",
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    if fits:
        check_device("cuda")
        return
    with pytest.raises(UserError, match=r"H200 has compute capability 9.0, but torch .* was built for sm_80"):
        check_device("cuda")


def test_what_nvidia_smi_says(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = subprocess.CompletedProcess([], 0, "580.159, 1980, 1980, 3201, 400.1, 700.0, 35\n")
    monkeypatch.setattr(clock.subprocess, "run", lambda *_, **__: answer)
    assert clock.device_says()["driver_version"] == "580.159"
    assert clock.device_says()["temperature.gpu"] == "35"


def test_the_report_and_figure_2(journal: Journal, tmp_path: Path) -> None:
    """Of made-up results of a GPU: ratios to the bare products, what failed, and curves by side."""
    journal.put({"section": "machine", "device": "cuda"}, "ok", machine="A GPU", versions={"torch": "2"})
    base = {"section": "sublayer", "kind": "attention", "size": 4096, "precision": "bf16", "passes": "forward"}
    base |= {"batch": 1, "compiled": False}
    journal.put({**base, "method": "products"}, "ok", ms=0.5, peak_mib=1.0)
    journal.put({**base, "method": "seqnorm gram"}, "ok", ms=0.75, peak_mib=30.0)
    journal.put({**base, "method": "softmax"}, "out of memory")
    for passes in ("forward", "training"):
        for side, milliseconds in ((2048, 40.0), (224, 2.0)):
            case = {"section": "models", "kind": "model", "method": "seqnorm_vit_small_patch16", "size": side}
            case |= {"precision": "bf16", "passes": passes, "batch": 1, "compiled": False}
            journal.put(case, "ok", ms=milliseconds, ms_low=milliseconds, ms_high=milliseconds, peak_mib=side)
    text = write_report(tmp_path, journal, "cuda")
    assert "0.75 (1.50 x; 30 MiB)" in text
    assert "| sublayer softmax 4096 bf16 forward 1 | out of memory |" in text
    assert (tmp_path / "report.md").read_text() == text
    assert Image.open(tmp_path / "figure2.png").width > 1000


def test_results_of_another_device_are_not_mixed(journal: Journal, tmp_path: Path) -> None:
    journal.put({"section": "machine", "device": "cuda"}, "ok")
    with pytest.raises(UserError, match="results of another device"):
        bench_gpu(GpuBenchOptions(out=tmp_path, device="cpu", sections=[]))


def test_an_unknown_section(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Got the section 'speed': expected some of correct, sublayer"):
        bench_gpu(GpuBenchOptions(out=tmp_path, device="cpu", sections=["speed"]))  # type: ignore[list-item]


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    """Every section on the processor, in processes; a second start has nothing left to do in those that ended."""
    options = GpuBenchOptions(out=tmp_path, device="cpu", budget=240)
    text = bench_gpu(options, lambda line: None)
    assert 2 <= len(list(tmp_path.iterdir())) <= 8
    results = list(Journal(tmp_path / "results.jsonl").results())
    assert {row["section"] for row in results} == {"machine", *options.sections}
    assert not [row for row in results if row["status"] in ("failed", "wrong")]
    assert "## One sublayer" in text
    ended = [row["section"] for row in results if row.get("what") == "end" and row["status"] == "ok"]
    bench_gpu(GpuBenchOptions(out=tmp_path, device="cpu", sections=ended[:1], budget=60), lambda line: None)
    again = list(Journal(tmp_path / "results.jsonl").results(section=ended[0]))
    measured = [row for row in again if row.get("what") != "device"]
    assert measured == [row for row in results if row["section"] == ended[0] and row.get("what") != "device"]


@pytest.mark.slow
def test_the_suite_takes_its_device_from_an_option() -> None:
    """On another device only what runs there: meta has no values, but its tests can be collected anywhere."""
    root = Path(__file__).parents[3]
    command = [sys.executable, "-m", "pytest", "--device=meta", "--collect-only", "-q", "-p", "no:cacheprovider"]
    files = ["tests/attention/test_sima.py", "tests/core"]
    listed = subprocess.run([*command, *files], cwd=root, capture_output=True, text=True).stdout
    assert "tests/attention/test_sima.py::" in listed
    assert "tests/core/" not in listed
