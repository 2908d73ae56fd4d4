"""Fixtures: a service with fixed answers, and Orthanc from Debian's packages."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serving.hospital.support import Archive, FixedService, Orthanc

PLUGINS = [Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so"), Path("/usr/lib/orthanc/libOrthancDicomWeb.so")]


@pytest.fixture
def ct(shared_data: Path) -> Path:
    """A CT slice with a name and an id that must not get into a log."""
    return shared_data / "dicom" / "pydicom" / "CT_small.dcm"


@pytest.fixture
def service(tmp_path: Path) -> FixedService:
    from tests.serving.hospital.support import FixedService, Spool

    return FixedService(Spool(tmp_path / "spool"))


@contextmanager
def started_orthanc(folder: Path, **more: Any) -> Iterator[Orthanc]:
    """Start Orthanc with further settings; skips where it is not installed."""
    from tests.serving.hospital.support import Orthanc, free_port

    program, plugin = shutil.which("Orthanc"), next((path for path in PLUGINS if path.is_file()), None)
    if program is None or plugin is None:
        pytest.skip("Orthanc and its DICOMweb plugin are not installed: apt-get install orthanc orthanc-dicomweb")
    web_port = free_port()
    server = Orthanc(f"http://127.0.0.1:{web_port}", free_port())
    configuration = {
        "Name": "test",
        "StorageDirectory": str(folder / "storage"),
        "IndexDirectory": str(folder / "storage"),
        "Plugins": [str(plugin)],
        "HttpPort": web_port,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAet": server.title,
        "DicomCheckCalledAet": True,
        "DicomPort": server.dicom_port,
        "DicomAlwaysAllowStore": True,
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
    } | more
    (folder / "orthanc.json").write_text(json.dumps(configuration))
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([program, str(folder / "orthanc.json")], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while not server.answers():
            if process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"Orthanc did not start:\n{(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.2)
        yield server
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="session")
def running_orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with started_orthanc(tmp_path_factory.mktemp("orthanc")) as server:
        yield server


@pytest.fixture
def orthanc(running_orthanc: Orthanc) -> Orthanc:
    """Orthanc without studies."""
    running_orthanc.clear()
    return running_orthanc


@pytest.fixture
def archive() -> Iterator[Archive]:
    """A node that takes results."""
    from tests.serving.hospital.support import Archive

    made = Archive()
    yield made
    made.close()
