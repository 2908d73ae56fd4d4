"""The folder of a feature extraction."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from softfree.data.modalities.feature_files import write_features
from softfree.features.folder import FeatureFolder
from softfree_runtime.core.errors import ReadError, UserError

SETTINGS = {"encoder": "uni", "mpp": 0.5}


def write(folder: FeatureFolder, slide: str, **attributes: object) -> None:
    write_features(folder.file(slide), np.ones((2, 3)), np.zeros((2, 2)), SETTINGS | {"slide_bytes": 7} | attributes)


def test_whole_means_of_this_file_with_these_settings(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path / "new", SETTINGS)
    assert json.loads((tmp_path / "new" / "settings.json").read_text()) == SETTINGS
    assert not folder.is_complete("x/a.svs", {"slide_bytes": 7})
    write(folder, "x/a.svs")
    assert folder.is_complete("x/a.svs", {"slide_bytes": 7})
    assert not folder.is_complete("x/a.svs", {"slide_bytes": 8})
    write(folder, "b.svs", mpp=1.0)
    with pytest.raises(UserError, match=r"b\.svs\.h5 was made with mpp 1\.0, but 0\.5 was requested"):
        folder.is_complete("b.svs", {"slide_bytes": 7})


def test_other_settings_are_refused(tmp_path: Path) -> None:
    FeatureFolder(tmp_path, SETTINGS)
    FeatureFolder(tmp_path, SETTINGS)
    with pytest.raises(
        UserError, match="features made with encoder uni, but conch was requested; choose another folder"
    ):
        FeatureFolder(tmp_path, SETTINGS | {"encoder": "conch"})
    (tmp_path / "settings.json").write_text("{")
    with pytest.raises(UserError, match="does not contain settings"):
        FeatureFolder(tmp_path, SETTINGS)


def test_what_a_stopped_run_left_goes_and_only_that(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, SETTINGS)
    for name in (".a[1].svs.h5.12.part.h5", ".a1.svs.h5.12.part.h5", "a[1].svs.h5", "notes.txt"):
        (tmp_path / name).touch()
    folder.record_failure("a[1].svs", ReadError("why", "corrupt", "a[1].svs"))
    folder.clean("a[1].svs")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {".a1.svs.h5.12.part.h5", "a[1].svs.h5", "notes.txt", "settings.json"}


def test_tables_are_made_from_what_is_there(tmp_path: Path) -> None:
    folder = FeatureFolder(tmp_path, SETTINGS)
    frame = pd.DataFrame({"path": ["a.svs", "b.svs", "c.svs"], "label": ["x", "y, z", None]})
    write(folder, "b.svs")
    folder.record_failure("a.svs", ReadError("cut: copy it", "corrupt", "a.svs", ["Doe: Jane.dcm"]))
    folder.write_tables(frame)
    assert (tmp_path / "table.csv").read_text() == 'path,label\nb.svs.h5,"y, z"\n'
    assert (
        tmp_path / "failed.csv"
    ).read_text() == "path,status,reason\na.svs,corrupt,a.svs: Doe: Jane.dcm: cut: copy it\n"
    write(folder, "a.svs")
    folder.clean("a.svs")
    folder.write_tables(frame)
    assert not (tmp_path / "failed.csv").exists()
