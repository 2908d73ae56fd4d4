"""Predicted beside measured peaks."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from softfree.planning.memory import memory
from softfree.planning.work import Work
from softfree_lab.bench import plan_check
from softfree_lab.bench.peaks import measure_peak
from softfree_runtime.core.errors import UserError


def test_the_check_is_written_with_its_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    standard: dict[str, Any] = {"size": 64, "pool": "avg"}
    works = [
        Work(stem="conv", **standard),
        Work(inference=True, stem="patch", pure=True, precision="bf16", **standard),
    ]
    twice = {work.size: 2 * memory(work).total for work in works[:1]}
    monkeypatch.setattr(plan_check, "measure_peak", lambda case: (twice[case["size"]], 0))
    result = plan_check.check_plan(works, tmp_path / "plan.csv")
    assert result["ratio"][0] == pytest.approx(0.5)
    assert pd.read_csv(tmp_path / "plan.csv")["ratio"][0] == pytest.approx(0.5)
    assert result["case"][1] == f"{Work().model} inference 64 px precision=bf16 pure stem=patch"
    record = json.loads((tmp_path / "plan.json").read_text())
    assert record["machine"]
    assert [Work(**case) for case in record["options"]["cases"]] == works
    check = plan_check.PlanCheck(result)
    assert "| 0.50 |" in check.to_markdown()
    assert check.to_dict()[0]["ratio"] == pytest.approx(0.5)


@pytest.mark.slow
def test_a_case_that_cannot_be_measured_says_why() -> None:
    case = dataclasses.asdict(Work()) | {"model": "seqnorm_vit_none_patch16"}
    with pytest.raises(UserError, match="seqnorm_vit_none_patch16"):
        measure_peak(case)


@pytest.mark.slow
def test_the_peak_is_within_fifteen_percent_of_the_measured_one() -> None:
    # Large enough that activations weigh as much as the process.
    result = plan_check.check_plan([Work(model="seqnorm_vit_small_patch16", size=768)]).iloc[0]
    assert result["ratio"] == pytest.approx(1, abs=0.15)
    assert result["ratio_above_base"] == pytest.approx(1, abs=0.3)
