"""The rows of a case of slides become one bag."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples, resolutions, with_resolution
from softfree.data.table import Table, read_table
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile


def table_of(folder: Path, rows: str, **options: float) -> Table:
    (folder / "t.csv").write_text("path,label,case_id,site,mpp\n" + rows)
    return read_table(folder / "t.csv", strict_patients=False, **options)


def join_bags(table: Table) -> Table:
    return as_samples(table, MODALITIES["bag"])


def test_rows_of_a_case_become_one_bag(tmp_path: Path) -> None:
    rows = "a.h5,x,p2,north,\nb.h5,y,p1,north,0.25\nc.h5,x,p2,south,0.5\nd.h5,y,p3,north,\n"
    table = join_bags(table_of(tmp_path, rows, test_fraction=1, val_fraction=0))
    assert table.frame["file"].tolist() == [
        Case((CaseFile(f"{tmp_path}/a.h5"), CaseFile(f"{tmp_path}/c.h5", 0.5)), "p2"),
        Case((CaseFile(f"{tmp_path}/b.h5", 0.25),), "p1"),
        Case((CaseFile(f"{tmp_path}/d.h5"),), "p3"),
    ]
    assert table.targets.tolist() == [0, 1, 1]
    assert table.frame["row"].tolist() == [0, 1, 3]
    assert table.frame["site"].isna().tolist() == [True, False, False]
    assert table.frame["patient"].is_unique


def test_a_column_mpp(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,label,mpp\na.svs,x,0.25\nb.svs,y,\n")
    table = with_resolution(read_table(tmp_path / "t.csv", test_fraction=1, val_fraction=0))
    assert table.sources == [SourceFile(str(tmp_path / "a.svs"), 0.25), str(tmp_path / "b.svs")]


def test_empty_cells_leave_the_resolution_to_the_file() -> None:
    assert resolutions(pd.Series(["0.25", None, "0.5"])) == [0.25, None, 0.5]
    with pytest.raises(UserError, match="'20x'; expected micrometers per pixel"):
        resolutions(pd.Series(["0.5", "20x"]))


def test_labels_of_a_case_must_agree(tmp_path: Path) -> None:
    rows = "a.h5,x,secret-4711,n,\nb.h5,y,p1,n,\nc.h5,y,secret-4711,n,\n"
    with pytest.raises(UserError, match=r"rows 0, 2 of the table.*different labels") as caught:
        join_bags(table_of(tmp_path, rows, test_fraction=1, val_fraction=0))
    assert "4711" not in str(caught.value)


def test_findings_with_unknown_cells_agree(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,u,v,case_id\na.h5,1,,p\nb.h5,1,,p\nc.h5,0,1,q\nd.h5,1,0,r\n")
    table = read_table(tmp_path / "t.csv", labels=["u", "v"], test_fraction=1, val_fraction=0)
    grouped = join_bags(table)
    np.testing.assert_array_equal(grouped.targets, table.targets[[0, 2, 3]])
