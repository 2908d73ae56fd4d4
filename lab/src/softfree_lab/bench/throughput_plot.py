"""Accuracy against throughput, and throughput alone at larger sides, with the caveats on the figure."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from softfree_lab.bench.plots import COLORS, NAMES
from softfree_runtime.core.files import replacing

CAVEATS = (
    "Top-1 (ImageNet-1k, 224 pixels) is cited from the authors or timm and was not measured here; all throughputs were "
    "measured in one run on one machine, with random weights.",
    "The training recipes differ: by its recipe alone, the same ResNet-50 has 76.2 or 80.4 %.",
    "SOFT and SOFT++ Small are the form with 24 M parameters, which the published accuracy belongs to; the released "
    "code has 39 M.",
    "There is no published ImageNet accuracy of SeqNorm or of these SimA vision transformers: their throughputs are "
    "vertical bands from the slowest to the fastest visit.",
    "At 224 pixels (196 tokens) attention of linear complexity has little to win; at larger sides no accuracy is "
    "known, and throughput stands alone.",
)
MARKERS = "osD^vP*XhdpH<>"
OWN = ("SOFT", "SOFT++")
BAND_COLORS = {"seqnorm": "#0b5fa5", "sima": "#c1440e"}
BAND_NAMES = {"seqnorm": "SeqNorm", "sima": "SimA"}


def plot_throughput(path: Path, rows: pd.DataFrame, published: pd.DataFrame, machine: str) -> None:
    """Draw one row of panels for each type and batch kind: the first side against Top-1, the others by model."""
    done = rows[rows["status"] == "ok"]
    sides = sorted(done["size"].unique())
    groups = _groups(done, sides[0])
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        figure = Figure(figsize=(7 + 4.6 * (len(sides) - 1), 2.1 + 5.6 * len(groups)), layout="constrained")
        axes = figure.subplots(len(groups), len(sides), squeeze=False, width_ratios=[1.5] + [1] * (len(sides) - 1))
        for (precision, largest), panels in zip(groups, axes, strict=True):
            for side, panel in zip(sides, panels, strict=True):
                if largest and done.loc[done["size"] == side, "batch"].nunique() < 2:  # in the row above
                    panel.set_axis_off()
                    continue
                shown = _chosen(done, side, precision, largest)
                if side == sides[0]:
                    _accuracy(panel, shown, published)
                else:
                    _bars(panel, shown, published)
                batch = "" if shown.empty else f", batch {shown['batch'].iloc[0]}"
                panel.set_title(f"{side} pixels{batch}, {NAMES[precision]}", loc="left")
        handles, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=5, frameon=False)
        figure.suptitle(f"Published accuracy against measured throughput (inference)\n{machine}", x=0.01, ha="left")
        width = int(22 * figure.get_figwidth())
        notes = "\n".join(
            line for caveat in CAVEATS for line in textwrap.wrap(f"• {caveat}", width, subsequent_indent="  ")
        )
        figure.supxlabel(notes, x=0.01, ha="left", fontsize=8, color="0.3")
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=130)


def _groups(done: pd.DataFrame, side: int) -> list[tuple[str, bool]]:
    """Return type and whether the larger batch, for each row of panels."""
    first = done[done["size"] == side]
    groups = []
    for precision in dict.fromkeys(first["precision"]):
        batches = first.loc[first["precision"] == precision, "batch"].unique()
        groups += [(str(precision), False)] + [(str(precision), True)] * (len(batches) > 1)
    return groups


def _chosen(done: pd.DataFrame, side: int, precision: str, largest: bool) -> pd.DataFrame:
    """Return the rows of a panel: the smallest batch, or the largest at this side."""
    rows = done[(done["size"] == side) & (done["precision"] == precision)]
    if rows.empty:
        return rows
    return rows[rows["batch"] == (rows["batch"].max() if largest else rows["batch"].min())]


def _accuracy(panel: Axes, rows: pd.DataFrame, published: pd.DataFrame) -> None:
    """Draw Top-1 over images per second, a line for each family, and a band for models without a Top-1."""
    found = published.merge(rows, left_on="model", right_on="method")
    families = list(dict.fromkeys(published["family"]))
    for family, group in found.groupby("family", sort=False):
        number = families.index(str(family))
        strong = {"linewidth": 2.2, "zorder": 5} if family in OWN else {"linewidth": 1.0, "alpha": 0.85}
        panel.plot(
            group["images_per_second"], group["top1"], label=str(family), color=COLORS[number % len(COLORS)],
            marker=MARKERS[number % len(MARKERS)], markersize=6, **strong,  # type: ignore[arg-type]
        )  # fmt: skip
        for row in group.to_dict("records"):
            panel.annotate(
                row["size_x"], (row["images_per_second"], row["top1"]), (3, 3), textcoords="offset points", fontsize=7
            )
    for row in rows[~rows["method"].isin(published["model"])].to_dict("records"):
        _band(panel, row)
    _logarithmic(panel)
    panel.set(xlabel="images per second, measured", ylabel="Top-1 on ImageNet-1k, %, published")


def _band(panel: Axes, row: Mapping[Any, Any]) -> None:
    name, _, rest = str(row["method"]).partition("_vit_")
    color = BAND_COLORS.get(name, "0.5")
    fast, slow = (1e3 * row["batch"] / row[key] for key in ("ms_low", "ms_high"))
    panel.axvspan(slow, fast, color=color, alpha=0.25, lw=0)
    panel.axvline(row["images_per_second"], color=color, lw=1, ls="--" if name == "sima" else "-", alpha=0.8)
    where = 0.02 if name == "seqnorm" else 0.3
    words = f"{BAND_NAMES.get(name, name)} {rest.replace('_patch', '/')}"
    panel.annotate(
        words, (row["images_per_second"], where), (2, 0), xycoords=("data", "axes fraction"),
        textcoords="offset points", rotation=90, fontsize=7, color=color, va="bottom",
    )  # fmt: skip


def _bars(panel: Axes, rows: pd.DataFrame, published: pd.DataFrame) -> None:
    """Draw images per second of all models, the fastest on top."""
    families = list(dict.fromkeys(published["family"]))
    family_of = published.drop_duplicates("model").set_index("model")["family"]
    shown = rows.sort_values("images_per_second")
    colors = [
        COLORS[families.index(family_of[name]) % len(COLORS)] if name in family_of.index
        else BAND_COLORS.get(name.partition("_vit_")[0], "0.5")
        for name in shown["method"]
    ]  # fmt: skip
    hatches = ["" if name in family_of.index else "///" for name in shown["method"]]
    names = [_short(name) for name in shown["method"]]
    panel.barh(names, shown["images_per_second"], color=colors, hatch=hatches, edgecolor="white", linewidth=0.3)
    panel.tick_params(axis="y", labelsize=6.5)
    panel.margins(y=0.01)
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(_plain))
    panel.set_xlabel("images per second, measured")
    panel.grid(axis="x", color="0.92")
    panel.set_axisbelow(True)


def _short(name: str) -> str:
    return (
        name.replace("_patch4_window7_224", "")
        .replace("_patch16_224", "")
        .replace("_p16_224", "")
        .replace("_patch16", "/16")
    )


def _logarithmic(panel: Axes) -> None:
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(_plain))
    panel.grid(color="0.92")


def _plain(value: float, _: Any = None) -> str:
    return f"{value:,.0f}" if value >= 1 else f"{value:g}"
