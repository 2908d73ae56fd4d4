"""Summaries of benchmark rows: ratios, growth with size, and the sizes where the fastest method changes."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from softfree_lab.bench.cases import FLOOR
from softfree_lab.records import markdown_table

GROUP = ["passes", "precision"]


def with_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``to_floor``: the time divided by that of the bare products of the same size, precision and pass."""
    floor = rows[rows["method"] == FLOOR].set_index([*GROUP, "size"])["ms"]
    keys = pd.MultiIndex.from_frame(rows[[*GROUP, "size"]])
    return rows.assign(to_floor=rows["ms"].to_numpy() / floor.reindex(keys).to_numpy())


def growth(rows: pd.DataFrame, tokens: pd.Series, smallest: float) -> pd.DataFrame:
    """Fit ``ms`` and ``peak_mib`` as powers of the number of tokens, by least squares of the logarithms.

    Args:
        rows: Rows from :func:`~softfree_lab.bench.measure.measure`.
        tokens: Number of tokens N of each row.
        smallest: Rows with fewer tokens are ignored, because other costs dominate there.

    Returns:
        One row per method, pass and precision with at least three sizes: the exponents with 95 % intervals.
    """
    large = rows[(rows["status"] == "ok") & (tokens >= smallest)].assign(tokens=tokens)
    fits = []
    for key, group in large.groupby(["method", *GROUP], sort=False):
        if len(group) < 3:
            continue
        row = dict(zip(["method", *GROUP], key, strict=True)) | {"sizes": len(group)}
        for name in ("ms", "peak_mib"):
            fit = stats.linregress(np.log(group["tokens"]), np.log(group[name]))
            margin = stats.t.ppf(0.975, len(group) - 2) * fit.stderr
            row |= {name: fit.slope, f"{name}_low": fit.slope - margin, f"{name}_high": fit.slope + margin}
        fits.append(row)
    return pd.DataFrame(fits)


def crossovers(rows: pd.DataFrame) -> pd.DataFrame:
    """Find the sizes from which one method stays ahead of another, interpolating the logarithms linearly.

    Returns:
        One row per pair whose order changes and that differs by a tenth at the largest common size: ``passes``,
        ``precision``, ``faster`` and ``slower`` from there on, ``size``.
    """
    crossings: list[dict[str, object]] = []
    done = rows[(rows["status"] == "ok") & (rows["method"] != FLOOR)]
    for key, group in done.groupby(GROUP, sort=False):
        times = group.pivot_table(index="size", columns="method", values="ms", sort=False).sort_index()
        for first, second in combinations(times.columns, 2):
            both = times[[first, second]].dropna()
            ahead = np.log((both[first] / both[second]).to_numpy())  # positive: the first is slower
            sizes = both.index.to_numpy(dtype=float)
            changes = np.flatnonzero(np.sign(ahead[1:]) != np.sign(ahead[:-1]))
            for at in changes[-1:] if abs(ahead[-1]) > math.log(1.1) else []:
                share = ahead[at] / (ahead[at] - ahead[at + 1])
                size = math.exp(np.log(sizes[at]) * (1 - share) + np.log(sizes[at + 1]) * share)
                slower, faster = (first, second) if ahead[at + 1] > 0 else (second, first)
                row = dict(zip(GROUP, key, strict=True)) | {"faster": faster, "slower": slower, "size": round(size)}
                crossings.append(row)
    return pd.DataFrame(crossings, columns=[*GROUP, "faster", "slower", "size"])


def wide_table(rows: pd.DataFrame, value: str, digits: int) -> str:
    """Lay out one value as a Markdown table, one row per method, pass and precision, one column per size."""
    sizes = sorted(rows["size"].unique())
    lines = []
    for key, group in rows.groupby([*GROUP, "method"], sort=False):
        passes, precision, method = key
        by_size = group.set_index("size")
        cells = [_cell(by_size.loc[size], value, digits) if size in by_size.index else "" for size in sizes]
        lines.append((method, passes, precision, *cells))
    return markdown_table(("method", "pass", "type", *(f"{size:,}" for size in sizes)), lines)


def _cell(row: pd.Series, value: str, digits: int) -> str:
    return f"{row[value]:,.{digits}f}" if row["status"] == "ok" else str(row["status"])
