"""Structured reports: read back by pydicom and highdicom, and checked by dciodvfy."""

from __future__ import annotations

import io
import logging
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("requests")

from highdicom.sr import ComprehensiveSR
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from tests.serving.hospital.support import ROW

from softfree.serving.hospital.findings import STATEMENT, Choice, Number, findings_of
from softfree.serving.hospital.maps import MapImage, write_map
from softfree.serving.hospital.results import Reported, ReportedModel, make_report, own_result, read_header
from softfree_runtime.core.errors import ReadError
from softfree_runtime.readers.quiet import quiet

MODEL = ReportedModel("chest", "0.1.0", "ab" * 32)
SOURCES = {
    "CT": "dicom/pydicom/CT_small.dcm",
    "MR": "dicom/series_t1",
    "radiograph": "dicom/pydicom_data/RG1_J2KI.dcm",
    "ultrasound": "dicom/pydicom/ExplVR_BigEnd.dcm",
}


def report_of(source: Path, row: dict[str, Any] = ROW, *, seed: str = "") -> Dataset:
    return make_report(MODEL, [Reported(findings_of(row, coverage=0.9), (read_header(source),))], seed=seed)


def read_back(report: Dataset) -> Any:
    file = io.BytesIO()
    report.save_as(file, enforce_file_format=True)
    file.seek(0)
    return ComprehensiveSR.from_dataset(dcmread(file))


def comments(items: Any) -> list[str]:
    named = [item for item in items if item.ValueType == "TEXT"]
    return [item.TextValue for item in named if item.ConceptNameCodeSequence[0].CodeValue == codes.DCM.Comment.value]


def test_report_has_the_row(ct: Path) -> None:
    report = read_back(report_of(ct))
    (group,) = report.content.get_image_measurement_groups()
    assert {item.name.meaning: item.value for item in group.get_measurements()} == {
        "Probability of NORMAL": pytest.approx(0.123456789012, abs=1e-12),
        "Probability of PNEUMONIA": pytest.approx(0.876543210988, abs=1e-12),
        "Distance from the training samples": 1.25,
    }
    assert {item.name.meaning: item.value.meaning for item in group.get_qualitative_evaluations()} == {
        "Predicted": "PNEUMONIA", "Model abstains": "Yes", "Unlike the training samples": "Yes",
        "Algorithm Family": "Artificial Intelligence",  # which highdicom takes for one
    }  # fmt: skip
    assert comments(group[0].ContentSequence) == [
        "The model abstains: NORMAL and PNEUMONIA are plausible at 90 % coverage. A reader has to decide.",
        "Unusual: unlike the samples that the model was trained on (distance 1.25, the limit is 1). The answer is not"
        " supported by them.",
    ]
    assert comments(report.ContentSequence) == [STATEMENT]


def test_report_names_its_model_and_its_source(ct: Path) -> None:
    source = dcmread(ct)
    report = read_back(report_of(ct))
    (observer,) = report.content.get_observer_contexts()
    device = observer.observer_identifying_attributes
    assert (device.name, device.manufacturer_name, device.model_name) == ("chest", "softfree", "chest 0.1.0")
    assert device.serial_number == f"sha256:{MODEL.digest}"
    (group,) = report.content.get_image_measurement_groups()
    assert group.tracking_identifier == "chest"
    assert group.tracking_uid.is_valid
    (image,) = group.source_images
    assert image.referenced_sop_instance_uid == source.SOPInstanceUID
    evidence = report.CurrentRequestedProcedureEvidenceSequence  # (0040,A375): viewers need it
    assert [(item.StudyInstanceUID, item.ReferencedSeriesSequence[0].SeriesInstanceUID) for item in evidence] == [
        (source.StudyInstanceUID, source.SeriesInstanceUID)
    ]
    (referenced,) = evidence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert referenced.ReferencedSOPInstanceUID == source.SOPInstanceUID
    assert report.StudyInstanceUID == source.StudyInstanceUID
    assert report.SeriesInstanceUID != source.SeriesInstanceUID
    assert (report.PatientName, report.PatientID, report.StudyID) == (
        source.PatientName,
        source.PatientID,
        source.StudyID,
    )
    assert (report.VerificationFlag, report.PreliminaryFlag) == ("UNVERIFIED", "PRELIMINARY")
    assert "not a medical device" in report.SeriesDescription
    assert own_result(report)
    assert not own_result(source)


def test_same_content_has_same_uids(ct: Path) -> None:
    first, again, other = report_of(ct, seed="a"), report_of(ct, seed="a"), report_of(ct, seed="b")
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert first.SOPInstanceUID != other.SOPInstanceUID
    assert first.SOPInstanceUID != first.SeriesInstanceUID


def errors_of(path: Path) -> set[str]:
    """Return the errors that dciodvfy finds in a file."""
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy is not installed: apt-get install dicom3tools")
    said = subprocess.run([program, path], capture_output=True, text=True, check=False).stderr.splitlines()
    assert {"ComprehensiveSR", "SCImage"} & set(said) or "report" not in path.name
    return {line for line in said if line.startswith("Error")}


@pytest.mark.parametrize("kind", SOURCES)
def test_results_are_valid(kind: str, shared_data: Path, tmp_path: Path) -> None:
    """Errors of dciodvfy in elements that are copied from the source are the source's own."""
    source = shared_data / SOURCES[kind]
    source = min(source.iterdir()) if source.is_dir() else source
    report_of(source).save_as(tmp_path / "report.dcm", enforce_file_format=True)
    assert errors_of(tmp_path / "report.dcm") - errors_of(source) == set()
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "map.png")
    map_image = MapImage(tmp_path / "map.png")
    write_map(tmp_path / "map.dcm", map_image, [source], model="chest", predicted="PNEUMONIA", seed="a")
    assert errors_of(tmp_path / "map.dcm") - errors_of(source) == set()


def test_map_says_what_it_is(ct: Path, tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (200, 30, 30)).save(tmp_path / "map.png")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        map_image = MapImage(tmp_path / "map.png", note="slice 3 of 9")
        write_map(tmp_path / name / "map.dcm", map_image, [ct], model="Лёгкие", predicted="норма", seed="a")
    first, again = (dcmread(tmp_path / name / "map.dcm") for name in ("a", "b"))
    assert first.pixel_array[:40, :60].reshape(-1, 3).std(axis=0).tolist() == [0, 0, 0]
    assert first.pixel_array[40:].max() > 200  # the words below it
    assert (
        first.DerivationDescription
        == "Map of a prediction of Лёгкие. Predicted: норма. Not a medical device. Slice 3 of 9."
    )
    assert (first.SOPInstanceUID, first.SeriesInstanceUID) == (again.SOPInstanceUID, again.SeriesInstanceUID)
    assert first.PatientID == dcmread(ct).PatientID
    (tmp_path / "map.png").write_bytes(b"no image")
    with pytest.raises(ReadError, match="the map is no image"):
        write_map(tmp_path / "map.dcm", MapImage(tmp_path / "map.png"), [ct], model="m", predicted="", seed="a")


def test_names_in_any_script_are_kept(ct: Path, tmp_path: Path) -> None:
    """The source's character set does not limit the names of classes, and the other way round."""
    source = dcmread(ct)
    source.SpecificCharacterSet = "ISO_IR 13"
    source.PatientName = "ﾔﾏﾀﾞ^ﾀﾛｳ"
    source.save_as(tmp_path / "a.dcm")
    row = ROW | {"p_Лёгкие в норме": 0.4, "predicted": "Лёгкие в норме"}
    report = read_back(report_of(tmp_path / "a.dcm", row))
    assert str(report.PatientName) == "ﾔﾏﾀﾞ^ﾀﾛｳ"
    (group,) = report.content.get_image_measurement_groups()
    assert "Probability of Лёгкие в норме" in [item.name.meaning for item in group.get_measurements()]


def test_unusual_elements_are_copied_and_not_logged(ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """highdicom alone would refuse this sex, and quote this name in a log."""
    source = dcmread(ct)
    source.PatientSex, source.PatientName = "X", "Doe Jane"
    source.save_as(tmp_path / "a.dcm")
    with caplog.at_level(logging.DEBUG):
        report = read_back(report_of(tmp_path / "a.dcm"))
    assert (report.PatientSex, str(report.PatientName)) == ("X", "Doe Jane")
    assert "Doe" not in caplog.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no DICOM", "no StudyInstanceUID and SeriesInstanceUID and SOPClassUID and SOPInstanceUID to refer to"),
        (b"", "no StudyInstanceUID and SeriesInstanceUID and SOPClassUID and SOPInstanceUID to refer to"),
    ],
)
def test_bad_sources_are_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "Jane Doe.dcm").write_bytes(content)
    with pytest.raises(ReadError) as error:
        read_header(tmp_path / "Jane Doe.dcm")
    assert str(error.value) in (message, "an element of its patient or study is damaged")


def test_procedure_whose_name_is_too_long_for_a_code(ct: Path) -> None:
    source, code = read_header(ct), Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "36554-4", "LN"
    with quiet():  # pydicom warns of the length
        code.CodeMeaning = "Radiography of chest, two views, posteroanterior and lateral projection"
    source.ProcedureCodeSequence = [code]
    report = read_back(make_report(MODEL, [Reported(findings_of(ROW), (source,))]))
    named = {item.ConceptNameCodeSequence[0].CodeValue: item for item in report.ContentSequence}
    (procedure,) = named[codes.DCM.ProcedureReported.value].ConceptCodeSequence
    assert (procedure.CodeValue, procedure.CodingSchemeDesignator) == ("36554-4", "LN")
    assert procedure.CodeMeaning == "Radiography of chest, two views, posteroanterior and lateral ..."


def test_samples_that_no_report_can_hold_are_refused(ct: Path) -> None:
    source = read_header(ct)
    del source.SOPClassUID  # as of a damaged file
    with pytest.raises(ReadError, match="no report can be made"):
        make_report(MODEL, [Reported(findings_of(ROW), (source,))])


def test_several_frames_are_referred_to_by_number(shared_data: Path) -> None:
    source = read_header(shared_data / "dicom" / "pydicom" / "SC_rgb_rle_2frame.dcm")
    samples = [Reported(findings_of(ROW), (source,), frame) for frame in (0, 1)]
    report = read_back(make_report(MODEL, samples))
    groups = report.content.get_image_measurement_groups()
    assert [group.source_images[0].referenced_frame_numbers for group in groups] == [[1], [2]]
    assert len({group.tracking_uid for group in groups}) == 2


def test_findings_of_other_tasks() -> None:
    row = {"status": "ok", "set_edema": "uncertain", "set_mass": "absent", "abstain": True, "p_edema": 0.4,
           "p_mass": 0.1, "distance": None, "unusual": None}  # fmt: skip
    found = findings_of(row)
    assert found.choices == [
        Choice("set_edema", "edema: what is plausible", "uncertain"),
        Choice("set_mass", "mass: what is plausible", "absent"),
        Choice("abstain", "Model abstains", True),
    ]
    assert found.words == ["The model abstains: uncertain about edema. A reader has to decide."]
    survival = findings_of({"risk": 0.2, "survival_365": 0.9, "survival_730": None})
    assert survival.numbers == [
        Number("risk", "Risk", 0.2),
        Number("survival_365", "Probability to have no event until 365", 0.9),
    ]
    several = findings_of({"age.value": 61.5, "age.low": None, "sex.p_F": 0.7, "sex.predicted": "F"}, ["age", "sex"])
    assert several.numbers == [
        Number("age.value", "age: Predicted value", 61.5, in_unit_of_target=True),
        Number("sex.p_F", "sex: Probability of F", 0.7),
    ]
    assert several.choices == [Choice("sex.predicted", "sex: Predicted", "F")]
    one = findings_of({"set": '["A"]', "abstain": False, "predicted": "A", "distance": 0.5, "unusual": False})
    assert one.words == [
        "The model does not abstain: only A is plausible.",
        "Not unusual (distance 0.50 from the training samples, the limit is 1).",
    ]
    assert findings_of({"set": "[]", "abstain": True}).words == [
        "The model abstains: no class is plausible. A reader has to decide."
    ]


def test_entrance_needs_no_torch() -> None:
    """It runs in the process that answers HTTP."""
    code = "import sys, softfree.serving.hospital.entrance; print({'torch', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
