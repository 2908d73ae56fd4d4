from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from softfree_lab.studies.trials import Cell, Key, check_same, read_cells, write_cells
from softfree_runtime.core.errors import UserError


def test_written_and_read(make_cell: Callable[..., Cell], tmp_path: Path) -> None:
    cells = [make_cell("softmax", 1, 0.3, scales=("0.5", "1")), make_cell("a b", 0, 0.3)]
    write_cells(tmp_path / "cells.jsonl", cells)
    found = read_cells(tmp_path / "cells.jsonl")
    assert set(found) == {Key("films", "softmax", 1), Key("films", "a b", 0)}
    for cell in cells:
        again = found[cell.key]
        assert (again.options, again.cost, again.machine) == (cell.options, cell.cost, cell.machine)
        for scale in cell.probabilities:
            np.testing.assert_array_equal(
                again.scores(float(scale)).probabilities, cell.scores(float(scale)).probabilities
            )
        assert again.scores().targets.tolist() == cell.targets


def test_findings_keep_their_unknowns(make_cell: Callable[..., Cell], tmp_path: Path) -> None:
    from dataclasses import replace

    cell = replace(make_cell("softmax", 0, 0.1), kind="multilabel", targets=[[0.0, float("nan")]] * 60)
    write_cells(tmp_path / "cells.jsonl", [cell])
    (again,) = read_cells(tmp_path / "cells.jsonl").values()
    np.testing.assert_array_equal(again.scores().targets, cell.targets)


def test_no_file_no_cells(tmp_path: Path) -> None:
    assert read_cells(tmp_path / "cells.jsonl") == {}


@pytest.mark.parametrize("line", ["{", "[]", '{"key": {"data": "x"}}', "3"])
def test_a_damaged_line_is_named(make_cell: Callable[..., Cell], tmp_path: Path, line: str) -> None:
    path = tmp_path / "cells.jsonl"
    write_cells(path, [make_cell("softmax", 0, 0.1)])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(UserError, match="line 2"):
        read_cells(path)


@pytest.mark.parametrize("wanted", [{"lr": 0.2}, {"lr": 0.1, "epochs": 3}, {}])
def test_other_options_are_refused(make_cell: Callable[..., Cell], wanted: dict[str, object]) -> None:
    cell = make_cell("softmax", 0, 0.1)
    check_same(cell, {"lr": 0.1}, Path("cells.jsonl"))
    with pytest.raises(UserError, match="films, softmax, seed 0 with"):
        check_same(cell, wanted, Path("cells.jsonl"))
