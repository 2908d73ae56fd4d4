"""Slides of several files, and maps as captures, as parametric maps, or both."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from pydicom import dcmread
from pydicom.dataset import Dataset
from tests.serving.hospital.support import Archive, FixedService, label_beside, pyramid, until
from tests.serving.hospital.test_gateway import SECRETS, clean, copies, options_of, running, send

SLIDES = "- {model: none, match: {ImageType: DERIVED}}\n- {model: chest, match: {Modality: SM}, explain: true}"
IMAGES = "- {model: chest, match: {Modality: '*'}, explain: true}"


def arrays(values: np.ndarray, *shape: int) -> dict[str, Any]:
    """A map over a whole image."""
    step = [side / count for side, count in zip(shape, values.shape, strict=True)]
    visible = [(0.0, float(side)) for side in shape]
    return {"values_0": values, "start": (0.0, 0.0), "step": step, "visible": visible, "shape": shape}


@pytest.fixture
def slide(shared_data: Path, tmp_path: Path) -> list[Path]:
    """The files of a slide: its label, a coarser level, and the finest."""
    levels = pyramid(shared_data / "wsi" / "cptac-brca_15BR001_level.dcm", tmp_path / "slide", (2,))
    return [label_beside(levels[0]), *levels[::-1]]


def by_kind(received: list[Dataset]) -> dict[str, Dataset]:
    """Return the only report, capture and parametric map."""
    kinds = [result.SOPClassUID.name.split(" Storage")[0] for result in received]
    assert len(set(kinds)) == len(kinds)
    return dict(zip(kinds, received, strict=True))


def test_slide_is_one_sample_with_both_maps(
    slide: list[Path], service: FixedService, archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where its finest level goes; nobody sees its label."""
    service.kind = "slide"
    values = np.random.default_rng(0).normal(size=(20, 20))
    service.arrays = arrays(values, 1547, 1680)
    datasets = [dcmread(path) for path in slide]
    options = options_of(tmp_path, archive.port, SLIDES)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            assert await asyncio.to_thread(send, hospital, datasets) == [0, 0, 0]
            await until(lambda: len(archive.received) == 3)
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.DEBUG, "softfree"):
        asyncio.run(scenario())
    ((sample,),) = service.asked
    assert len(sample.paths) == 2
    _, coarse, fine = datasets
    results = by_kind(archive.received)
    assert set(results) == {"Comprehensive SR", "Secondary Capture Image", "Parametric Map"}
    (study,) = results["Comprehensive SR"].CurrentRequestedProcedureEvidenceSequence
    used = [item.ReferencedSOPInstanceUID for item in study.ReferencedSeriesSequence[0].ReferencedSOPSequence]
    assert used == [fine.SOPInstanceUID, coarse.SOPInstanceUID]
    parametric, capture = results["Parametric Map"], results["Secondary Capture Image"]
    assert (parametric.TotalPixelMatrixRows, parametric.TotalPixelMatrixColumns) == (773, 840)
    assert parametric.FrameOfReferenceUID == fine.FrameOfReferenceUID
    assert "Overview of the slide" in capture.DerivationDescription
    assert capture.Columns == 1680
    assert capture.pixel_array[:1547].std() > 10
    assert {result.StudyInstanceUID for result in archive.received} == {fine.StudyInstanceUID}
    assert {result.PatientID for result in archive.received} == {"15BR001"}
    assert "15BR001" not in caplog.text


@pytest.mark.parametrize(
    ("kept", "kind", "said"),
    [
        (slice(0, 1), "slide", "left alone, the label or overview of a slide"),
        (slice(0, 3), "image", "no result of chest: a slide, which it does not take"),
    ],
)
def test_slides_that_no_model_takes(
    kept: slice, kind: str, said: str, slide: list[Path], service: FixedService, tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    service.kind = kind
    options = options_of(tmp_path, 1, SLIDES)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            await asyncio.to_thread(send, hospital, [dcmread(path) for path in slide[kept]])
            await until(lambda: clean(options, service))

    with caplog.at_level(logging.INFO, "softfree"):
        asyncio.run(scenario())
    assert said in caplog.text
    assert service.asked == []


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (None, {"Comprehensive SR", "Secondary Capture Image"}),
        ("parametric", {"Comprehensive SR", "Parametric Map"}),
        ("both", {"Comprehensive SR", "Secondary Capture Image", "Parametric Map"}),
    ],
)
def test_maps_of_an_image(
    form: Any, expected: set[str], service: FixedService, archive: Archive, ct: Path, tmp_path: Path
) -> None:
    service.options.dicom_maps = form
    service.arrays = arrays(np.random.default_rng(0).normal(size=(8, 8)), 128, 128)

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port, IMAGES), service) as hospital:
            await asyncio.to_thread(send, hospital, copies(ct, 1))
            await until(lambda: len(archive.received) == len(expected))

    asyncio.run(scenario())
    results = by_kind(archive.received)
    assert set(results) == expected
    if "Parametric Map" in expected:
        values = np.kron(service.arrays["values_0"], np.ones((16, 16))).astype(np.float32)
        np.testing.assert_array_equal(results["Parametric Map"].pixel_array, values)


def test_image_without_a_place_gets_a_capture(
    service: FixedService, archive: Archive, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Most radiographs have no frame of reference; a line says that, and the map comes as it can."""
    service.options.dicom_maps = "parametric"
    service.arrays = arrays(np.ones((8, 8)), 128, 128)
    (image,) = copies(ct, 1)
    del image.FrameOfReferenceUID

    async def scenario() -> None:
        async with running(options_of(tmp_path, archive.port, IMAGES), service) as hospital:
            await asyncio.to_thread(send, hospital, [image])
            await until(lambda: len(archive.received) == 2)

    asyncio.run(scenario())
    assert set(by_kind(archive.received)) == {"Comprehensive SR", "Secondary Capture Image"}
    assert "no parametric map of chest: it has no position in space, as most radiographs" in caplog.text
    assert not [secret for secret in SECRETS if secret in caplog.text]
