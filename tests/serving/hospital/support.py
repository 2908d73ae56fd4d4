"""A service that answers by a fixed row, a real Orthanc, and waiting."""

from __future__ import annotations

import asyncio
import copy
import json
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from secrets import token_hex
from ssl import SSLContext
from typing import Any

import numpy as np
import requests
from openslide import OpenSlide
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, AllStoragePresentationContexts, evt

from softfree.serving.errors import NotFound, Unreadable
from softfree.serving.options import ServeOptions
from softfree.serving.records import Answer, JobState, ModelVersion, RenderResult, RenderTask, Sample, ServedModel
from softfree.serving.spool import Spool
from softfree_runtime.core.errors import ReadError

ROW: dict[str, Any] = {
    "path": "image 1", "status": "ok", "reason": "", "p_NORMAL": 0.123456789012, "p_PNEUMONIA": 0.876543210988,
    "raw_NORMAL": 0.2, "raw_PNEUMONIA": 0.8, "predicted": "PNEUMONIA", "set": '["NORMAL", "PNEUMONIA"]',
    "abstain": True, "distance": 1.25, "unusual": True,
}  # fmt: skip
VERSION = ModelVersion("chest", "0.1.0", "ab" * 32)


@dataclass
class FixedService:
    """Answers each sample by the same row, and remembers what it was asked; like the real one it deletes the files."""

    spool: Spool
    row: dict[str, Any] = field(default_factory=lambda: dict(ROW))
    kind: str = "image"
    asked: list[list[Sample]] = field(default_factory=list)
    states: dict[str, JobState] = field(default_factory=dict)
    fail: Exception | None = None
    options: ServeOptions = field(default_factory=ServeOptions)
    arrays: dict[str, Any] = field(default_factory=dict)  # of the map as numbers, if there is one

    @property
    def models(self) -> dict[str, ServedModel]:
        model = ServedModel(VERSION, Path("chest.onnx"), "onnx", self.kind, "binary", ("NORMAL", "PNEUMONIA"), {}, True,
                            about={"coverage": 0.9, "views": ["L", "R"]})  # fmt: skip
        return {"chest": model}

    async def submit(
        self, model: str, samples: Sequence[Sample], *, explain: bool = False, who: str, entrance: str
    ) -> str:
        if self.fail is not None:
            error, self.fail = self.fail, None
            raise error
        self.asked.append(list(samples))
        drawn = ("map_0.png",) if self.kind in ("image", "case") else ()
        files = ("explained.json", *drawn, *(("map_0.npz",) if self.arrays else ())) if explain else ()
        for sample in samples:
            assert all(path.is_file() for path in sample.paths)
            if explain:
                maps = self.spool.maps_of(sample.paths)
                maps.mkdir()
                Image.new("RGB", (64, 48), (200, 30, 30)).save(maps / "map_0.png")
                told = {"method": "integrated", "description": "What each token adds.", "signed": True}
                (maps / "explained.json").write_text(json.dumps({"target": "ill", "maps": [told]}))
                np.savez(maps / "map_0.npz", **self.arrays)
            else:
                self.spool.remove(sample.paths)
        answers = tuple(Answer(dict(self.row), ["12-bit MONOCHROME2"], VERSION, 0.1, files) for _ in samples)
        job = token_hex(8)
        self.states[job] = JobState(job, VERSION, "done", len(answers), len(answers), answers)
        return job

    async def wait(self, job_id: str, seconds: float | None = None) -> JobState:
        if job_id not in self.states:
            raise NotFound("no such job")
        return self.states[job_id]

    async def render(self, task: RenderTask, limit: float | None = None) -> RenderResult:
        module, _, name = task.function.partition(":")
        try:
            drawn: RenderResult = getattr(import_module(module), name)(task.paths, **task.arguments)
        except ReadError as error:
            raise Unreadable(error.reason, status=error.status) from None
        return drawn

    async def files(self, job_id: str, number: int) -> Sample:
        return self.asked[list(self.states).index(job_id)][number]


@dataclass(frozen=True)
class Orthanc:
    """A running Orthanc with its DICOMweb plugin."""

    http: str
    dicom_port: int
    title: str = "ORTHANC"

    @property
    def web(self) -> str:
        return f"{self.http}/dicom-web"

    def get(self, path: str) -> Any:
        answer = requests.get(f"{self.http}{path}", timeout=10)
        answer.raise_for_status()
        return answer.json()

    def file(self, instance: str) -> bytes:
        return bytes(requests.get(f"{self.http}/instances/{instance}/file", timeout=10).content)

    def forward(self, series: str, title: str, port: int, **more: object) -> None:
        """Let Orthanc send a series to a node, as a rule of an archive would."""
        peer = {"AET": title, "Host": "127.0.0.1", "Port": port} | more
        requests.put(f"{self.http}/modalities/node", json=peer, timeout=10).raise_for_status()
        requests.post(f"{self.http}/modalities/node/store", data=series, timeout=60).raise_for_status()

    def clear(self) -> None:
        for study in self.get("/studies"):
            requests.delete(f"{self.http}/studies/{study}", timeout=10)

    def answers(self) -> bool:
        try:
            return bool(requests.get(f"{self.web}/studies", timeout=2).status_code == 200)
        except requests.RequestException:
            return False


class Archive:
    """A receiver of results: a real node in this process."""

    def __init__(self, status: int = 0, title: str = "PACS", tls: SSLContext | None = None) -> None:
        self.received: list[Dataset] = []
        self.status = status
        node = AE(title)
        node.require_called_aet = True
        node.supported_contexts = AllStoragePresentationContexts
        self._server: Any = node.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)], ssl_context=tls
        )
        self.port = int(self._server.server_address[1])

    def _store(self, event: Any) -> int:
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.received.append(dataset)
        return self.status

    def close(self) -> None:
        self._server.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def until(done: Callable[[], Any], seconds: float = 30.0) -> Any:
    """Return the first true result of a function; fails after some seconds."""
    end = time.monotonic() + seconds
    while not (result := await asyncio.to_thread(done)):
        assert time.monotonic() < end, "nothing came"
        await asyncio.sleep(0.05)
    return result


def pyramid(slide: Path, folder: Path, factors: Sequence[int]) -> list[Path]:
    """Write a DICOM slide of one level with coarser ones, all in one series; returns their files, the finest first."""
    folder.mkdir(exist_ok=True)
    base = dcmread(slide)
    base.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    base.save_as(folder / "level-1.dcm")
    written = [folder / "level-1.dcm"]
    with OpenSlide(str(slide)) as opened:
        whole = opened.read_region((0, 0), 0, opened.dimensions).convert("RGB")
    for factor in factors:
        size = (whole.width // factor, whole.height // factor)
        written.append(_level(base, np.asarray(whole.resize(size)), factor, folder / f"level-{factor}.dcm"))
    return written


def label_beside(level: Path) -> Path:
    """Write an image of the label of a slide, which says whose it is, into the same series."""
    made = dcmread(level)
    made.ImageType = ["ORIGINAL", "PRIMARY", "LABEL", "NONE"]
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{made.SOPInstanceUID}.99"
    made.InstanceNumber = 0
    made.save_as(level.with_name("label.dcm"))
    return level.with_name("label.dcm")


def _level(base: Dataset, pixels: np.ndarray, factor: int, path: Path) -> Path:
    side, (rows, columns) = base.Rows, pixels.shape[:2]
    padded = np.pad(pixels, ((0, -rows % side), (0, -columns % side), (0, 0)))
    tiles = [padded[top : top + side, left : left + side]
             for top in range(0, rows, side) for left in range(0, columns, side)]  # fmt: skip
    made = copy.deepcopy(base)
    made.ImageType = ["DERIVED", "PRIMARY", "VOLUME", "RESAMPLED"]
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = f"{base.SOPInstanceUID}.{factor}"
    made.InstanceNumber, made.NumberOfFrames = factor, len(tiles)
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = rows, columns
    measures = made.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    measures.PixelSpacing = [round(float(x) * factor, 12) for x in measures.PixelSpacing]  # 16 characters at most
    made.PixelData = np.stack(tiles).tobytes()
    made["PixelData"].is_undefined_length = False
    made["PixelData"].VR = "OB"
    made.save_as(path, enforce_file_format=True)
    return path


def level_of(path: Path) -> tuple[int, int]:
    """Return the rows and columns of a level of a slide."""
    header = dcmread(path, stop_before_pixels=True)
    return header.TotalPixelMatrixRows, header.TotalPixelMatrixColumns
