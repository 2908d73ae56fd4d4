"""Real models and real files: a slide through Orthanc, and a case of two series of volumes."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from dicomweb_client import DICOMwebClient
from pydicom import dcmread
from pydicom.dataset import Dataset
from tests.serving.hospital.support import Archive, Orthanc, free_port, label_beside, pyramid, until
from tests.serving.hospital.test_gateway import copies
from tests.serving.hospital.test_parametric import mapping, matrix_of
from tests.serving.hospital.test_results import errors_of
from tests.serving.hospital.test_service import measured, options_of, send, send_to_orthanc
from tests.serving.inline import serving
from tests.training.test_studies_of_series import table_of, write_study

from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions

if TYPE_CHECKING:
    from softfree.inference.run import Run

pytestmark = pytest.mark.slow


def results(orthanc: Orthanc) -> dict[str, Dataset]:
    """Return what has been added, by the kind of file."""
    each = [dcmread(io.BytesIO(orthanc.file(entry["ID"]))) for entry in orthanc.get("/instances?expand")]
    return {dataset.SOPClassUID.name: dataset for dataset in each if dataset.get("Manufacturer") == "softfree"}


def test_slide_through_orthanc(
    write_run: Callable[..., Run], orthanc: Orthanc, shared_data: Path, tmp_path: Path
) -> None:
    """Label and levels in, from Orthanc; report, overview and values into its study, and frames out of it again."""
    from softfree.data.modalities.slide import SlidePreprocessing

    run = write_run(tmp_path / "run", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(32.0))
    levels = pyramid(shared_data / "wsi" / "cptac-brca_15BR001_level.dcm", tmp_path / "slide", (2, 4))
    predicted = run.predict([str(levels[0])]).iloc[0]
    (explained,) = explain(run, [str(levels[0])], ExplainOptions(out=tmp_path / "maps", progress=False))
    rules = "- {model: small, match: {Modality: SM}, explain: true}"
    (tmp_path / "rules.yaml").write_text(rules)
    options: dict[str, Any] = {
        "route": tmp_path / "rules.yaml", "dicom_port": free_port(), "dicom_folder": tmp_path / "dicom", "quiet": 1.0,
        "dicom_send": f"{orthanc.title}@127.0.0.1:{orthanc.dicom_port}",
    }  # fmt: skip

    async def steps() -> dict[str, Dataset]:
        async with serving(tmp_path / "run", tmp_path, **options):
            await asyncio.to_thread(send_to_orthanc, orthanc, [label_beside(levels[0]), *levels])
            (series,) = orthanc.get("/series")
            await asyncio.to_thread(orthanc.forward, series, "SOFTFREE", options["dicom_port"])
            await until(lambda: len(results(orthanc)) == 3, 120)
        return results(orthanc)

    made = asyncio.run(steps())
    report, values = made["Comprehensive SR Storage"], made["Parametric Map Storage"]
    (numbers,) = measured(report)
    for name in run.task.classes:
        assert numbers[f"Probability of {name}"] == pytest.approx(predicted[f"p_{name}"], abs=1e-6)
    (image,) = explained.images
    grid, map_ = image.token_grid, image.maps[0]
    real = matrix_of(values)
    assert real.shape == (386, 420)  # the coarsest level: its pixels are smaller than tokens
    scale = [whole / side for whole, side in zip(grid.shape, real.shape, strict=True)]
    step, seen = float(np.abs(map_.values).max()) / 32767, 0
    for number, expected in np.ndenumerate(map_.values):
        edges = [(grid.edges(axis, at), grid.edges(axis, at + 1)) for axis, at in enumerate(number)]
        if min(high - low for low, high in edges) > 8:  # not those that the edge of the slide cuts
            row, column = (int((low + high) / 2 / by) for (low, high), by in zip(edges, scale, strict=True))
            assert real[row, column] == pytest.approx(float(expected), abs=step)
            seen += 1
    assert seen > 500
    assert mapping(values).LUTExplanation.startswith(map_.method)
    client = DICOMwebClient(orthanc.web)
    uids = values.StudyInstanceUID, values.SeriesInstanceUID, values.SOPInstanceUID
    as_slim_asks = (("application/octet-stream", "*"),)
    (frame,) = client.retrieve_instance_frames(*uids, [1], media_types=as_slim_asks)
    assert np.array_equal(np.frombuffer(frame, "<u2").reshape(values.Rows, values.Columns), values.pixel_array[0])
    (study,) = orthanc.get("/studies")
    assert len(orthanc.get(f"/studies/{study}/series")) == 4
    for name, dataset in made.items():
        path = tmp_path / f"{name.split()[0]}-report.dcm" if "SR" in name else tmp_path / f"{name.split()[0]}.dcm"
        dataset.save_as(path)
        assert errors_of(path) - errors_of(levels[0]) == set()
    assert list((tmp_path / "spool").iterdir()) == []


def test_case_of_two_series_of_volumes(
    write_run: Callable[..., Run], archive: Archive, shared_data: Path, tmp_path: Path
) -> None:
    """The row of ``softfree predict``, one report, and both maps of each series, which lie where it lies."""
    from softfree.data.modalities.case import CasePreprocessing
    from softfree.data.modalities.registry import preprocessing_to_config
    from softfree.data.modalities.volume import VolumePreprocessing

    volume = VolumePreprocessing.create("mr", (5, 64, 48))
    cases = CasePreprocessing(preprocessing_to_config(volume), [1, 5, 64, 48], ["T1 even", "T1 odd"])
    run = write_run(tmp_path / "run", "seqnorm_vit3d_nano", cases, patch_size=[1, 16, 16])
    write_study(shared_data / "dicom", tmp_path / "study", in_one_folder=True)
    table = table_of(tmp_path)
    table[table["view"] != "localizer"].to_csv(tmp_path / "table.csv", index=False)
    row = run.predict(str(tmp_path / "table.csv")).iloc[0]
    datasets = [dcmread(path) for path in sorted((tmp_path / "study").glob("*.dcm"))]
    rules = """
- model: small
  match: {Modality: MR}
  explain: true
  whole_study: true
  needs: all
  quiet: 3
  views: {T1 even: {SeriesDescription: T1 even}, T1 odd: {SeriesDescription: T1 odd}}
"""
    options = options_of(tmp_path, archive, rules) | {"dicom_maps": "both"}
    by_series: dict[str, list[Dataset]] = {}
    for dataset in datasets:
        by_series.setdefault(dataset.SeriesDescription, []).append(dataset)

    async def steps() -> None:
        async with serving(tmp_path / "run", tmp_path, **options):
            for each in by_series.values():
                await asyncio.to_thread(send, options["dicom_port"], each)
            await until(lambda: len(archive.received) == 5, 120)
            await until(lambda: not list((tmp_path / "dicom").rglob("*.dcm")))

    asyncio.run(steps())
    (report,) = [made for made in archive.received if made.Modality == "SR"]
    (numbers,) = measured(report)
    for name in run.task.classes:
        assert numbers[f"Probability of {name}"] == pytest.approx(row[f"p_{name}"], abs=1e-6)
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    used = {series.SeriesInstanceUID: len(series.ReferencedSOPSequence) for series in study.ReferencedSeriesSequence}
    assert used == {by_series[view][0].SeriesInstanceUID: 5 for view in ("T1 even", "T1 odd")}
    values = [made for made in archive.received if "Parametric" in made.SOPClassUID.name]
    positions = {
        tuple(float(x) for x in own.PlanePositionSequence[0].ImagePositionPatient)
        for made in values for own in made.PerFrameFunctionalGroupsSequence
    }  # fmt: skip
    assert len(positions) == 10
    captures = [made for made in archive.received if "Secondary" in made.SOPClassUID.name]
    assert len(captures) == 2
    assert all("of 5 from the feet" in made.DerivationDescription for made in captures)
    assert list((tmp_path / "spool").iterdir()) == []


def test_parametric_map_of_an_image_run(image_run: Run, archive: Archive, ct: Path, tmp_path: Path) -> None:
    """Pixel by pixel the values that ``softfree explain`` draws."""
    rules = "- {model: small, match: {Modality: CT}, explain: true}"
    options = options_of(tmp_path, archive, rules) | {"dicom_maps": "parametric"}
    (sent,) = copies(ct, 1)
    (explained,) = explain(image_run, [str(ct)], ExplainOptions(out=tmp_path / "maps", progress=False))
    (image,) = explained.images

    async def steps() -> None:
        async with serving(tmp_path / "image_run", tmp_path, **options):
            await asyncio.to_thread(send, options["dicom_port"], [sent])
            await until(lambda: len(archive.received) == 2, 60)

    asyncio.run(steps())
    (made,) = [made for made in archive.received if "Parametric" in made.SOPClassUID.name]
    np.testing.assert_allclose(made.pixel_array, image.token_grid.spread(image.maps[0].values), rtol=1e-4, atol=1e-6)
