import hashlib

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from softfree.data.table_file import RowNamer, closest, read_table_file
from softfree_runtime.core.errors import UserError

TEXT = {"path", "label"}


def written(tmp_path, content, name="table.csv"):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "latin-1", "utf-16"])
def test_separators_and_encodings(tmp_path, separator, encoding):
    lines = [["path", "label", "age"], ["a.png", "größer", "31"], ["b.png", "kleiner", "4"]]
    content = "\n".join(separator.join(line) for line in lines).encode(encoding)
    frame = read_table_file(written(tmp_path, content), TEXT).frame
    assert frame["label"].tolist() == ["größer", "kleiner"]
    assert frame["age"].tolist() == [31, 4]


def test_separators_in_quotes_are_text(tmp_path):
    frame = read_table_file(written(tmp_path, '"path","a;b;c;d",label\n"x,y.png",1,2\n'), TEXT).frame
    assert list(frame) == ["path", "a;b;c;d", "label"]
    assert frame["path"].tolist() == ["x,y.png"]


def test_only_empty_cells_are_empty(tmp_path):
    content = "path,label\na,None\nb,NA\nc,\nd,  \ne, null \nf,007\n"
    labels = read_table_file(written(tmp_path, content), TEXT).frame["label"]
    assert labels.isna().tolist() == [False, False, True, True, False, False]
    assert labels.dropna().tolist() == ["None", "NA", "null", "007"]


def test_blank_lines_do_not_move_the_numbers(tmp_path):
    table = read_table_file(written(tmp_path, "path,label\na,x\n\n,\nb,y\n\n"), TEXT)
    assert table.frame.index.tolist() == [0, 3]
    assert table.rows.name(table.frame.index) == "lines 2, 5"


def test_parquet_numbers_and_categories_become_text(tmp_path):
    frame = pd.DataFrame(
        {
            "path": pd.Categorical(["a", "b", "c"]),
            "label": [1.0, np.nan, 0.0],
            "flag": [True, False, True],
            "grade": pd.array([3, None, 1], "Int64"),
        }
    )
    frame.to_parquet(tmp_path / "t.bin")
    table = read_table_file(tmp_path / "t.bin", {*TEXT, "flag", "grade"})
    assert table.frame["path"].tolist() == ["a", "b", "c"]
    assert table.frame["label"].fillna("?").tolist() == ["1", "?", "0"]
    assert table.frame["flag"].tolist() == ["1", "0", "1"]
    assert table.frame["grade"].fillna("?").tolist() == ["3", "?", "1"]
    assert table.rows.name([2]) == "row 2"


@pytest.mark.parametrize("text", [TEXT, {*TEXT, "signed", "unsigned", "flag"}])
def test_a_null_in_a_parquet_column_leaves_the_other_values_as_they_are(tmp_path, text):
    columns = {
        "path": ["a", "b", "c"],
        "signed": pa.array([7093871234567890123, None, -1], pa.int64()),
        "unsigned": pa.array([2**63 + 5, None, 0], pa.uint64()),
        "flag": [True, None, False],
    }
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    frame = read_table_file(tmp_path / "t.parquet", text).frame.astype("string").fillna("?")
    assert frame["signed"].tolist() == ["7093871234567890123", "?", "-1"]
    assert frame["unsigned"].tolist() == ["9223372036854775813", "?", "0"]
    assert frame["flag"].tolist() == (["1", "?", "0"] if "flag" in text else ["True", "?", "False"])


def test_parquet_columns_of_lists_are_left_out(tmp_path):
    columns = {"path": ["a", "b"], "label": ["x", "y"], "boxes": [[1.0, 2.0], None], "about": [{"k": 1}, None]}
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    table = read_table_file(tmp_path / "t.parquet", TEXT)
    assert list(table.frame) == ["path", "label"]
    assert table.notes == tuple(
        f"column '{name}' holds lists or structs and is not used" for name in ("boxes", "about")
    )
    with pytest.raises(UserError, match="column 'about' holds lists or structs; expected one value in each cell"):
        read_table_file(tmp_path / "t.parquet", {*TEXT, "about"})


def test_the_digest_is_that_of_the_file(tmp_path):
    content = b"path,label\na,x\n"
    assert read_table_file(written(tmp_path, content), TEXT).digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "first line is empty"),
        (b"\npath,label\n", "first line is empty"),
        (b"path,label\n", "without rows"),
        (b"path,label\n\n,\n", "without rows"),
        (b"path,label\na,x,more\nb,y\n", "line 2: 3 cells, but the header has 2"),
        (b"path,label\na,x\nb,y,more,and,more\n", "line 3: 5 cells"),
        (b"path,label,label \na,x,y\n", "two columns are called 'label'"),
        (b"PK\x03\x04rest", "save it as CSV"),
        (b"\x00\x01\x02" * 99, "binary"),
        (b"PAR1 nothing else", "damaged Parquet"),
    ],
)
def test_what_is_no_table(tmp_path, content, why):
    path = written(tmp_path, content)
    with pytest.raises(UserError, match=why) as error:
        read_table_file(path, TEXT)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no such table"):
        read_table_file(tmp_path / "none.csv", TEXT)
    with pytest.raises(UserError, match="a folder without class folders"):
        read_table_file(tmp_path, TEXT)


def test_rows_are_named_by_line_with_the_header_first():
    assert RowNamer("line", 2).name([5]) == "line 7"
    assert RowNamer("line", 2).name(range(8)) == "lines 2, 3, 4, 5, 6 and 3 more"


def test_closest():
    assert closest("Lable", ["path", "label"]) == "label"
    assert closest("xyz", ["path", "label"]) is None
