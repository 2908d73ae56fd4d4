import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest

from softfree.evaluation.formatting import metrics_to_json, name_of, number, summary_rows, write_metrics
from softfree.evaluation.metrics import Metric
from softfree_runtime.core.errors import UserError

GOOD = Metric(0.93125, 0.88, 0.9604, "DeLong, score interval", 80, 30)
BAD = Metric(math.nan, math.nan, math.nan, "", 5, None, "no positive among 5 samples")


def test_words() -> None:
    rows = summary_rows({"auroc": GOOD, "sensitivity/a/b": BAD})
    assert rows[0] == ("AUROC", "0.931", "0.880 to 0.960", "80 (30 positive)", "DeLong, score interval")
    assert rows[1] == ("Sensitivity, a/b", "–", "–", "5", "no positive among 5 samples")
    taken = {"sensitivity": replace(GOOD, n=30), "specificity": replace(GOOD, n=50, n_positive=0)}
    assert [row.samples for row in summary_rows(taken)] == ["30 positive", "50 negative"]
    assert name_of("something_new") == "something_new"
    assert number(-0.01) == "−0.010"


def test_json_is_strict(tmp_path: Path) -> None:
    content = metrics_to_json({"auroc": GOOD, "auroc/ä": BAD})
    assert content["auroc/ä"]["value"] is None
    assert content["auroc/ä"]["reason"] == "no positive among 5 samples"
    path = tmp_path / "metrics.json"
    write_metrics(path, {"auroc": GOOD, "auroc/ä": BAD}, {"split": "test", "temperature": math.inf, "seeds": (1, 2)})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    read = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    assert read["split"] == "test"
    assert read["temperature"] is None
    assert read["seeds"] == [1, 2]
    assert read["metrics"] == content
    assert read["metrics"]["auroc"] == {
        "value": 0.93125, "low": 0.88, "high": 0.9604, "method": "DeLong, score interval", "n": 80, "n_positive": 30,
        "reason": None, "level": 0.95}  # fmt: skip


def test_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="disk full"):
        write_metrics(path, {})
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="permission bits")
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        write_metrics(tmp_path / "metrics.json", {})
    finally:
        os.umask(before)
    assert (tmp_path / "metrics.json").stat().st_mode & 0o777 == 0o644
