"""The entrance of a real server: real models, real pixels."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

import requests
from highdicom.sr import ComprehensiveSR
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE
from tests.serving.hospital.support import Archive, Orthanc, free_port, until
from tests.serving.hospital.test_gateway import SECRETS, copies
from tests.serving.inline import serving

from softfree_runtime import predict

if TYPE_CHECKING:
    from softfree.inference.run import Run

RULES = "- {model: small, match: {Modality: [CT, MR]}}"


def send(port: int, datasets: list[Dataset]) -> None:
    node = AE("SCANNER")
    node.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    association = node.associate("127.0.0.1", port, ae_title="SOFTFREE")
    assert [association.send_c_store(dataset).Status for dataset in datasets] == [0] * len(datasets)
    association.release()


def options_of(folder: Path, archive: Archive, rules: str = RULES) -> dict[str, Any]:
    (folder / "rules.yaml").write_text(rules)
    return {"route": folder / "rules.yaml", "dicom_port": free_port(), "dicom_folder": folder / "dicom", "quiet": 0.3,
            "dicom_send": f"PACS@127.0.0.1:{archive.port}"}  # fmt: skip


def measured(report: Dataset) -> list[dict[str, float]]:
    """Return the numbers of each sample of a report."""
    groups: Any = ComprehensiveSR.from_dataset(report).content
    return [{item.name.meaning: item.value for item in group.get_measurements()}
            for group in groups.get_image_measurement_groups()]  # fmt: skip


def test_report_has_the_numbers_of_predict(
    small_model: Path, archive: Archive, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And a damaged image beside it is left out with a reason."""
    good, bad = copies(ct, 2)
    bad.PixelData = bad.PixelData[:1000]
    options = options_of(tmp_path, archive)
    (row,) = predict(small_model, str(ct))

    async def steps() -> None:
        async with serving(small_model, tmp_path, **options):
            await asyncio.to_thread(send, options["dicom_port"], [good, bad])
            await until(lambda: archive.received)
            await until(lambda: not list((tmp_path / "dicom").rglob("*.dcm")))

    with caplog.at_level(logging.INFO):
        asyncio.run(steps())
    (report,) = archive.received
    assert measured(report) == [
        {f"Probability of {name}": pytest.approx(row[f"p_{name}"], abs=1e-6) for name in ("well", "ill")}
    ]
    evidence = report.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in evidence] == [good.SOPInstanceUID]
    assert "no result of small for 1 file(s): damaged DICOM pixel data" in caplog.text
    assert list((tmp_path / "spool").iterdir()) == []
    assert not [secret for secret in SECRETS if secret in caplog.text]
    stored = b"".join(path.read_bytes() for path in tmp_path.glob("store.sqlite*"))
    assert not [secret for secret in SECRETS if secret.encode() in stored]


@pytest.mark.slow
def test_map_of_a_run_comes_back(image_run: Run, archive: Archive, ct: Path, tmp_path: Path) -> None:
    options = options_of(tmp_path, archive, "- {model: small, match: {Modality: CT}, explain: true}")
    (sent,) = copies(ct, 1)

    async def steps() -> None:
        async with serving(tmp_path / "image_run", tmp_path, **options):
            await asyncio.to_thread(send, options["dicom_port"], [sent])
            await until(lambda: len(archive.received) == 2)
            await until(lambda: not list((tmp_path / "dicom").rglob("*.dcm")))

    asyncio.run(steps())
    report, map_ = sorted(archive.received, key=lambda dataset: dataset.Modality, reverse=True)
    assert report.Modality == "SR"
    assert map_.SourceImageSequence[0].ReferencedSOPInstanceUID == sent.SOPInstanceUID
    assert map_.StudyInstanceUID == sent.StudyInstanceUID
    assert map_.pixel_array.std() > 10
    assert "Not a medical device" in map_.DerivationDescription
    assert list((tmp_path / "spool").iterdir()) == []  # neither the image nor its map is held


@pytest.mark.slow
def test_slice_with_the_map_of_a_volume_comes_back(
    volume_run: Run, archive: Archive, shared_data: Path, tmp_path: Path
) -> None:
    slices = [dcmread(path) for path in sorted((shared_data / "dicom" / "series_t1").iterdir())]
    options = options_of(tmp_path, archive, "- {model: small, match: {Modality: MR}, explain: true}")
    row = volume_run.predict([str(shared_data / "dicom" / "series_t1")]).iloc[0]

    async def steps() -> None:
        async with serving(tmp_path / "volume_run", tmp_path, **options):
            await asyncio.to_thread(send, options["dicom_port"], slices)
            await until(lambda: len(archive.received) == 2, 60)
            await until(lambda: not list((tmp_path / "dicom").rglob("*.dcm")))

    asyncio.run(steps())
    report, map_ = sorted(archive.received, key=lambda dataset: dataset.Modality, reverse=True)
    (numbers,) = measured(report)
    for name in volume_run.task.classes:
        assert numbers[f"Probability of {name}"] == pytest.approx(row[f"p_{name}"], abs=1e-6)
    sources = {item.ReferencedSOPInstanceUID for item in map_.SourceImageSequence}
    assert sources == {dataset.SOPInstanceUID for dataset in slices}
    assert "Slice " in map_.DerivationDescription
    assert "from the feet" in map_.DerivationDescription
    shown = map_.pixel_array
    half = shown.shape[1] // 2
    assert np.ptp(shown[:40, :half].astype(int), axis=2).max() == 0  # on the left without colors
    assert list((tmp_path / "spool").iterdir()) == []


@pytest.mark.slow
def test_command_with_orthanc(small_model: Path, orthanc: Orthanc, shared_data: Path, tmp_path: Path) -> None:
    """The command as an operator starts it: from Orthanc, into Orthanc, and a clean stop."""
    files = sorted((shared_data / "dicom" / "series_t1").iterdir())[:3]
    rows = predict(small_model, list(map(str, files)))
    (tmp_path / "rules.yaml").write_text(RULES)
    port, dicom_port = free_port(), free_port()
    command = [
        *(sys.executable, "-m", "softfree.cli.main", "serve", str(small_model), f"--port={port}", "--workers=1"),
        *(f"--store={tmp_path / 'store.sqlite'}", f"--dicom-folder={tmp_path / 'dicom'}", "--quiet=0.5"),
        *(f"--route={tmp_path / 'rules.yaml'}", f"--dicom-port={dicom_port}"),
        f"--dicom-send={orthanc.title}@127.0.0.1:{orthanc.dicom_port}",
    ]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def is_ready() -> bool:
        assert process.poll() is None, (tmp_path / "log").read_text()
        try:
            return bool(requests.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200)
        except requests.RequestException:
            return False

    def report() -> Dataset | None:
        instances = [dcmread(io.BytesIO(orthanc.file(entry["ID"]))) for entry in orthanc.get("/instances?expand")]
        return next((dataset for dataset in instances if dataset.Modality == "SR"), None)

    async def steps() -> Dataset:
        await until(is_ready, 60)
        await asyncio.to_thread(send_to_orthanc, orthanc, files)
        (series,) = orthanc.get("/series")
        await asyncio.to_thread(orthanc.forward, series, "SOFTFREE", dicom_port)
        return await until(report)  # type: ignore[no-any-return]

    try:
        found = measured(asyncio.run(steps()))
        time.sleep(1)
    finally:
        process.send_signal(signal.SIGTERM)
        status = process.wait(30)
    by_number = sorted(zip(files, rows, strict=True), key=lambda pair: int(dcmread(pair[0]).InstanceNumber))
    assert found == [
        {f"Probability of {name}": pytest.approx(row[f"p_{name}"], abs=1e-6) for name in ("well", "ill")}
        for _, row in by_number
    ]
    said = (tmp_path / "log").read_text()
    assert status in (0, -signal.SIGTERM), said
    assert "Traceback" not in said
    assert "3 of 3 samples reported by small" in said
    for secret in (str(dcmread(files[0]).PatientName), dcmread(files[0]).StudyInstanceUID):
        assert secret not in said


@pytest.mark.slow
@pytest.mark.parametrize("pause", [0.0, 0.5, 1.2])
def test_killed_server_answers_once(
    pause: float, small_model: Path, archive: Archive, ct: Path, tmp_path: Path
) -> None:
    """``kill -9`` at several moments after the images were acknowledged: the next process sends the report, once."""
    options = options_of(tmp_path, archive)
    command = [
        *(sys.executable, "-m", "softfree.cli.main", "serve", str(small_model), "--port=0", "--workers=1"),
        *(f"--store={tmp_path / 'store.sqlite'}", f"--dicom-folder={tmp_path / 'dicom'}", "--quiet=0.3"),
        *(f"--route={options['route']}", f"--dicom-port={options['dicom_port']}"),
        f"--dicom-send={options['dicom_send']}",
    ]
    sent = copies(ct, 4)

    async def steps() -> None:
        first = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            await until(lambda: _listens(options["dicom_port"]), 60)
            await asyncio.to_thread(send, options["dicom_port"], sent)
            await asyncio.sleep(pause)
        finally:
            first.kill()
            first.wait()
        second = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            await until(lambda: archive.received, 90)
            await until(lambda: not list((tmp_path / "dicom").rglob("*.dcm")))
        finally:
            second.terminate()
            second.wait(30)

    asyncio.run(steps())
    assert len({report.SOPInstanceUID for report in archive.received}) == 1
    assert len(measured(archive.received[0])) == 4


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def send_to_orthanc(orthanc: Orthanc, files: list[Path]) -> None:
    for file in files:
        requests.post(f"{orthanc.http}/instances", data=file.read_bytes(), timeout=10).raise_for_status()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dicom-port=0"], "--dicom-port and --dicomweb need --route FILE"),
        (["--dicom-port=0", "--dicom-send=A@b:1", "--route=none.yaml"], "--route none.yaml cannot be read"),
    ],
)
def test_command_refuses_in_one_line(options: list[str], message: str, small_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "softfree.cli.main", "serve", str(small_model), "--port=0", *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=60, check=False)
    assert done.returncode == 2
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1
