"""What a report says of data and training."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from softfree.data.table import read_table
from softfree.evaluation.report import Counts
from softfree.inference.run_directory import RunDirectory
from softfree.reporting.facts import count_rows


def test_rows_are_counted_by_split_and_class(small_table: Path) -> None:
    counted = count_rows(read_table(small_table))
    assert counted[0] == Counts("train", 16, 8, {"high": 8, "low": 8})
    assert [row.samples for row in counted] == [16, 8, 8]
    findings = small_table.with_name("findings.csv")
    findings.write_text("path,x,y,split\na.png,1,,train\nb.png,1,0,train\nc.png,0,1,test\n")
    assert count_rows(read_table(findings, labels=["x", "y"])) == [
        Counts("train", 2, 2, {"x": 2, "y": 0}),
        Counts("val", 0, 0, {"x": 0, "y": 0}),
        Counts("test", 1, 1, {"x": 0, "y": 1}),
    ]


def test_a_class_may_be_called_like_a_count(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        "path,label,patient_id,split\n" + "".join(f"{n}.png,{label},{n // 2},train\n"
        for n, label in enumerate(["patients", "split", "split", "split", "patients"]))
    )  # fmt: skip
    assert count_rows(read_table(tmp_path / "t.csv"))[0] == Counts("train", 5, 3, {"patients": 2, "split": 3})


def test_the_history_joins_attempts_and_later_ones_win(tmp_path: Path) -> None:
    assert RunDirectory(tmp_path).read_history() is None
    attempts = {
        0: "epoch,train_loss,val_auroc\n0,3,\n0,,0.5\n1,2,\n",
        2: "",
        9: "epoch,train_loss,val_auroc\n1,1.5,0.6\n",
        10: "epoch,train_loss,val_auroc\n1,1,0.7\n2,0.5,0.8\n",
    }
    for number, content in attempts.items():
        folder = tmp_path / "logs" / "csv" / f"version_{number}"
        folder.mkdir(parents=True)
        (folder / "metrics.csv").write_text(content)
    history = RunDirectory(tmp_path).read_history()
    assert history is not None
    np.testing.assert_array_equal(history, [[0, 3, 0.5], [1, 1, 0.7], [2, 0.5, 0.8]])
