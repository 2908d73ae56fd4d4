"""Text that passes the checks is read alike by csv and by pandas; lines are named as an editor counts them."""

import csv
import io
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from softfree.data.table import read_table
from softfree.data.table_file import parsed, read_table_file
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.table_text import check_text, read_bytes

CELLS = st.lists(
    st.tuples(*[st.text(st.sampled_from('ab1 ,;"\n\té'), max_size=6)] * 3),
    min_size=1,
    max_size=6,
)


@settings(max_examples=200, deadline=None)
@given(CELLS, st.sampled_from([",", ";", "\t", "|"]), st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_pandas_and_csv_read_what_passes_alike(cells, separator, quoting):
    written = io.StringIO(newline="")
    writer = csv.writer(written, delimiter=separator, quoting=quoting, lineterminator="\n")
    writer.writerows([("path", "label", "note"), *cells])
    right = [row for row in ([cell.strip() for cell in row] for row in cells) if any(row)]
    try:
        table = check_text(Path("t.csv"), written.getvalue().encode(), ["path"])
    except UserError as error:
        assume("looks like a row" not in str(error))
        raise
    assert [list(row.values()) for _, row in table.cells()] == right
    if right:
        frame, _ = parsed(Path("t.csv"), table, {"path", "label", "note"})
        stripped = frame.fillna("").map(str.strip)
        assert stripped[stripped.ne("").any(axis=1)].to_numpy().tolist() == right


def test_lines_are_named_as_an_editor_counts_them():
    text = 'sep=;\npath;"the\nlabel"\na;x\n\nb;"two\nlines"\nc;y\n'
    table = check_text(Path("t.csv"), text.encode(), ["path"])
    assert table.columns == ("path", "the\nlabel")
    assert [number for number, _ in table.cells()] == [0, 2, 3]
    assert table.rows.name([0, 2, 3]) == "lines 4, 6, 8"


def test_a_folder_or_a_device_is_no_table(tmp_path):
    for path in (tmp_path, Path("/dev/null")):
        with pytest.raises(UserError, match="not a regular file"):
            read_bytes(path)


def test_a_long_message_is_cut(tmp_path):
    (tmp_path / "t.csv").write_text(",".join(f"column{n}" for n in range(5000)) + "\n" + "," * 4999 + "\n")
    with pytest.raises(UserError, match="without rows"):
        read_table_file(tmp_path / "t.csv", {"path"})
    (tmp_path / "u.csv").write_text("path," + "l" * 100_000 + "\na,b\n")
    with pytest.raises(UserError, match="no column 'label'") as error:
        read_table(tmp_path / "u.csv")
    assert len(str(error.value)) < 400
