from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
from PIL import Image
from tests.corpus.series_cases import write_series

from softfree.cli.main import main
from softfree.data.audit.probe import AS_SLIDE, probe, probe_all, probe_image
from softfree.data.modalities.feature_files import write_features
from softfree_runtime.readers import DecodedImage

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 20), dtype=np.uint8)


def saved(path, pixels=PIXELS, **options):
    Image.fromarray(pixels).save(path, **options)
    return str(path)


def test_facts(tmp_path):
    file = saved(tmp_path / "a.png")
    facts = probe(file, None)
    assert (facts.status, facts.height, facts.width, facts.channels) == ("ok", 30, 20, 1)
    assert facts.file_size == (tmp_path / "a.png").stat().st_size
    assert facts.stored == "8-bit gray"
    assert not facts.blank


def test_equal_pixels_have_one_digest_in_any_file_format(tmp_path):
    png, bmp = probe(saved(tmp_path / "a.png"), None), probe(saved(tmp_path / "a.bmp"), None)
    assert png.pixel_digest == bmp.pixel_digest
    assert png.file_digest != bmp.file_digest
    rgb = probe(saved(tmp_path / "rgb.png", np.repeat(PIXELS[..., None], 3, axis=-1)), None)
    assert rgb.pixel_digest == png.pixel_digest
    for kind in (np.uint16, np.int32, np.float32):
        assert probe(saved(tmp_path / "wide.tif", PIXELS.astype(kind)), None).pixel_digest == png.pixel_digest


@pytest.mark.parametrize("change", ["one pixel", "shape", "color"])
def test_other_pixels_have_another_digest(tmp_path, change):
    other = PIXELS.copy()
    if change == "one pixel":
        other[29, 19] ^= 1
    elif change == "shape":
        other = other.reshape(20, 30)
    else:
        other = np.stack([other, other, 255 - other], axis=-1)
    first, second = probe(saved(tmp_path / "a.png"), None), probe(saved(tmp_path / "b.png", other), None)
    assert first.pixel_digest != second.pixel_digest


def test_frames_are_images_of_their_own(tmp_path):
    pages = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    first, second = (probe(str(tmp_path / "a.tif"), frame) for frame in (0, 1))
    assert first.file_digest == second.file_digest
    assert first.pixel_digest != second.pixel_digest


def test_blank_images(tmp_path):
    assert probe(saved(tmp_path / "a.png", np.full((9, 9), 7, np.uint8)), None).blank


@pytest.mark.parametrize(("low", "high", "blank"), [(0, 255, False), (60, 200, True), (-9, -1, True), (10, 10, False)])
def test_blank_is_what_a_model_sees(monkeypatch, tmp_path, low, high, blank):
    image = DecodedImage(np.arange(50, dtype=np.uint8).reshape(5, 10, 1), low, high, None, (), "8-bit gray")
    monkeypatch.setattr("softfree.data.audit.probe.read_image", lambda *_, **__: image)
    assert probe_image(saved(tmp_path / "a.png"), None).blank == blank


def test_a_file_without_image_gives_its_reason(tmp_path):
    facts = probe(str(tmp_path / "none.png"), None)
    assert facts.status == "missing"
    assert "none.png" in facts.reason
    assert facts.pixel_digest == b""


@pytest.mark.parametrize("num_workers", [0, 2])
def test_all_in_the_order_of_the_rows(tmp_path, num_workers):
    files = []
    for number in range(9):
        files.append(saved(tmp_path / f"{number}.png", np.full((4, number + 1), 9, np.uint8)))
    frame = pd.DataFrame({"file": [*files, str(tmp_path)], "frame": pd.array([0, *[None] * 9], "Int64")})
    result = probe_all(frame, num_workers=num_workers, progress=False)
    assert [facts.width for facts in result] == [*range(1, 10), 0]
    assert result[-1].status == "no_pixels"


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
    facts = probe(str(shared_data / "wsi" / "CMU-1-Small-Region.svs"), None)
    assert (facts.status, facts.width, facts.height) == ("ok", 2220, 2967)
    assert facts.spacing == pytest.approx((0.000499, 0.000499))


def test_tile_features_and_a_broken_file(tmp_path: Path) -> None:
    write_features(tmp_path / "a.h5", np.eye(5, 3, dtype=np.float32), np.zeros((5, 2)), {"encoder": "made"})
    facts = probe(str(tmp_path / "a.h5"), None)
    assert (facts.height, facts.width, facts.stored) == (5, 3, "features of made, 3 each")
    (tmp_path / "b.h5").write_bytes((tmp_path / "a.h5").read_bytes()[:300])
    assert probe(str(tmp_path / "b.h5"), None).status == "corrupt"


def test_check_on_volumes(shared_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = pd.read_csv(shared_data / "nifti" / "manifest.csv").dropna(subset="label").iloc[:12]
    rows[["path", "label", "patient_id", "split"]].to_csv(tmp_path / "t.csv", index=False)
    main(["check", str(tmp_path / "t.csv"), "--image-root", str(shared_data / "nifti"), "--progress", "false"])
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


def test_a_damaged_slice_is_named_once(tmp_path):
    folder = write_series(tmp_path).rename(tmp_path / "study: Doe")
    damaged = (folder / "slice1.dcm").rename(folder / "Doe: Jane.dcm")
    damaged.write_bytes(b"nothing")
    facts = probe(str(folder), None)
    assert facts.status == "corrupt"
    assert facts.reason.startswith(f"{damaged}: damaged DICOM: ")
    (folder / "Doe: Jane.dcm").unlink()
    assert probe(str(folder), None).reason.startswith(f"{folder}: slice0.dcm, slice2.dcm: 1 slice missing in between")
