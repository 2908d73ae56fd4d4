"""The study of the Long Range Arena on tiny files; its trainings run in this process, which is quicker."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from softfree_lab.cli import main
from softfree_lab.long_range import child, costs
from softfree_lab.studies import long_range
from softfree_lab.studies.children import Children
from softfree_lab.studies.long_range import study_long_range
from softfree_lab.studies.options import LongRangeOptions
from softfree_runtime.core.errors import UserError


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """Six expressions in each split."""
    folder = tmp_path / "files"
    folder.mkdir()
    lines = ["Source\tTarget", *(f"( ( ( [MAX {value} ) 0 ) ] )\t{value}" for value in range(6))]
    for split in ("train", "val", "test"):
        (folder / f"basic_{split}.tsv").write_text("\n".join(lines))
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs children here, and lists the modules that were started."""
    modules: list[str] = []

    def run(self: Children, arguments: Sequence[str], threads: int, module: str = "") -> None:
        modules.append(module)
        if module == child.MODULE:
            child.train(Path(arguments[0]))
        else:
            monkeypatch.setattr(sys, "argv", ["costs", *arguments])
            costs.main()

    monkeypatch.setattr(Children, "run", run)
    monkeypatch.setattr("softfree_lab.studies.children.end_with_parent", lambda: None)
    monkeypatch.setattr(costs, "SYMBOLS", 64)
    monkeypatch.setattr(long_range, "SYMBOLS", 64)
    return modules


def options(files: Path, **changed: Any) -> LongRangeOptions:
    settings: dict[str, Any] = {"data": files, "out": files.parent / "out", "steps_fraction": 0.0004, "features": 4}
    settings |= {"attentions": ["seqnorm", "sima"], "lengths": [16, 32], "threads": 1, "progress": False}
    return LongRangeOptions(**(settings | changed))


def test_a_study_continues_and_does_nothing_twice(files: Path, started: list[str]) -> None:
    first = study_long_range(options(files, attentions=["seqnorm"], lengths=[]))
    assert "| seqnorm, here |" in first
    record = files.parent / "out" / "cells.jsonl"
    before = record.read_bytes()
    text = study_long_range(options(files))
    assert started.count(child.MODULE) == 2
    assert started.count(costs.MODULE) == 4
    assert record.read_bytes().startswith(before)
    assert "| length | 16 | 32 |" in text
    assert "not the arena's samples: ListOps" in text
    assert study_long_range(options(files)) == text
    assert len(started) == 6
    written = {path.name for path in (files.parent / "out").iterdir()}
    assert {"cells.csv", "summary.md", "curves.png", "costs.png", "published.csv", "machine.json"} <= written
    with pytest.raises(UserError, match="with precision 'fp32', but 'bf16' was requested"):
        study_long_range(options(files, precision="bf16"))
    record.unlink()
    with pytest.raises(UserError, match="has a finished training of other settings"):
        study_long_range(options(files, precision="bf16"))


@pytest.mark.usefixtures("started")
def test_time_that_is_over_leaves_what_was_reached(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long_range, "_train", _stopping)
    text = study_long_range(options(files, steps_fraction=0.002, minutes=60, lengths=[]))
    assert "| listops, seqnorm, seed 0 | 0 of 10 |" in text
    assert "1 of 2 trainings have not begun; run the command again to continue." in text
    monkeypatch.undo()


def _stopping(options: LongRangeOptions, key: Any, what: Any, children: Children, deadline: float) -> None:
    """Let the deadline pass while the first training runs."""
    if key.attention == "seqnorm":
        _real_train(options, key, what, children, 0.0)


def _real_train(options: LongRangeOptions, key: Any, what: Any, children: Children, deadline: float) -> None:
    folder = long_range._folder(options, key)
    others = {"data": options.data, "cache": options.out, "fraction": 1.0, "checkpoint_seconds": 60, "device": "cpu"}
    child.write_spec(folder / "spec.json", what.settings, deadline=deadline, **others)
    child.train(folder / "spec.json")


@pytest.mark.usefixtures("started")
def test_a_training_that_fails_is_named_after_the_others(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = long_range._train

    def train(options: LongRangeOptions, key: Any, *rest: Any) -> Any:
        if key.attention == "seqnorm":
            raise UserError("no luck")
        return real(options, key, *rest)

    monkeypatch.setattr(long_range, "_train", train)
    with pytest.raises(UserError, match=r"1 of 2 trainings failed.*listops, seqnorm, seed 0: no luck"):
        study_long_range(options(files, lengths=[]))
    assert "| sima, here |" in (files.parent / "out" / "summary.md").read_text()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"tasks": ["listop"]}, "did you mean listops"),
        ({"attentions": ["seqnrom"]}, "did you mean seqnorm"),
        ({"seeds": []}, "expected at least one each"),
        ({"steps_fraction": 0.0}, "--steps-fraction 0.0: expected more than 0"),
        ({"lengths": [99999]}, "--lengths 99999: expected 1 to"),
        ({"minutes": -1}, "--minutes -1: expected more than 0"),
        ({"jobs": 0}, "--jobs 0: expected 1 or more"),
        ({"data": Path("nowhere")}, "there is no such folder"),
    ],
)
def test_wrong_options_are_refused_first(files: Path, changed: dict[str, Any], match: str) -> None:
    with pytest.raises(UserError, match=match):
        study_long_range(options(files, **changed))
    assert not (files.parent / "out").exists()


def test_wrong_files_are_one_line_and_status_2(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "basic_val.tsv").write_text("Source\tTarget\n( [FIRST 1 ) ] )\t1\n")
    code = main(["study", "long-range", "--data", str(files), "--out", str(files / "out"), "--progress=false"])
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert "\n" not in error
    assert "basic_val.tsv, line 2 has the symbol '[FIRST'" in error


@pytest.mark.slow
def test_trainings_run_in_processes_of_their_own(files: Path) -> None:
    text = study_long_range(options(files, attentions=["seqnorm"], lengths=[16]))
    assert "| seqnorm, here |" in text
    assert "| length | 16 |" in text
