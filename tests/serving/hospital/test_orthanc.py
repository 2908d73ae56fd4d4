"""Round trips with a real Orthanc: images in, report and map back in the same study."""

from __future__ import annotations

import asyncio
import io
import logging
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from tests.serving.hospital.support import FixedService, Orthanc, until
from tests.serving.hospital.test_gateway import running

from softfree.serving.options import ServeOptions

if TYPE_CHECKING:
    pass

pytestmark = pytest.mark.slow
RULES = "- {model: chest, match: {Modality: MR, SeriesDescription: '*'}, explain: true}"


@pytest.fixture
def t1(shared_data: Path) -> list[Dataset]:
    """Four slices of a series."""
    return [dcmread(path) for path in sorted((shared_data / "dicom" / "series_t1").iterdir())[:4]]


def store(orthanc: Orthanc, datasets: list[Dataset]) -> None:
    node = AE("SCANNER")
    node.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    association = node.associate("127.0.0.1", orthanc.dicom_port, ae_title=orthanc.title)
    assert [association.send_c_store(dataset).Status for dataset in datasets] == [0] * len(datasets)
    association.release()


def results(orthanc: Orthanc, number: int) -> list[Dataset]:
    """Return what has been added to the only study, once there is as much as expected."""
    made = [dcmread(io.BytesIO(orthanc.file(instance))) for instance in
            (entry["ID"] for entry in orthanc.get("/instances?expand"))]  # fmt: skip
    made = [dataset for dataset in made if dataset.get("Manufacturer") == "softfree"]
    return made if len(made) == number else []


def check(orthanc: Orthanc, sources: list[Dataset], made: list[Dataset], tmp_path: Path) -> None:
    """Look at a report and maps of a series: where they are, what they refer to, and whether they are valid."""
    (study,) = orthanc.get("/studies")
    modalities = [entry["MainDicomTags"]["Modality"] for entry in orthanc.get(f"/studies/{study}/series")]
    assert sorted(modalities) == sorted(["MR", "SR", *["OT"] * (len(made) - 1)])
    (report,) = [dataset for dataset in made if dataset.Modality == "SR"]
    assert report.StudyInstanceUID == sources[0].StudyInstanceUID
    assert str(report.PatientName) == str(sources[0].PatientName)
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0]
    assert evidence.SeriesInstanceUID == sources[0].SeriesInstanceUID
    referenced = {item.ReferencedSOPInstanceUID for item in evidence.ReferencedSOPSequence}
    assert referenced == {dataset.SOPInstanceUID for dataset in sources}
    for map_ in (dataset for dataset in made if dataset.Modality == "OT"):
        assert map_.SourceImageSequence[0].ReferencedSOPInstanceUID in referenced
        assert map_.pixel_array.ndim == 3
    if program := shutil.which("dciodvfy"):
        report.save_as(tmp_path / "report.dcm")
        said = subprocess.run([program, tmp_path / "report.dcm"], capture_output=True, text=True, check=False).stderr
        errors = [line for line in said.splitlines() if line.startswith("Error")]
        # The age of these slices is "42", which the standard has as "042Y".
        assert [line for line in errors if "Patient's Age" not in line and "invalid data values" not in line] == []


def options_of(orthanc: Orthanc, folder: Path, **more: Any) -> ServeOptions:
    (folder / "rules.yaml").write_text(RULES)
    return ServeOptions(route=folder / "rules.yaml", dicom_folder=folder / "dicom", quiet=0.5, **more)


def test_dimse_round_trip(
    service: FixedService, orthanc: Orthanc, t1: list[Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = options_of(
        orthanc, tmp_path, dicom_port=0, dicom_from=[orthanc.title],
        dicom_send=f"{orthanc.title}@127.0.0.1:{orthanc.dicom_port}",
    )  # fmt: skip

    async def scenario() -> list[Dataset]:
        async with running(options, service) as hospital:
            await asyncio.to_thread(store, orthanc, t1)
            (series,) = orthanc.get("/series")
            assert hospital.port is not None
            await asyncio.to_thread(orthanc.forward, series, "SOFTFREE", hospital.port)
            return list(await until(lambda: results(orthanc, 1 + len(t1))))

    with caplog.at_level(logging.DEBUG, "softfree"):
        check(orthanc, t1, asyncio.run(scenario()), tmp_path)
    assert str(t1[0].PatientName) not in caplog.text
    assert [len(samples) for samples in service.asked] == [4]


def test_dicomweb_round_trip(
    service: FixedService, orthanc: Orthanc, t1: list[Dataset], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Found by QIDO-RS, fetched by WADO-RS, and answered by STOW-RS, once, also after a restart."""
    options = options_of(orthanc, tmp_path, dicomweb=orthanc.web, dicomweb_days=0, dicomweb_every=0.3)
    client = DICOMwebClient(orthanc.web)

    async def scenario() -> list[Dataset]:
        async with running(options, service):
            await asyncio.to_thread(client.store_instances, t1[:3])
            await asyncio.sleep(0.3)
            await asyncio.to_thread(client.store_instances, t1[3:])
            await until(lambda: results(orthanc, 1 + len(t1)))
        async with running(options, service):
            await asyncio.sleep(2)  # nothing new: neither the images nor the results are predicted again
            return results(orthanc, 1 + len(t1))

    with caplog.at_level(logging.DEBUG, "softfree"):
        check(orthanc, t1, asyncio.run(scenario()), tmp_path)
    assert [len(samples) for samples in service.asked] == [4]
    assert str(t1[0].PatientName) not in caplog.text


def test_node_answers_into_dicomweb(service: FixedService, orthanc: Orthanc, t1: list[Dataset], tmp_path: Path) -> None:
    options = options_of(orthanc, tmp_path, dicom_port=0, dicomweb=orthanc.web, dicomweb_days=1)

    async def scenario() -> list[Dataset]:
        async with running(options, service) as hospital:
            await asyncio.to_thread(store, orthanc, t1)
            (series,) = orthanc.get("/series")
            assert hospital.port is not None
            await asyncio.to_thread(orthanc.forward, series, "SOFTFREE", hospital.port)
            return list(await until(lambda: results(orthanc, 1 + len(t1))))

    check(orthanc, t1, asyncio.run(scenario()), tmp_path)


def test_archive_that_is_not_there_yet(
    service: FixedService, tmp_path: Path, orthanc: Orthanc, caplog: pytest.LogCaptureFixture
) -> None:
    """One line about a wrong path, and one about a port where nobody listens."""
    options = options_of(orthanc, tmp_path, dicomweb=f"{orthanc.http}/elsewhere", dicomweb_every=0.1)

    async def scenario() -> None:
        async with running(options, service):
            await until(lambda: "HTTP status 404; is the address the one above /studies?" in caplog.text)
        options.dicomweb = "http://127.0.0.1:9/dicom-web"
        async with running(options, service):
            await until(lambda: "the DICOMweb server: it cannot be reached; is it running" in caplog.text)
            await asyncio.sleep(1.5)

    asyncio.run(scenario())
    assert caplog.text.count("cannot be reached") == 1
