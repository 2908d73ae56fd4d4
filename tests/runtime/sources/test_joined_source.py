"""Paths joined with the resolution of their row."""

from pathlib import Path

import pandas as pd
import pytest

from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.joined_source import join_source, resolutions, split_source, with_resolution


@pytest.mark.parametrize("path", ["a.svs", "/x/y z#1.svs", "a#mpp=.tiff"])
@pytest.mark.parametrize("mpp", [None, 0.25, 0.1 + 0.2, 1e-2])
def test_what_is_joined_can_be_split(path: str, mpp: float | None) -> None:
    assert split_source(join_source(path, mpp)) == (path, mpp)


def test_empty_cells_leave_the_resolution_to_the_file() -> None:
    assert resolutions(pd.Series(["0.25", None, "0.5"])) == [0.25, None, 0.5]


@pytest.mark.parametrize("cell", ["20x", "0", "-1"])
def test_what_is_no_resolution(cell: str) -> None:
    with pytest.raises(UserError, match=f"{cell!r}; expected micrometers per pixel"):
        resolutions(pd.Series(["0.5", cell]))


def test_a_table_with_a_column_mpp(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label,mpp\na.svs,x,0.25\nb.svs,y,\n")
    table = with_resolution(read_table(tmp_path / "t.csv", test_fraction=1, val_fraction=0))
    assert [split_source(file) for file in table.frame["file"]] == [
        (str(tmp_path / "a.svs"), 0.25),
        (str(tmp_path / "b.svs"), None),
    ]
