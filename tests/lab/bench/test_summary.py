"""Exponents, crossings and tables from rows whose truth is known."""

import pandas as pd
import pytest

from softfree_lab.bench.summary import crossovers, growth, wide_table, with_ratios

SIZES = (100, 1000, 10_000, 100_000)


def rows() -> pd.DataFrame:
    """Linear with a fixed cost, quadratic, and the floor; a 40-fold gap that closes at N = 400."""
    results = []
    for size in SIZES:
        for method, ms in (("products", size / 100), ("linear", size / 10), ("square", size**2 / 4000)):
            results.append(
                {"method": method, "size": size, "passes": "forward", "precision": "fp32", "status": "ok", "ms": ms}
                | {"peak_mib": size**0.5}
            )
    return pd.DataFrame(results)


def test_ratios_to_the_floor_of_the_same_size() -> None:
    result = with_ratios(rows())
    assert result[result["method"] == "linear"]["to_floor"].tolist() == pytest.approx([10] * 4)
    assert result[result["method"] == "products"]["to_floor"].tolist() == [1] * 4


def test_exponents() -> None:
    table = rows()
    result = growth(table, table["size"], 1000).set_index("method")
    assert result.loc["linear", "ms"] == pytest.approx(1)
    assert result.loc["square", "ms"] == pytest.approx(2)
    assert result.loc["square", "ms_high"] - result.loc["square", "ms_low"] < 1e-6
    assert result.loc["linear", "peak_mib"] == pytest.approx(0.5)
    assert (result["sizes"] == 3).all()
    assert growth(table, table["size"], 10_000).empty


def test_the_interval_of_an_exponent_holds_the_noise() -> None:
    table = rows()
    table.loc[table["size"] == 1000, "ms"] *= 1.2
    result = growth(table, table["size"], 0).set_index("method")
    assert result.loc["linear", "ms_low"] < 1 < result.loc["linear", "ms_high"]


def test_crossing() -> None:
    result = crossovers(rows())
    assert result.to_dict("records") == [
        {"passes": "forward", "precision": "fp32", "faster": "linear", "slower": "square", "size": 400}
    ]


def test_what_was_not_measured_is_in_no_fit_and_named_in_the_table() -> None:
    table = rows()
    table.loc[(table["method"] == "square") & (table["size"] > 1000), ["ms", "status"]] = [float("nan"), "skipped"]
    assert "square" not in growth(table, table["size"], 0)["method"].tolist()
    assert crossovers(table)["size"].tolist() == [400]
    text = wide_table(table, "ms", 1)
    assert "| square | forward | fp32 | 2.5 | 250.0 | skipped | skipped |" in text
    assert text.splitlines()[0].endswith("| 100 | 1,000 | 10,000 | 100,000 |")
