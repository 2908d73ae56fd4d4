"""Results on the terminal and for programs."""

import io
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from softfree.inference.run import Run
from softfree.models import create_model, list_models
from softfree.reporting import terminal as summary
from softfree.reporting.evaluate import Evaluation, evaluate
from softfree.reporting.options import EvaluateOptions


@pytest.fixture(scope="module")
def result(run: Run) -> Evaluation:
    """Compared with itself, so that intervals are missing."""
    return evaluate(run, EvaluateOptions(compare_with=run.folder, num_bootstrap=50, progress=False))


@pytest.fixture
def printed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], str]:
    """What was printed so far, on a terminal wide enough for the paths."""
    console = Console(width=300, record=True, file=io.StringIO())
    monkeypatch.setattr(summary, "console", console)
    return console.export_text


def test_a_finished_training_shows_its_metrics_and_what_comes_next(
    run: Run, result: Evaluation, printed: Callable[[], str]
) -> None:
    summary.print_training(run, result)
    text = printed()
    assert "test split: 8 samples of 4 patients" in text
    row = next(line for line in text.splitlines() if "AUROC " in line)
    assert f"{result.metrics['auroc'].value:.3f}" in row
    assert "8 (4 positive)" in row
    assert f"Report: {run.folder / 'report.html'}" in text
    assert f"softfree predict {run.folder} FILES" in text
    ece = next(line for line in text.splitlines() if "Calibration error" in line)
    assert "–" in ece, "no number is a dash"


def test_a_training_that_had_finished_shows_where_its_results_are(run: Run, printed: Callable[[], str]) -> None:
    summary.print_training(run, None)
    text = printed()
    assert f"Report: {run.folder / 'report.html'}" in text
    assert "AUROC" not in text


def test_an_evaluation_shows_verdict_and_the_first_failures(result: Evaluation, printed: Callable[[], str]) -> None:
    failed = {row: f"[{row}] gone" for row in range(20, 35)}
    summary.print_evaluation(replace(result, failed=failed))
    text = printed()
    assert result.comparison is not None
    assert result.comparison.verdict in text
    assert "8 samples" in text
    assert "row 29 left out: [29] gone" in text
    assert "row 30" not in text
    assert "and 5 more rows left out; see: softfree check" in text
    assert f"Report: {result.report}" in text


def test_programs_get_strict_json(result: Evaluation) -> None:
    content = json.loads(json.dumps(summary.evaluation_to_dict(replace(result, failed={3: "gone"})), allow_nan=False))
    assert content["n"] == 8
    assert content["failed"] == {"3": "gone"}
    assert content["metrics"]["auroc"]["value"] == result.metrics["auroc"].value
    assert result.comparison is not None
    for name, difference in result.comparison.differences.items():
        shown = content["comparison"]["differences"][name]
        assert shown["a"] == difference.a
        assert (shown["p"] is None) == math.isnan(difference.p)
    assert content["comparison"]["verdict"] == result.comparison.verdict
    assert summary.evaluation_to_dict(replace(result, comparison=None))["comparison"] is None


def test_models_by_pattern_with_their_sizes(printed: Callable[[], str], capsys: pytest.CaptureFixture[str]) -> None:
    summary.print_models("seqnorm_vit_nano*", as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in content] == [name for name in list_models() if name.startswith("seqnorm_vit_nano")]
    size = sum(p.numel() for p in create_model(content[0]["name"]).parameters())
    assert content[0]["parameters"] == size
    summary.print_models(content[0]["name"])
    assert f"{size / 1e6:.1f} M" in printed()


def test_brackets_in_names_are_printed(result: Evaluation, capsys: pytest.CaptureFixture[str]) -> None:
    found = replace(result, metrics={"sensitivity/mass [/cm]": result.metrics["auroc"]}, report=Path("run[v2]/r.html"))
    summary.print_evaluation(found)
    shown = capsys.readouterr().out
    assert "mass [/cm]" in shown
    assert "run[v2]/r.html" in shown
