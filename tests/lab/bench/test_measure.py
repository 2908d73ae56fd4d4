"""What is measured, predicted, skipped and refused."""

import math

import pytest

from softfree_lab.bench import measure as module
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.measure import Budget, measure, predicted_seconds

SMALL = {"width": 32, "heads": 2}


def test_rows_of_real_processes() -> None:
    cases = [
        BenchCase("attention", method, 64, **SMALL) for method in ("products", "softmax", "seqnorm gram", "nonsense")
    ]
    told: list[str] = []
    rows = measure(cases, Budget(0.05, threads=1), told.append).set_index("method")
    assert told == ["attention, 64, fp32, forward"]
    assert rows["status"].to_dict() == {
        "products": "ok", "softmax": "ok", "seqnorm gram": "ok", "nonsense": "failed",
    }  # fmt: skip
    assert "Unknown attention 'nonsense'" in rows.loc["nonsense", "reason"]
    done = rows[rows["status"] == "ok"]
    assert (done["ms_low"] <= done["ms"]).all()
    assert (done["ms"] <= done["ms_high"]).all()
    assert (done["runs"] >= 3).all()
    assert done["peak_mib"].between(0.5, 300).all()


def test_wrong_numbers_have_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "numerical_error", lambda case: math.nan)
    rows = measure([BenchCase("attention", "softmax", 64, **SMALL)], Budget(0.05))
    assert rows.loc[0, "status"] == "wrong"
    assert "ms" not in rows


def test_what_does_not_fit_is_predicted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "available_or_assumed", lambda: 10**6)
    rows = measure([BenchCase("attention", "softmax", 10**5, **SMALL)], Budget(0.05))
    assert rows.loc[0, "status"] == "skipped"
    assert "GiB" in rows.loc[0, "reason"]


def test_times_grow_as_they_grew() -> None:
    assert predicted_seconds([], 100) == 0
    assert predicted_seconds([(100, 1.0)], 300) == pytest.approx(3)
    assert predicted_seconds([(100, 1.0), (200, 4.0)], 400) == pytest.approx(16)
    assert predicted_seconds([(100, 1.0), (200, 1.0)], 400) == pytest.approx(2)
