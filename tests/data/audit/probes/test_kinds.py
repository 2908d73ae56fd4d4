"""The audit on volumes, slides and tile features."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from softfree.cli.main import main
from softfree.data.audit.probes import probe
from softfree.data.audit.probes.kinds import AS_SLIDE
from softfree.data.modalities.feature_files import write_features


def test_a_volume(shared_data: Path) -> None:
    files = sorted((shared_data / "nifti" / "hippocampus").glob("*.nii.gz"))[:2]
    first, second = (probe(str(file), None) for file in files)
    assert (first.status, second.status) == ("ok", "ok")
    assert first.spacing == (1.0, 1.0, 1.0)
    assert " slices" in first.stored
    assert first.pixel_digest != second.pixel_digest
    series = probe(str(shared_data / "dicom" / "series_t1"), None)
    assert series.status == "ok"
    assert "10 slices" in series.stored
    assert probe(str(shared_data / "nifti" / "other" / "functional.nii"), None).status == "unsupported"  # 4D, no frame
    assert probe(str(shared_data / "nifti" / "other" / "functional.nii"), 1).status == "ok"


def test_a_slide(shared_data: Path) -> None:
    found = probe(str(shared_data / "wsi" / "CMU-1-Small-Region.svs"), None)
    assert (found.status, found.width, found.height) == ("ok", 2220, 2967)
    assert found.spacing == pytest.approx((0.000499, 0.000499))


def test_tile_features_and_a_broken_file(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", np.eye(5, 3, dtype=np.float32), np.zeros((5, 2)), {"encoder": "made"})
    found = probe(str(tmp_path / "a.h5"), None)
    assert (found.height, found.width, found.stored) == (5, 3, "features of made, 3 each")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:300])
    assert probe(str(tmp_path / "b.h5"), None).status == "corrupt"


def test_check_on_volumes(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_csv(shared_data / "nifti" / "manifest.csv").dropna(subset="label").iloc[:12]
    rows[["path", "label", "patient_id", "split"]].to_csv(tmp_path / "t.csv", index=False)
    main(["check", str(tmp_path / "t.csv"), "--images", str(shared_data / "nifti"), "--progress", "false"])
    printed = capsys.readouterr().out
    assert "12 readable" in printed
    assert "1 x 1 x 1" in printed


def test_what_is_refused_as_an_image_is_judged_as_the_slide_that_it_is(tmp_path: Path) -> None:
    tissue = np.full((1024, 1024, 3), 245, np.uint8)
    tissue[200:800, 200:800] = (150, 60, 140)
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        for step in (1, 4):
            said = "Aperio Image Library v12\r\n1024x1024 (64x64)|AppMag = 20|MPP = 0.5"
            file.write(tissue[::step, ::step], tile=(64, 64), photometric="rgb", metadata=None, description=said)
    facts = probe(str(tmp_path / "a.tif"), None)
    assert (facts.status, facts.stored, facts.height, facts.corrections) == ("ok", "whole slide", 1024, (AS_SLIDE,))
    assert probe(str(tmp_path / "a.tif"), 0).status == "unsupported"


def test_what_is_no_slide_either_keeps_its_reason(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif", np.zeros((64, 64, 7), np.uint8), photometric="minisblack", planarconfig="contig"
    )
    facts = probe(str(tmp_path / "a.tif"), None)
    assert facts.status == "unsupported"
    assert "7 channels" in facts.reason
