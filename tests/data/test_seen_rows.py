"""Rows that a run was trained on are recognized, and only these."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest

from softfree.data.seen_rows import SeenRows
from softfree.data.table import read_table


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in "abc":
        (tmp_path / name).write_text(f"image {name}")
    return tmp_path


def seen_of(folder: Path, text: str) -> tuple[SeenRows, pd.DataFrame]:
    (folder / "t.csv").write_text(text)
    table = read_table(folder / "t.csv")
    return SeenRows.of(table), table.frame


def test_the_first_frame_is_the_one_without_a_number(folder: Path) -> None:
    seen, _ = seen_of(folder, "path,label,split\na,x,train\nb,y,val\nc,y,test\n")
    _, frame = seen_of(folder, "path,label,split,frame\na,x,test,0\na,x,test,1\nb,y,test,\nc,y,test,0\n")
    assert seen.rows(frame).tolist() == [True, False, True, False]


def test_pairs_with_equal_headers_are_told_apart(tmp_path: Path) -> None:
    for name, value in (("a", 1), ("b", 2)):
        nib.Nifti1Pair(np.full((3, 3, 3), value, np.int16), np.eye(4)).to_filename(tmp_path / f"{name}.img")
    assert (tmp_path / "a.hdr").read_bytes() == (tmp_path / "b.hdr").read_bytes()
    seen, frame = seen_of(tmp_path, "path,label,split\na.hdr,x,train\nb.hdr,y,test\n")
    assert seen.rows(frame).tolist() == [True, False]


def test_zeros_in_place_of_ids_are_no_patient(folder: Path) -> None:
    seen, _ = seen_of(folder, "path,label,split,patient_id\na,x,train,0\nb,y,val,p1\nc,y,test,p2\n")
    one = pd.DataFrame({"file": ["gone"] * 3, "patient_id": ["0", "P1", None]})
    assert seen.rows(one).tolist() == [True, True, False]
    padded = pd.DataFrame({"file": ["gone"] * 9, "patient_id": ["0"] * 8 + ["p1"]})
    assert seen.rows(padded).tolist() == [False] * 8 + [True]
