"""Summaries of benchmark rows: ratios, growth with size, and the sizes where the fastest method changes."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats

from softfree_lab.bench.cases import FLOOR

GROUP = ["passes", "precision"]


def with_ratios(rows: pd.DataFrame) -> pd.DataFrame:
    """Add ``to_floor``: the time over that of the bare products of the same size, precision and pass."""
    floor = rows[rows["method"] == FLOOR].set_index([*GROUP, "size"])["ms"]
    keys = pd.MultiIndex.from_frame(rows[[*GROUP, "size"]])
    return rows.assign(to_floor=rows["ms"].to_numpy() / floor.reindex(keys).to_numpy())


def growth(rows: pd.DataFrame, tokens: pd.Series, smallest: float) -> pd.DataFrame:
    """Fit ``ms`` and ``peak_mib`` as powers of the number of tokens, by least squares of the logarithms.

    Args:
        rows: Of :func:`~softfree_lab.bench.measure.measure`.
        tokens: N of each row.
        smallest: Only rows with at least so many tokens, where a method has shown its growth.

    Returns:
        A row for each method, pass and precision with at least three sizes: the exponents with 95 % intervals.
    """
    chosen = rows[(rows["status"] == "ok") & (tokens >= smallest)].assign(tokens=tokens)
    fits = []
    for key, part in chosen.groupby(["method", *GROUP], sort=False):
        if len(part) < 3:
            continue
        row = dict(zip(["method", *GROUP], key, strict=True)) | {"sizes": len(part)}
        for name in ("ms", "peak_mib"):
            fit = stats.linregress(np.log(part["tokens"]), np.log(part[name]))
            reach = stats.t.ppf(0.975, len(part) - 2) * fit.stderr
            row |= {name: fit.slope, f"{name}_low": fit.slope - reach, f"{name}_high": fit.slope + reach}
        fits.append(row)
    return pd.DataFrame(fits)


def crossovers(rows: pd.DataFrame) -> pd.DataFrame:
    """Find from where on one method stays ahead of another, between sizes on straight lines of the logarithms.

    Returns:
        A row for each pair whose order changes and that differ by a tenth at the largest common size: ``passes``,
        ``precision``, ``faster`` and ``slower`` from there on, ``size``.
    """
    crossings: list[dict[str, object]] = []
    done = rows[(rows["status"] == "ok") & (rows["method"] != FLOOR)]
    for key, part in done.groupby(GROUP, sort=False):
        times = part.pivot_table(index="size", columns="method", values="ms", sort=False).sort_index()
        for one, two in combinations(times.columns, 2):
            both = times[[one, two]].dropna()
            ahead = np.log((both[one] / both[two]).to_numpy())  # positive: `one` is slower
            sizes = both.index.to_numpy(dtype=float)
            changes = np.flatnonzero(np.sign(ahead[1:]) != np.sign(ahead[:-1]))
            for at in changes[-1:] if abs(ahead[-1]) > math.log(1.1) else []:
                share = ahead[at] / (ahead[at] - ahead[at + 1])
                size = math.exp(np.log(sizes[at]) * (1 - share) + np.log(sizes[at + 1]) * share)
                slower, faster = (one, two) if ahead[at + 1] > 0 else (two, one)
                row = dict(zip(GROUP, key, strict=True)) | {"faster": faster, "slower": slower, "size": round(size)}
                crossings.append(row)
    return pd.DataFrame(crossings, columns=[*GROUP, "faster", "slower", "size"])


def wide_table(rows: pd.DataFrame, value: str, digits: int) -> str:
    """Write one value as a Markdown table, a row for each method, pass and precision, a column for each size."""
    sizes = sorted(rows["size"].unique())
    lines = [
        "| method | pass | type | " + " | ".join(f"{size:,}" for size in sizes) + " |",
        "|---" * (3 + len(sizes)) + "|",
    ]
    for key, part in rows.groupby([*GROUP, "method"], sort=False):
        passes, precision, method = key
        by_size = part.set_index("size")
        cells = [_cell(by_size.loc[size], value, digits) if size in by_size.index else "" for size in sizes]
        lines.append(f"| {method} | {passes} | {precision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(row: pd.Series, value: str, digits: int) -> str:
    return f"{row[value]:,.{digits}f}" if row["status"] == "ok" else str(row["status"])
