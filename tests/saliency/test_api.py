"""softfree explain on files of every kind, good and bad."""

from __future__ import annotations

import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from pydicom import dcmread
from scipy.stats import spearmanr

from softfree.cli.commands import COMMANDS
from softfree.cli.parser import Parser
from softfree.data.slide_readers.slide import open_slide
from softfree.inference.run import Run
from softfree.models import create_model
from softfree.saliency.api import Explained, explain, explain_to_files, stem_of
from softfree.saliency.dicom_file import write_secondary_capture
from softfree.saliency.maps import explain_tensor
from softfree.saliency.options import ExplainOptions
from softfree.saliency.samples import SampleOpener
from softfree.saliency.samples import slide as of_slide
from softfree.saliency.samples.volume import write_nifti
from softfree.saliency.slide_files import write_pyramid
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.readers import read_image
from softfree_runtime.readers.volume import Volume
from softfree_runtime.sources.volume_files import read_volume


@pytest.fixture
def images(tmp_path: Path) -> list[str]:
    """Two of one name in two folders."""
    paths = []
    for folder in "ab":
        (tmp_path / folder).mkdir()
        pixels = np.random.default_rng(0).integers(0, 255, (100, 80), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / folder / "film.png")
        paths.append(str(tmp_path / folder / "film.png"))
    return paths


def test_images(image_run: Run, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ExplainOptions(out=tmp_path / "maps", target="ill", method="split", progress=False)
    assert explain_to_files(image_run.folder, images, options, as_json=True) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [Path(row["files"][0]).name for row in rows] == ["film_map.png", "film_2_map.png"]
    row = rows[0]
    predicted = image_run.predict(images[0])
    assert row["probability"] == pytest.approx(float(predicted["p_ill"][0]), abs=1e-6)
    assert row["sum"] == pytest.approx(row["log_odds"], abs=1e-5)
    assert 1 / (1 + np.exp(-row["sum"])) == pytest.approx(row["probability"], abs=1e-6)
    assert (row["target"], row["method"]) == ("ill", "split")
    for region in row["regions"]:
        x, y = region["center_px"]
        assert 0 <= x <= 80
        assert 0 <= y <= 100
        assert "center_mm" not in region
    drawn = np.asarray(Image.open(row["files"][0]).convert("RGB"))
    shown = np.asarray(Image.open(images[0])).repeat(4, 0).repeat(4, 1)
    shifted = (drawn[top : top + 400, 13:333, 0] for top in range(200))
    assert any(np.array_equal(one, shown) for one in shifted), "the image's pixels are those of the file"


def test_what_is_bad_is_a_row(
    image_run: Run, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(Path(images[0]).read_bytes()[:60])
    options = ExplainOptions(out=tmp_path / "maps", progress=False)
    assert explain_to_files(image_run.folder, [str(broken), images[0]], options, as_json=True) == 1
    captured = capsys.readouterr()
    rows = json.loads(captured.out)
    assert rows[0]["status"] == "corrupt"
    assert rows[1]["status"] == "ok"
    assert "broken.png" in captured.err
    options.format = "dicom"
    (row,) = explain(image_run, images[:1], options)
    assert "needs a DICOM source to refer to" in str(row.error)
    with pytest.raises(UserError, match="none of the 1 inputs could be read"):
        explain_to_files(image_run.folder, [str(broken)], options)


def test_any_name_of_a_file_is_in_its_row(image_run: Run) -> None:
    error = ReadError("slices differ: copy them", "unsupported", "study: Doe", ["Doe: Jane.dcm"])
    row = Explained("study: Doe", error=error).to_dict(image_run)
    assert row == {
        "path": "study: Doe", "status": "unsupported", "reason": "study: Doe: Doe: Jane.dcm: slices differ: copy them"
    }  # fmt: skip


@pytest.mark.parametrize("stream", ["never", "always"])
def test_numbers_that_are_not_finite_are_a_row(stream: Any, image_run: Run, images: list[str], tmp_path: Path) -> None:
    next(image_run.model.parameters()).data.fill_(float("nan"))
    (row,) = explain(image_run, images[:1], ExplainOptions(out=tmp_path / "maps", stream=stream, progress=False))
    assert row.error is not None
    assert row.error.status == "not_finite"
    assert str(row.error).startswith(f"{images[0]}: the model gave NaN")
    assert not list(tmp_path.glob("maps/*"))


@pytest.mark.parametrize("stream", ["never", "always"])
def test_two_methods_by_default_and_how_far_they_agree(
    stream: Any, image_run: Run, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ExplainOptions(out=tmp_path / "maps", stream=stream, token_chunk=5, progress=False)
    assert explain_to_files(image_run.folder, images[:1], options, as_json=True) == 0
    captured = capsys.readouterr()
    (row,) = json.loads(captured.out)
    pair = ("integrated", "occlusion") if stream == "never" else ("split", "gradcam")
    assert (row["method"], row["second_method"]) == pair
    assert row["predicted"] == row["target"]
    steps = torch.from_numpy(image_run.image_preprocessing(read_image(images[0])))
    one, other = (explain_tensor(image_run, steps, method).values for method in pair)  # type: ignore[arg-type]
    assert row["agreement"] == pytest.approx(spearmanr(one.ravel(), other.ravel()).statistic, abs=0.05)
    assert f"Rank correlation of the two maps: {row['agreement']:.2f}" in captured.err


def test_a_map_of_no_class_is_not_titled_with_one(
    image_run: Run, images: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(
        "softfree.saliency.samples.opener.draw_overlay", lambda *given, **more: seen.append((given, more))
    )
    for method in ("rollout", "attention", "integrated"):
        explain(image_run, images[:1], ExplainOptions(out=tmp_path, method=method, target="ill"))  # type: ignore
    for given, more in seen[:2]:
        assert "ill" not in more["title"].replace("threshold of ill", "")
        assert more["title"].startswith("predicted ")
        assert "the same for every class" in given[2][0].label
    given, more = seen[2]
    assert re.match(r"For and against ill: predicted \w+, p\(ill\) = 0\.\d+", more["title"])
    assert given[2][0].label == "Integrated gradients"


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"target": "il"}, "Unknown class 'il': did you mean ill"),
        ({"layer": 5, "method": "gradient"}, "--layer 5: this model has 2 layers, from 0 to 1"),
        ({"format": "nifti"}, "--format nifti is not for samples of kind image; expected png, dicom"),
        ({"quantile": 1.0}, "--quantile 1.0"),
    ],
)
def test_what_cannot_be_asked(
    given: dict[str, Any], says: str, image_run: Run, images: list[str], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        explain(image_run, images[:1], ExplainOptions(out=tmp_path / "maps", **given))
    assert not (tmp_path / "maps").exists()


def test_bags_have_no_image() -> None:
    class Steps:
        kind = "bag"

    with pytest.raises(UserError, match="no pixels to draw a map on"):
        SampleOpener(Steps(), create_model("seqnorm_bag_nano", num_classes=2))  # type: ignore[arg-type]


@pytest.mark.parametrize("identity", [False, True])
def test_dicom_refers_to_its_source(identity: bool, image_run: Run, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    path = shared_data / "dicom" / "pydicom" / "CT_small.dcm"
    options = ExplainOptions(out=tmp_path, format="dicom", method="split", dicom_identity=identity)
    (done,) = explain(image_run, [str(path)], options)
    made, source = dcmread(done.files[0]), dcmread(path)
    assert made.pixel_array.shape == (128, 128, 3)
    assert made.StudyInstanceUID == source.StudyInstanceUID
    assert made.SeriesInstanceUID != source.SeriesInstanceUID
    assert made.SourceImageSequence[0].ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert [float(one) for one in made.PixelSpacing] == pytest.approx([float(one) for one in source.PixelSpacing])
    assert "Split" in made.DerivationDescription
    written = done.files[0].read_bytes()
    if identity:
        assert made.PatientName == source.PatientName
        assert made.PatientID == source.PatientID
    else:
        assert not made.PatientName
        assert not made.PatientID
        assert not made.StudyDate
        assert str(source.PatientName).encode() not in written
        assert str(source.PatientID).encode() not in written
    assert read_image(done.files[0]).pixels.shape == (128, 128, 3)


def test_a_damaged_birth_date_is_a_row_that_does_not_quote_it(
    image_run: Run, shared_data: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    pytest.importorskip("highdicom")
    content = (shared_data / "dicom" / "pydicom" / "CT_small.dcm").read_bytes()
    source = dcmread(io.BytesIO(content))
    source.PatientBirthDate = "19700101"
    source.save_as(tmp_path / "a.dcm")
    (tmp_path / "a.dcm").write_bytes((tmp_path / "a.dcm").read_bytes().replace(b"19700101", b"DOE JANE"))
    options = ExplainOptions(out=tmp_path / "maps", format="dicom", method="split", dicom_identity=True)
    (row,) = explain(image_run, [str(tmp_path / "a.dcm")], options)
    assert str(row.error) == (
        f"{tmp_path / 'a.dcm'}: an element of its patient or study is damaged; leave out --dicom-identity"
    )
    assert not list(tmp_path.glob("maps/*"))
    assert "DOE" not in "".join(str(warning.message) for warning in recwarn)
    options.dicom_identity = False
    assert explain(image_run, [str(tmp_path / "a.dcm")], options)[0].error is None


@pytest.mark.parametrize(("charset", "patient"), [(None, "A^B"), ("ISO_IR 100", "Müller^Jörg"), ("\\ISO 2022 IR 87",
                         "Yamada^Tarou=山田^太郎=やまだ^たろう")])  # fmt: skip
def test_dicom_text_of_any_language(charset: str | None, patient: str, shared_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("highdicom")
    source = dcmread(shared_data / "dicom" / "pydicom" / "CT_small.dcm")
    source.SpecificCharacterSet = None if charset is None else charset.split("\\")
    source.PatientName = patient
    source.save_as(tmp_path / "a.dcm")
    made = []
    for name in ("Split; Lungenentzündung", "Split; 肺炎"):
        painted = np.zeros((8, 8, 3), np.uint8)
        write_secondary_capture(
            tmp_path / "b.dcm", painted, str(tmp_path / "a.dcm"), name=name, description=f"of {name}", identity=True
        )
        made.append(dcmread(tmp_path / "b.dcm"))
    assert [one.SeriesDescription for one in made] == ["Split; Lungenentzündung", "Split; 肺炎"]
    assert made[1].DerivationDescription == "of Split; 肺炎"
    assert {one.SpecificCharacterSet for one in made} == {"ISO_IR 192"}
    assert {str(one.PatientName) for one in made} == {patient}


def test_nifti_text_of_any_language(tmp_path: Path) -> None:
    volume = Volume(np.zeros((1, 2, 2, 2), np.float32), (1.0, 1.0, 1.0), np.eye(4), 0.0, 1.0, (), "")
    for name, kept in (("Split; 肺炎", "Split; 肺炎"), ("肺" * 30, "肺" * 26)):
        write_nifti(tmp_path / "m.nii.gz", np.zeros((2, 2, 2), np.float32), volume, "", name)
        assert bytes(nibabel.load(tmp_path / "m.nii.gz").header["descrip"]).rstrip(b"\0").decode() == kept


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a/1.2.840.113619.2.5.1762583153.11", "1.2.840.113619.2.5.1762583153.11"),
        ("IM.0001", "IM.0001"),
        ("IM.0001.DCM", "IM.0001"),
        ("scan.nii.gz", "scan"),
        ("a.b.PNG", "a.b"),
        (".png", ".png"),
    ],
)
def test_only_known_endings_are_left_out(name: str, stem: str) -> None:
    assert stem_of(name) == stem


def test_long_names_are_shortened_and_stay_apart(image_run: Run, images: list[str], tmp_path: Path) -> None:
    names = [f"{'ü' * 120}{number}.png" for number in range(2)]
    for name in names:
        shutil.copy(images[0], tmp_path / name)
    options = ExplainOptions(out=tmp_path / "maps", method="split")
    done = explain(image_run, [str(tmp_path / name) for name in names], options)
    written = [one.files[0].name for one in done]
    assert all(re.fullmatch("ü{90}_[0-9a-f]{8}_map.png", name) for name in written)
    assert len(set(written)) == 2


def test_volumes_lie_on_their_source(volume_run: Run, shared_data: Path, tmp_path: Path) -> None:
    # Two axis orders: RAS+ and one that nibabel turns.
    source = next(iter(sorted((shared_data / "nifti").rglob("*.nii.gz"))))
    image = nibabel.load(source)
    turned = tmp_path / "turned.nii.gz"
    nibabel.save(image.as_reoriented([[2, -1], [0, 1], [1, -1]]), turned)
    maps = explain(volume_run, [str(source), str(turned)], ExplainOptions(out=tmp_path / "maps"))
    for one, path in zip(maps, (source, turned), strict=True):
        want, made = nibabel.load(path), nibabel.load(one.files[0])
        assert made.shape == want.shape
        np.testing.assert_allclose(made.affine, want.affine, atol=1e-4)
        assert np.abs(made.get_fdata()).max() > 0
    first, second = (read_volume(one.files[0]).voxels for one in maps)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert {"center_mm", "size_mm"} <= maps[0].to_dict(volume_run)["regions"][0].keys()
    (drawn,) = explain(
        volume_run, [str(source)], ExplainOptions(out=tmp_path / "drawn", format="png", method="gradcam")
    )
    assert Image.open(drawn.files[0]).size[0] > 400


def test_slides_are_written_at_their_own_coordinates(
    slide_run: Run, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(of_slide, "THUMBNAIL", 300)
    source = shared_data / "wsi" / "CMU-1-Small-Region.svs"
    (done,) = explain(slide_run, [str(source)], ExplainOptions(out=tmp_path, quantile=0.5, method="gradcam"))
    regions, pyramid = done.files
    features = json.loads(regions.read_text())["features"]
    assert len(features) == len(done.images[0].regions) > 0
    with open_slide(source) as slide:
        for feature in features:
            for ring in feature["geometry"]["coordinates"]:
                corners = np.array(ring)
                assert (corners[0] == corners[-1]).all()
                assert corners.min() >= 0
                assert (corners.max(0) <= slide.size).all()
        with open_slide(pyramid) as made:
            assert made.size_mm == pytest.approx(slide.size_mm, rel=1e-3)
            assert len(made._pyramid.sizes) >= 3
        token_grid = done.images[0].token_grid
        assert token_grid is not None
        everywhere = replace(
            token_grid, visible=tuple((0.0, float(side)) for side in token_grid.shape), start=(0.0, 0.0)
        )
        empty = tmp_path / "empty.tiff"
        write_pyramid(empty, slide, np.zeros((99, 99)), everywhere, signed=True, longest=900)
        with open_slide(empty) as made:
            beside = made.read(0.1, 0.2, 100, 80, 8.0), slide.read(0.1, 0.2, 100, 80, 8.0)
        assert np.abs(np.subtract(*beside, dtype=float)).mean() < 3
    (drawn,) = explain(slide_run, [str(source)], ExplainOptions(out=tmp_path, format="png"))
    assert drawn.files[0].suffix == ".png"


def test_the_verb(image_run: Run, images: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verb, parser = COMMANDS["Use"]["explain"], Parser(prog="softfree explain")
    verb.arguments(parser)
    asked = ["--method=attention", "--at=[0.2, 0.7]", "--layer=1", "--head=0", "--json=true", f"--out={tmp_path / 'm'}"]
    assert verb.run(parser.parse_args([str(image_run.folder), images[0], *asked])) == 0
    row = json.loads(capsys.readouterr().out)[0]
    assert row["target"] is None, "it is the same for every class"
    assert "agreement" not in row
    assert (tmp_path / "m" / "film_map.png").is_file()
