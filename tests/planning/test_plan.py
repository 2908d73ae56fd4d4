"""What is answered and what is refused."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from softfree.cli.main import main
from softfree.planning.memory import GIB, memory
from softfree.planning.options import PlanOptions
from softfree.planning.plan import largest_size, make_plan
from softfree.planning.work import Work


@pytest.mark.parametrize("choice", [{}, {"mlp_chunk": 4096}, {"mlp_chunk": 64}, {"inference": True}], ids=str)
@pytest.mark.parametrize("gib", [0.8, 0.85, 0.9, 1.0, 1.5, 3.0])
def test_the_largest_size_is_the_largest_that_fits(gib: float, choice: dict[str, Any]) -> None:
    work = Work(model="seqnorm_vit_nano_patch16", **choice)
    available = int(gib * GIB)
    tried = [side for side in range(16, 6000, 16) if memory(dataclasses.replace(work, size=side)).total <= available]
    size = largest_size(work, available)
    assert size == max(tried, default=0) or (size > 6000 and tried[-1] == 5984)


def test_nothing_fits_into_nothing() -> None:
    plan = make_plan(PlanOptions(memory=0.1))
    assert (plan.largest, plan.fits) == (0, False)


def test_the_split_adds_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--json", "--size", "1024", "--memory", "8"]) == 0
    content = json.loads(capsys.readouterr().out)
    parts = content["memory"]
    assert parts.pop("total") == sum(parts.values())
    assert content["available"] == 8 * GIB
    assert content["fits"] is True
    assert content["largest_size"] > 1024
    assert parts["optimizer"] == 2 * parts["weights"] == 8 * content["parameters"]


def test_the_answer_is_one_of_yes_and_no(capsys: pytest.CaptureFixture[str]) -> None:
    for gib, answer in (("4", "It fits: 4.00 GiB"), ("0.8", "It does not fit: 819 MiB")):
        assert main(["plan", "--size", "1024", "--memory", gib]) == 0
        assert answer in capsys.readouterr().out


def test_a_wrong_memory_and_an_unknown_option_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--memory", "-1"]) == 2
    assert main(["plan", "--out", "plan.csv"]) == 2
    error = capsys.readouterr().err
    assert "error: Got memory -1" in error
    assert "--out is not an option of softfree plan" in error
