"""A whole archive from a real Orthanc, by DICOMweb: the rows of the files themselves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("dicomweb_client")

import pandas as pd
import requests

from softfree.archive.options import ArchiveOptions
from softfree.archive.predict import predict_archive
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from tests.serving.hospital.support import Orthanc

pytestmark = pytest.mark.slow


def options(out: Path, **others) -> ArchiveOptions:
    return ArchiveOptions(out=out, workers=0, progress=False, **others)


def test_images_and_volumes(orthanc: Orthanc, image_run, volume_run, shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "dicom" / "series_t1").iterdir())
    for file in files:
        requests.post(f"{orthanc.http}/instances", data=file.read_bytes(), timeout=60).raise_for_status()
    address = f"dicomweb+http://{orthanc.web.partition('://')[2]}"

    assert predict_archive(str(image_run.folder), [f"{address}?Modality=MR"], options(tmp_path / "web", limit=3)) == 0
    gone = orthanc.get("/instances")[0]
    requests.delete(f"{orthanc.http}/instances/{gone}", timeout=10).raise_for_status()
    predict_archive(str(image_run.folder), [f"{address}?Modality=MR"], options(tmp_path / "web"))
    predict_archive(str(image_run.folder), [str(files[0].parent)], options(tmp_path / "files"))
    web, local = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("web", "files"))
    assert len(web) == len(local) == len(files)
    assert set(web["status"]) <= {"ok", "missing"}
    scores = [column for column in local if column.startswith("p_")]
    good = web[web["status"] == "ok"]
    assert len(good) >= len(files) - 1
    known = set(local[scores].round(5).itertuples(index=False, name=None))
    assert set(good[scores].round(5).itertuples(index=False, name=None)) <= known
    assert set(good["month"]) <= set(local["month"])

    with pytest.raises(UserError, match="there is no such series"):
        predict_archive(str(volume_run.folder), [f"{address}?Modality=XA"], options(tmp_path / "none"))
    assert predict_archive(str(volume_run.folder), [address], options(tmp_path / "volumes")) == 0
    (row,) = pd.read_parquet(tmp_path / "volumes" / "predictions.parquet").to_dict("records")
    assert "/series/" in row["path"]
    assert "/instances/" not in row["path"]
