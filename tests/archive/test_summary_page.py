"""The page about an archive: what its owner reads first, and in which order."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from softfree.archive.folder import ArchiveFolder
from softfree.archive.summary_page import _by_month, line_by_month, write_summary_page
from softfree.archive.task import Words

WORDS = Words("predict", "predicted", "Predictions of an archive")


def group(rows: int, predicted: int, p: float, unusual: float | None = 0.0) -> dict[str, Any]:
    return {"rows": rows, "predicted": predicted, "unusual": unusual, "means": {"p_well": 1 - p, "p_ill": p}}


def page(tmp_path: Path, **changes: Any) -> str:
    groups = {
        "month": {"": group(9, 9, 0.5), "2026-02": group(4, 3, 0.25), "2025-11": group(2, 2, 0.5)},
        "site": {"": group(99, 99, 0.5), "Alpha": group(1, 1, 0.5), "Omega": group(50, 50, 0.5)},
    }
    summary = {"rows": 100, "statuses": {"ok": 90, "corrupt": 10}, "unusual": 0.05, "groups": groups, "drift": {},
               "means": {"p_well": 0.75, "p_ill": 0.25}} | changes  # fmt: skip
    folder = ArchiveFolder(tmp_path)
    write_summary_page(folder, WORDS, summary, {}, {})
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", folder.page.read_text()))


def test_groups_stand_in_an_order_with_the_unknown_ones_last(tmp_path: Path) -> None:
    text = page(tmp_path)
    assert "90 of 100 inputs were predicted; 10 were not." in text
    months, sites = text.partition("By month")[2].split("By site")
    assert months.index("2025-11") < months.index("2026-02") < months.index("not said")
    assert "2026-02 3 of 4 0.0 %" in months
    assert sites.index("Omega") < sites.index("Alpha") < sites.index("not said")


def test_many_unusual_images_are_said_first(tmp_path: Path) -> None:
    assert "unlike those" not in page(tmp_path)
    assert "30.0 % of the images are unlike those that the model was trained on" in page(tmp_path, unusual=0.3)
    few = {"ok": 9, "corrupt": 91}
    assert "unlike those" not in page(tmp_path, unusual=0.3, statuses=few)


def test_of_two_classes_one_is_shown(tmp_path: Path) -> None:
    folder = ArchiveFolder(tmp_path)
    scores = {"p_well": np.array([0.75, 0.8]), "p_ill": np.array([0.25, 0.2])}
    summary = {"rows": 2, "statuses": {"ok": 2}, "unusual": None, "groups": {}, "drift": {}}
    write_summary_page(folder, WORDS, summary | {"means": {"p_well": 0.775, "p_ill": 0.225}}, scores, {})
    text = folder.page.read_text()
    assert "Probability of ill" in text
    assert "Probability of well" not in text
    write_summary_page(folder, WORDS, summary | {"means": {"p_well": 0.5, "p_ill": 0.225}}, scores, {})  # findings
    assert "Probability of well" in folder.page.read_text()


def test_months_with_enough_images_are_drawn() -> None:
    found = {f"2026-{month:02}": group(20, 20, month / 10) for month in (1, 3, 4)} | {"2026-02": group(9, 9, 0.9)}
    (drawing,) = _by_month(found, ["p_ill"])
    line = drawing.figure.axes[0].lines[0]
    np.testing.assert_allclose(line.get_ydata(), [0.1, 0.3, 0.4])
    assert (np.diff(line.get_xdata()) == [2, 1]).all()
    assert _by_month({name: found[name] for name in ("2026-01", "2026-02", "2026-03")}, ["p_ill"]) == []
    ticks = [label.get_text() for label in line_by_month("x", ["2025-12", "2026-01"], [1, 2]).axes[0].get_xticklabels()]
    assert ticks == ["2025-12", "2026-01"]
