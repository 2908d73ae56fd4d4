"""From files to results: in one process, by real DICOM associations, with a service of fixed answers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from highdicom.sr import ComprehensiveSR
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, ALL_TRANSFER_SYNTAXES
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]
from tests.serving.hospital.support import ROW, VERSION, Archive, FixedService, until

from softfree.serving.errors import Busy
from softfree.serving.hospital import entrances, outbox
from softfree.serving.hospital.entrance import Hospital
from softfree.serving.hospital.node import Peer, read_peer
from softfree.serving.options import ServeOptions
from softfree.serving.records import JobState
from softfree_runtime.core.errors import UserError

RULES = "- {model: chest, match: {Modality: CT}}"
SECRETS = ("CompressedSamples", "1CT1", "1.3.6.1.4.1.5962")  # name, id and the root of the UIDs of CT_small.dcm


def options_of(folder: Path, port: int, rules: str = RULES, title: str = "PACS", **more: Any) -> ServeOptions:
    folder.mkdir(exist_ok=True)
    (folder / "rules.yaml").write_text(rules)
    return ServeOptions(route=folder / "rules.yaml", dicom_port=0, dicom_send=f"{title}@127.0.0.1:{port}",
                        dicom_folder=folder / "dicom", quiet=0.3, **more)  # fmt: skip


@asynccontextmanager
async def running(options: ServeOptions, service: FixedService) -> AsyncIterator[Hospital]:
    (hospital,) = entrances(options)
    assert isinstance(hospital, Hospital)
    await hospital.start(service)  # type: ignore[arg-type]
    try:
        yield hospital
    finally:
        await hospital.stop()


def send(hospital: Hospital, datasets: list[Dataset], title: str = "SOFTFREE", caller: str = "SCANNER") -> list[int]:
    """Send by C-STORE; returns the statuses, or [] if the association was refused."""
    node = AE(caller)
    for dataset in datasets:
        node.add_requested_context(dataset.SOPClassUID, dataset.file_meta.TransferSyntaxUID)
    assert hospital.port is not None
    association = node.associate("127.0.0.1", hospital.port, ae_title=title)
    if not association.is_established:
        return []
    try:
        return [association.send_c_store(dataset).Status for dataset in datasets]
    finally:
        association.release()


def copies(source: Path, number: int, **elements: Any) -> list[Dataset]:
    """Return instances of one series."""
    made = []
    for index in range(number):
        dataset = dcmread(source)
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"{dataset.SOPInstanceUID}.{index}"
        dataset.InstanceNumber = number - index
        for keyword, value in elements.items():
            setattr(dataset, keyword, value)
        made.append(dataset)
    return made


def clean(options: ServeOptions, service: FixedService) -> bool:
    """Return whether no file of a patient is left."""
    folders = (
        options.dicom_folder / name for name in ("receiving", "ready", "parts", "outbox/waiting", "outbox/parts")
    )
    return not any(any(folder.iterdir()) for folder in folders) and not list(service.spool.folder.rglob("*.dcm"))


def test_series_becomes_a_report_in_its_study(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rules = "- {model: chest, match: {Modality: CT}, explain: true}"
    options = options_of(tmp_path, archive.port, rules)
    slices = copies(ct, 3)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            assert await asyncio.to_thread(send, hospital, slices) == [0, 0, 0]
            await until(lambda: len(archive.received) == 4)
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.DEBUG, "softfree"):
        asyncio.run(scenario())
    report, *maps = sorted(archive.received, key=lambda dataset: dataset.Modality, reverse=True)
    assert (report.Modality, len(maps)) == ("SR", 3)
    for result in archive.received:
        assert (result.StudyInstanceUID, result.PatientID) == (slices[0].StudyInstanceUID, slices[0].PatientID)
        assert result.SeriesInstanceUID != slices[0].SeriesInstanceUID
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    sent = [item.ReferencedSOPInstanceUID for item in evidence.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert sent == [dataset.SOPInstanceUID for dataset in reversed(slices)]  # by instance number
    sources = {made.SourceImageSequence[0].ReferencedSOPInstanceUID for made in maps}
    assert sources == {dataset.SOPInstanceUID for dataset in slices}
    assert {made.pixel_array[0, 0].tolist() == [200, 30, 30] for made in maps} == {True}
    assert maps[0].pixel_array.shape[0] > 48  # with the band that says what it is
    assert [len(sample.paths) for sample in service.asked[0]] == [1, 1, 1]
    assert "3 of 3 samples reported by chest" in caplog.text
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_volume_is_one_sample(service: FixedService, archive: Archive, ct: Path, tmp_path: Path) -> None:
    service.kind = "volume"

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port), service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 3))
            await until(lambda: archive.received)

    asyncio.run(scenario())
    assert [[len(sample.paths) for sample in samples] for samples in service.asked] == [[3]]
    assert len(archive.received) == 1


def test_case_has_its_views(service: FixedService, archive: Archive, ct: Path, tmp_path: Path) -> None:
    """And its images are in the order in which the model has them; one of no view is left out."""
    service.kind = "case"
    rules = "- {model: chest, match: {Modality: CT}, views: {R: {ImageLaterality: R}, L: {ImageLaterality: L}}}"
    images = copies(ct, 3)
    for image, side in zip(images, "RLU", strict=True):
        image.ImageLaterality = side

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port, rules), service) as hospital:
            await asyncio.to_thread(send, hospital, images)
            await until(lambda: archive.received)

    asyncio.run(scenario())
    ((sample,),) = service.asked
    assert (sample.case, sample.views) == (True, ("L", "R"))
    (group,) = ComprehensiveSR.from_dataset(archive.received[0]).content.get_image_measurement_groups()
    assert [image.referenced_sop_instance_uid for image in group.source_images] == [
        images[1].SOPInstanceUID,
        images[0].SOPInstanceUID,
    ]


def test_two_rules_for_one_series(service: FixedService, archive: Archive, ct: Path, tmp_path: Path) -> None:
    rules = "\n".join(f"- {{model: chest, match: {{InstanceNumber: {number}}}}}" for number in (1, 2))

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port, rules), service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 3))
            await until(lambda: len(archive.received) == 2)

    asyncio.run(scenario())
    assert [len(samples) for samples in service.asked] == [1, 1]
    assert len({report.SOPInstanceUID for report in archive.received}) == 2


def test_failure_of_one_rule_does_not_stop_the_others(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The files stay for the next start, which does what was left."""
    rules = "\n".join(f"- {{model: chest, match: {{InstanceNumber: {number}}}}}" for number in (1, 2))
    options = options_of(tmp_path, archive.port, rules)
    service.fail = RuntimeError("a full disk")

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 2))
            await until(lambda: "the DICOM entrance failed: RuntimeError; the files are kept" in caplog.text)
            await until(lambda: archive.received)
        assert len(service.asked) == 1
        async with running(options, service):
            await until(lambda: clean(options, service))

    asyncio.run(scenario())
    assert len(service.asked) == 2
    assert len({report.SOPInstanceUID for report in archive.received}) == 2


def test_report_names_the_file_that_answered(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which may have been replaced between two samples of a job."""
    newer, answered = replace(VERSION, hash="cd" * 32), service.wait

    async def replaced(job_id: str, seconds: float | None = None) -> JobState:
        state = await answered(job_id)
        first, second = state.answers
        assert first is not None
        assert second is not None
        return replace(state, answers=(first, replace(second, model=newer)))

    monkeypatch.setattr(service, "wait", replaced)

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port), service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 2))
            await until(lambda: len(archive.received) == 2)

    asyncio.run(scenario())
    said = {}
    for report in map(ComprehensiveSR.from_dataset, archive.received):
        (observer,) = report.content.get_observer_contexts()
        (group,) = report.content.get_image_measurement_groups()
        said[observer.observer_identifying_attributes.serial_number] = len(group.source_images)
    assert said == {f"sha256:{VERSION.hash}": 1, f"sha256:{newer.hash}": 1}


@pytest.mark.parametrize(
    ("rules", "elements", "said"),
    [
        (RULES, {"Modality": "MR"}, "left alone, no rule matches (Modality MR, BodyPartExamined absent, ViewPosition"),
        (f"- {{model: none, match: {{Modality: CT}}}}\n{RULES}", {}, "left alone, as its rule says (Modality CT"),
        (RULES, {"Manufacturer": "softfree"}, None),  # results of softfree that come back
    ],
)
def test_what_no_rule_wants_is_left_alone(
    rules: str, elements: dict[str, str], said: str | None, service: FixedService, ct: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    options = options_of(tmp_path, 1, rules)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 2, **elements))
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.DEBUG, "softfree"):
        asyncio.run(scenario())
    assert service.asked == []
    assert said is None or said in caplog.text
    assert not [secret for secret in SECRETS if secret in caplog.text]


def test_unreadable_pixels_give_a_reason_and_no_report(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = options_of(tmp_path, archive.port)
    service.row = ROW | {"status": "corrupt", "reason": "image 1: damaged DICOM pixel data", "predicted": ""}

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: clean(options, service))

    asyncio.run(scenario())
    assert archive.received == []
    assert "no result of chest for 1 file(s): damaged DICOM pixel data" in caplog.text


def test_full_queue_is_asked_again(service: FixedService, archive: Archive, ct: Path, tmp_path: Path) -> None:
    service.fail = Busy("the queue is full", retry_after=0)

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port), service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: archive.received)

    asyncio.run(scenario())
    assert len(service.asked) == 1


def test_unreachable_archive_gets_its_results_later(
    service: FixedService, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one line when it goes, one when it is back, and no result lost or sent twice by a restart."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 0.05)
    closed = Archive()
    closed.close()
    options = options_of(tmp_path, closed.port)
    archives: list[Archive] = []

    async def scenario() -> None:
        waiting = options.dicom_folder / "outbox" / "waiting"
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: "cannot be reached" in caplog.text)
            await asyncio.sleep(0.4)
            assert len(list(waiting.iterdir())) == 1
        archives.append(Archive())
        options.dicom_send = f"PACS@127.0.0.1:{archives[0].port}"
        async with running(options, service):
            await until(lambda: archives[0].received)
            await until(lambda: clean(options, service))

    asyncio.run(scenario())
    archives[0].close()
    assert len(archives[0].received) == 1
    assert caplog.text.count("cannot be reached") == 1
    assert "results wait on disk" in caplog.text


@pytest.mark.parametrize(
    ("title", "status", "said", "kept"),
    [
        ("OTHER", 0, "it rejects the association: it is not called OTHER; correct --dicom-send", "waiting"),
        ("PACS", 0xA700, "out of resources, status A700", "waiting"),
        ("PACS", 0xC000, "status C000 for Comprehensive SR Storage; it is kept in", "refused"),
    ],
)
def test_archive_that_refuses(
    title: str, status: int, said: str, kept: str, service: FixedService, archive: Archive, ct: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    archive.status = status
    options = options_of(tmp_path, archive.port, title=title)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: said in caplog.text)

    asyncio.run(scenario())
    (result,) = (options.dicom_folder / "outbox" / kept).iterdir()
    assert [path.name for path in result.iterdir()] == ["report.dcm"]


def test_killed_server_takes_up_what_it_received(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A series that was still arriving, and one whose job was running: the job is not given again."""
    options = options_of(tmp_path, archive.port)
    answered = service.wait

    async def never(job_id: str, seconds: float | None = None) -> Any:
        await asyncio.sleep(60)

    async def scenario() -> None:
        monkeypatch.setattr(service, "wait", never)
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: service.asked)
            options.quiet = 60
            await asyncio.to_thread(send, hospital, copies(ct, 1, SeriesInstanceUID="1.2.3"))
        options.quiet = 0.3
        monkeypatch.setattr(service, "wait", answered)
        async with running(options, service):
            await until(lambda: len(archive.received) == 2)

    asyncio.run(scenario())
    assert len(service.asked) == 2


def test_node_checks_who_calls_and_what_comes(service: FixedService, ct: Path, tmp_path: Path) -> None:
    options = options_of(tmp_path, 1, dicom_from=["SCANNER"], max_upload=0.02)
    (good,) = copies(ct, 1)
    large, nameless = copies(ct, 1)[0], copies(ct, 1)[0]
    large.PixelData = bytes(100_000)
    del nameless.SeriesInstanceUID

    async def scenario() -> None:
        async with running(options_of(tmp_path, 1, dicom_from=["SCANNER"]), service) as hospital:
            assert await asyncio.to_thread(send, hospital, [good], title="OTHER") == []
            assert await asyncio.to_thread(send, hospital, [good], caller="STRANGER") == []
            assert await asyncio.to_thread(send, hospital, [nameless]) == [0xC000]
            assert await asyncio.to_thread(send, hospital, [good]) == [0]
            assert await asyncio.to_thread(echo, hospital) == 0
        async with running(options, service) as hospital:
            with pytest.raises(AttributeError):  # aborted: no status
                await asyncio.to_thread(send, hospital, [large])

    asyncio.run(scenario())


def echo(hospital: Hospital) -> int:
    node = AE("SCANNER")
    node.add_requested_context(Verification)
    assert hospital.port is not None
    association = node.associate("127.0.0.1", hospital.port, ae_title="SOFTFREE")
    status = int(association.send_c_echo().Status)
    association.release()
    return status


def test_compressed_images_are_taken_as_they_are(
    service: FixedService, archive: Archive, shared_data: Path, tmp_path: Path
) -> None:
    source = dcmread(shared_data / "dicom" / "pydicom" / "MR_small_jp2klossless.dcm")
    kept: list[Path] = []

    async def scenario() -> None:
        options = options_of(tmp_path, archive.port, "- {model: chest, match: {Modality: MR}}")
        options.quiet = 60
        async with running(options, service) as hospital:
            assert source.file_meta.TransferSyntaxUID in ALL_TRANSFER_SYNTAXES
            assert await asyncio.to_thread(send, hospital, [source]) == [0]
            kept.extend((options.dicom_folder / "receiving").rglob("*.dcm"))
            assert dcmread(kept[0]).PixelData == source.PixelData
            assert dcmread(kept[0]).file_meta.TransferSyntaxUID == source.file_meta.TransferSyntaxUID

    asyncio.run(scenario())
    assert len(kept) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"route": None}, "need --route FILE"),
        ({"dicom_send": None}, "--dicom-port needs a receiver of results"),
        ({"dicom_send": "PACS"}, "--dicom-send 'PACS': expected TITLE@HOST:PORT, such as"),
        ({"dicom_send": "PACS@host:99999"}, "expected TITLE@HOST:PORT"),
        ({"dicom_aet": "A" * 17}, "--dicom-aet 'AAAAAAAAAAAAAAAAA': expected an AE title of 1 to 16"),
        ({"dicom_aet": "A\\B"}, "--dicom-aet"),
        ({"host": "0.0.0.0"}, "--dicom-port on 0.0.0.0 needs --dicom-from"),
        ({"quiet": 0.0}, "--quiet and --dicomweb-every: expected seconds above 0"),
        ({"dicomweb": "ftp://pacs"}, "--dicomweb: expected http://HOST/PATH"),
        ({"dicomweb": "https://me:secret@pacs/dicom-web"}, "--dicomweb: expected http://HOST/PATH"),
        ({"dicomweb": "https://pacs", "dicomweb_credentials": Path("none")}, "--dicomweb-credentials none cannot be"),
        ({"dicomweb": "https://pacs", "dicomweb_ca": Path("none")}, "--dicomweb-ca none: no such file"),
        ({"dicom_port": None}, "--route is for --dicom-port or --dicomweb"),
    ],
)
def test_options_that_cannot_be_used(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    options = options_of(tmp_path, 104)
    for name, value in change.items():
        setattr(options, name, value)
    with pytest.raises(UserError) as error:
        entrances(options)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)


def test_taken_port_and_folder_get_one_line(service: FixedService, archive: Archive, tmp_path: Path) -> None:
    first, second = options_of(tmp_path / "a", 1), options_of(tmp_path / "b", 1)

    async def refused(options: ServeOptions) -> str:
        with pytest.raises(UserError) as error:
            async with running(options, service):
                pass
        return str(error.value)

    async def scenario() -> None:
        async with running(first, service):
            second.dicom_folder = first.dicom_folder
            assert "is used by another server; give each its own" in await refused(second)
        second.dicom_folder = tmp_path / "c"
        second.dicom_port = archive.port
        assert f"--dicom-port {archive.port}: Address already in use; choose another port" in await refused(second)

    asyncio.run(scenario())


def test_peers_are_read() -> None:
    assert read_peer("PACS@10.0.0.5:104") == Peer("PACS", "10.0.0.5", 104)
    assert read_peer("MY PACS@[::1]:11112") == Peer("MY PACS", "::1", 11112)
