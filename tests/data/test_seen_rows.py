"""Rows that a run was trained on are recognized, and only these."""

from __future__ import annotations

from hashlib import blake2b
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from pydicom.uid import generate_uid
from tests.corpus.series_cases import write_series

from softfree.data.modalities.case import CasePreprocessing
from softfree.data.modalities.image import ImagePreprocessing
from softfree.data.modalities.registry import preprocessing_to_config
from softfree.data.modalities.volume import VolumePreprocessing
from softfree.data.samples import join_cases
from softfree.data.seen_rows import SeenRows, reads_series
from softfree.data.table import Table, read_table


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


def test_cases_are_known_by_any_of_their_images(folder: Path) -> None:
    def cases_of(rows: str) -> Table:
        (folder / "t.csv").write_text(f"path,label,split,case_id,view,frame\n{rows}\ngone,y,test,9,,\n")
        return join_cases(read_table(folder / "t.csv"))

    seen = SeenRows.of(cases_of("a,x,train,1,lateral,\nb,x,train,1,front,2"))
    assert seen.rows(cases_of("a,x,test,2,,\nb,x,test,2,,2").frame).tolist() == [True, False]
    assert seen.rows(cases_of("b,x,test,2,front,2\nc,x,test,2,lateral,").frame).tolist() == [True, False]
    assert seen.rows(cases_of("missing,x,test,2,,\na,x,test,2,,").frame).tolist() == [True, False]
    assert seen.rows(cases_of("b,x,test,2,front,1\nc,x,test,2,lateral,").frame).tolist() == [False, False]


def test_a_volume_is_known_by_its_folder_and_by_any_of_its_slices(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).mkdir()
        elements = {"SeriesInstanceUID": generate_uid()}
        write_series(tmp_path / name, lambda number, own=elements: own)
    for slices in (tmp_path / "b" / "series").iterdir():
        slices.rename(tmp_path / "a" / "series" / f"other {slices.name}")  # two series in one folder
    slice0, slice1, other = (f"a/series/{name}" for name in ("slice0.dcm", "slice1.dcm", "other slice1.dcm"))
    seen, frame = seen_of(tmp_path, f"path,label,split\n{slice0},x,train\n{slice1},y,test\n{other},y,test\n")
    assert seen.rows(frame, whole_series=True).tolist() == [True, True, False]
    assert seen.rows(frame).tolist() == [True, False, False]
    seen, frame = seen_of(tmp_path, "path,label,split\nc/series,x,train\nc/series/slice1.dcm,y,test\n")
    assert seen.rows(frame, whole_series=True).tolist() == [True, True]
    seen, frame = seen_of(tmp_path, "path,label,split\nc/series/slice1.dcm,y,train\nc/series,x,test\n")
    assert seen.rows(frame, whole_series=True).tolist() == [True, True]


def test_a_slice_stands_for_its_series_in_runs_on_volumes_alone() -> None:
    image, volume = ImagePreprocessing("photo", 8, "stretch", 1), VolumePreprocessing("ct", (4, 4, 4))
    assert [reads_series(image), reads_series(volume)] == [False, True]
    cases = [CasePreprocessing(preprocessing_to_config(each), [1, 4, 4, 4]) for each in (image, volume)]
    assert [reads_series(case) for case in cases] == [False, True]


def test_files_of_earlier_runs_are_known_by_the_same_hashes(folder: Path) -> None:
    content, key = (folder / "a").read_bytes(), bytes(16)
    digest = blake2b(len(content).to_bytes(8, "little") + content + b"0", key=key, digest_size=12).hexdigest()
    _, frame = seen_of(folder, "path,label,split\na,x,test\nb,y,test\n")
    assert SeenRows(key, frozenset({digest}), frozenset()).rows(frame).tolist() == [True, False]
