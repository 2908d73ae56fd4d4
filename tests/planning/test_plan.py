"""What is answered and refused, and how the answer is held against measured peaks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from softfree.bench import plan_check
from softfree.bench.peaks import measure_peak
from softfree.cli import main
from softfree.errors import UserError
from softfree.options import PlanOptions
from softfree.planning import GIB
from softfree.planning.memory import memory
from softfree.planning.plan import largest_size, make_plan
from softfree.planning.text import print_check
from softfree.planning.work import Work


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
    assert [Work(**case) for case in record["options"]["cases"]] == works
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
