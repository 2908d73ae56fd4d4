"""Cases over the series of a study: when a study is complete, which views it has, and one answer for all."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from highdicom.sr import ComprehensiveSR
from pydicom.dataset import Dataset
from tests.serving.hospital.support import Archive, FixedService, until
from tests.serving.hospital.test_gateway import SECRETS, clean, copies, options_of, running, send

from softfree.serving.hospital.dicomweb import Poller
from softfree.serving.hospital.incoming import Incoming, short
from softfree.serving.hospital.routes import Routes, Rule

RULE = """
- model: chest
  match: {Modality: CT}
  whole_study: true
  views: {R: {ImageLaterality: R}, L: {ImageLaterality: L, SeriesDescription: "*left*"}}
"""


@pytest.fixture
def images(ct: Path) -> list[Dataset]:
    """Two series of a study, of an image each: the right side, then the left."""
    made = copies(ct, 2)
    for image, side in zip(made, "RL", strict=True):
        image.ImageLaterality, image.SeriesInstanceUID = side, f"{image.SeriesInstanceUID}.{ord(side)}"
    made[1].SeriesDescription = "Left, again"
    return made


@pytest.fixture
def service(service: FixedService) -> FixedService:
    service.kind = "case"
    return service


def words_of(report: Dataset) -> str:
    groups: Any = ComprehensiveSR.from_dataset(report).content
    items = [item for group in groups.get_image_measurement_groups() for item in group[0].ContentSequence]
    return "\n".join(item.TextValue for item in items if "TextValue" in item)


def test_series_of_a_study_are_one_case(
    images: list[Dataset], service: FixedService, archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One answer, with one report that refers to both series; a third that no rule matches is left alone."""
    (other,) = copies(Path(images[0].filename), 1, Modality="OT", SeriesInstanceUID="1.2.3", SOPInstanceUID="1.2.4")
    options = options_of(tmp_path, archive.port, f"{RULE}  quiet: 3\n")

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, [images[1], other])
            await asyncio.to_thread(send, hospital, images[:1])
            await until(lambda: archive.received)
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.INFO, "softfree"):
        asyncio.run(scenario())
    ((sample,),) = service.asked
    assert (sample.case, sample.views, len(sample.paths)) == (True, ("L", "R"), 2)
    (report,) = archive.received
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    assert study.StudyInstanceUID == images[0].StudyInstanceUID
    used = {series.SeriesInstanceUID: [item.ReferencedSOPInstanceUID for item in series.ReferencedSOPSequence]
            for series in study.ReferencedSeriesSequence}  # fmt: skip
    assert used == {image.SeriesInstanceUID: [image.SOPInstanceUID] for image in images}
    (group,) = ComprehensiveSR.from_dataset(report).content.get_image_measurement_groups()
    referenced = [image.referenced_sop_instance_uid for image in group.source_images]
    assert referenced == [images[1].SOPInstanceUID, images[0].SOPInstanceUID]
    assert "were not there" not in words_of(report)
    assert "(2 files of 2 series): 1 of 1 samples reported by chest" in caplog.text
    assert "left alone, no rule matches (Modality OT" in caplog.text
    assert not [secret for secret in SECRETS if secret in caplog.text]


@pytest.mark.parametrize(
    ("needs", "said"),
    [("needs: [R]", None), ("needs: all", "left alone by chest, which needs L"), ("needs: L", "which needs L")],
)
def test_missing_views(
    needs: str, said: str | None, images: list[Dataset], service: FixedService, archive: Archive, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """What the rule does not need may be missing, which the report says."""
    options = options_of(tmp_path, archive.port, f"{RULE}  {needs}\n")

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, images[:1])
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.INFO, "softfree"):
        asyncio.run(scenario())
    if said is not None:
        assert service.asked == []
        assert said in caplog.text
        return
    assert [sample.views for sample in service.asked[0]] == [("R",)]
    assert "The model has answered without views that were not there: L." in words_of(archive.received[0])


def test_images_that_cannot_be_read_are_named_in_the_report(
    images: list[Dataset], service: FixedService, archive: Archive, tmp_path: Path
) -> None:
    service.row["reason"] = "the case: 1 of 2 images of the case cannot be read: damaged DICOM pixel data"

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port, RULE), service) as hospital:
            await asyncio.to_thread(send, hospital, images)
            await until(lambda: archive.received)

    asyncio.run(scenario())
    said = "The model has answered without some images: 1 of 2 images of the case cannot be read: damaged DICOM"
    assert said in words_of(archive.received[0])


def test_killed_server_takes_up_a_study(
    images: list[Dataset], service: FixedService, archive: Archive, tmp_path: Path
) -> None:
    """What came before a restart and what comes after it is one case."""
    options = options_of(tmp_path, archive.port, f"{RULE}  quiet: 60\n")

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, images[:1])
        (tmp_path / "rules.yaml").write_text(f"{RULE}  quiet: 3\n")
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, images[1:])
            await until(lambda: archive.received)

    asyncio.run(scenario())
    assert [[sample.views for sample in samples] for samples in service.asked] == [[("L", "R")]]


def header(study: str, series: str, modality: str, instance: str = "1") -> Dataset:
    made = Dataset()
    made.StudyInstanceUID, made.SeriesInstanceUID, made.SOPInstanceUID = study, series, f"{series}.{instance}"
    made.Modality = modality
    return made


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("softfree.serving.hospital.incoming.time.monotonic", lambda: now[0])
    return now


def add(incoming: Incoming, made: Dataset) -> None:
    path = incoming.part()
    path.write_bytes(b"pixels")
    incoming.add(path, made)


def collecting(quiet: float | None = None) -> Routes:
    return Routes((Rule(("chest",), {"Modality": ("MG",)}, whole_study=True, quiet=quiet),))


def test_study_is_complete_when_none_of_its_series_grows(clock: list[float], tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, 10, collecting(30))
    add(incoming, header("1.1", "1.1.1", "MG"))
    clock[0] += 20
    add(incoming, header("1.1", "1.1.2", "MR"))  # of the same study, and not of the case
    add(incoming, header("1.2", "1.2.1", "MG"))
    clock[0] += 11
    (series,) = incoming.claim()
    assert len(list(series.iterdir())) == 1
    add(incoming, header("1.1", "1.1.3", "MG"))
    clock[0] += 20
    assert [len(list(case.iterdir())) for case in incoming.claim()] == [1]  # that of the other study
    clock[0] += 11
    assert [len(list(case.iterdir())) for case in incoming.claim()] == [2]


def test_study_waits_for_what_is_known_to_come(clock: list[float], tmp_path: Path) -> None:
    incoming = Incoming(tmp_path, 10, collecting())
    add(incoming, header("1.1", "1.1.1", "MG"))
    incoming.expected = frozenset({short("1.1")})
    clock[0] += 100
    assert incoming.claim() == []
    incoming.expected = frozenset()
    assert len(incoming.claim()) == 1


class Web:
    """A DICOMweb server with two series of a study, of which the second still grows."""

    def __init__(self) -> None:
        self.counts = {"1.1.1": 1, "1.1.2": 1}
        self.waiting: list[frozenset[str]] = []

    def series(self, modality: str | None, days: int) -> list[dict[str, Any]]:
        return [{"0020000D": {"Value": ["1.1"]}, "0020000E": {"Value": [name]}, "00201209": {"Value": [count]}}
                for name, count in self.counts.items()]  # fmt: skip

    def fetch(self, study: str, series: str, incoming: Incoming) -> int:
        self.waiting.append(incoming.expected)
        for number in range(self.counts[series]):
            add(incoming, header(study, series, "MG", str(number)))
        return self.counts[series]


def test_series_that_are_seen_belong_to_the_case(
    clock: list[float], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the rest takes to come, or to be fetched."""
    incoming, web = Incoming(tmp_path / "in", 1, collecting()), Web()
    poller = Poller(web, incoming, tmp_path / "state", ["MG"], 0, 5)  # type: ignore[arg-type]
    poller.poll()
    clock[0] += 6
    web.counts["1.1.2"] = 2
    assert poller.poll() == 1
    clock[0] += 4
    assert incoming.claim() == []
    clock[0] += 2
    assert poller.poll() == 1
    assert web.waiting == [frozenset({short("1.1")})] * 2
    clock[0] += 2
    (case,) = incoming.claim()
    assert len(list(case.iterdir())) == 3
