"""The split of a run is kept for another version of its table, without naming anybody."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.samples import join_cases
from softfree.data.split_file import read_split, write_split
from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError

DIGEST = "ab" * 32


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A table of sixty patients with two images each, some ids missing."""
    numbers = np.arange(120)
    frame = pd.DataFrame({"path": [f"im/{n}.png" for n in numbers], "label": np.where(numbers // 2 % 3, "no", "yes")})
    frame["patient_id"] = [f"Doe{n // 2:03d}" if n % 20 else "" for n in numbers]
    frame.to_csv(tmp_path / "t.csv", index=False)
    return tmp_path / "t.csv"


def kept(table, folder):
    write_split(folder / "split.csv", table)
    return read_split(folder / "split.csv", table.digest)


def test_known_patients_keep_their_split_with_other_seeds_labels_and_forms(first: Path, tmp_path: Path) -> None:
    before = read_table(first)
    known = kept(before, tmp_path)
    frame = pd.read_csv(first, dtype=str, keep_default_na=False)
    frame["patient_id"] = frame["patient_id"].str.replace("Doe0", "DOE ").str.replace(" ", "")
    frame.loc[5, "label"] = "no"
    more = pd.DataFrame({"path": [f"new/{n}.png" for n in range(12)], "label": ["no", "yes"] * 6, "patient_id": ""})
    pd.concat([more, frame.sample(frac=1, random_state=1)]).to_csv(tmp_path / "second.csv", index=False)
    after = read_table(tmp_path / "second.csv", seed=9, known=known)
    one, other = (table.frame.set_index("path")["split"] for table in (before, after))
    pd.testing.assert_series_equal(one, other[one.index])
    assert after.split_made.startswith(f"as in {tmp_path}; 12 new ones of patients drawn into train 60 %")
    fresh = read_table(tmp_path / "second.csv", seed=9).frame.set_index("path")["split"]
    assert (fresh[one.index] != one).any()


def test_the_file_names_nobody(first: Path, tmp_path: Path) -> None:
    table = read_table(first)
    write_split(tmp_path / "split.csv", table)
    rows = pd.read_csv(tmp_path / "split.csv")
    assert rows["row"].tolist() == list(range(120))
    assert rows["split"].tolist() == table.frame["split"].tolist()
    text = (tmp_path / "split.csv").read_text()
    assert "Doe" not in text
    assert "png" not in text
    assert (
        read_split(tmp_path / "split.csv", DIGEST).splits_of(table.keys) == [""] * 120
    )  # hashed with another table's digest


def test_cases_are_found_again(first: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(first)
    frame.assign(case_id=frame["patient_id"].fillna(frame["path"])).to_csv(first, index=False)
    known = kept(join_cases(read_table(first, seed=3)), tmp_path)
    table = read_table(first, known=known)
    pd.testing.assert_series_equal(table.frame["split"], read_table(first, seed=3).frame["split"])


@pytest.mark.parametrize(
    "content", ["", "row,split\n0,train\n", "row,split,key\n0,extra,aa\n", "row,split,key\n0,train,a\n1,val,a\n"]
)
def test_a_damaged_file(tmp_path: Path, content: str) -> None:
    (tmp_path / "split.csv").write_text(content)
    with pytest.raises(UserError, match="is damaged"):
        read_split(tmp_path / "split.csv", DIGEST)
    with pytest.raises(UserError, match="the split of its table is unknown"):
        read_split(tmp_path / "none" / "split.csv", DIGEST)
