"""DICOM over TLS: images in, results out, and one line for what is wrong."""

from __future__ import annotations

import asyncio
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("highdicom")
pytest.importorskip("pynetdicom")
pytest.importorskip("dicomweb_client")

from pydicom.dataset import Dataset
from pynetdicom import AE
from tests.serving.hospital.certificates import Authority, Signed, encrypted
from tests.serving.hospital.conftest import started_orthanc
from tests.serving.hospital.support import Archive, FixedService, Orthanc, until
from tests.serving.hospital.test_gateway import RULES, copies, options_of, running
from tests.serving.hospital.test_service import send_to_orthanc

from softfree.serving.hospital import entrances, outbox
from softfree.serving.hospital.entrance import Hospital
from softfree.serving.options import ServeOptions
from softfree_runtime.core.errors import UserError


@dataclass(frozen=True)
class Hall:
    """Everybody's certificates."""

    authority: Authority
    stranger: Authority
    node: Signed
    archive: Signed
    elsewhere: Signed
    scanner: Signed
    unknown: Signed


@pytest.fixture(scope="module")
def hall(tmp_path_factory: pytest.TempPathFactory) -> Hall:
    folder = tmp_path_factory.mktemp("certificates")
    own, other = Authority(folder), Authority(folder, "stranger")
    return Hall(own, other, own.sign("node"), own.sign("archive"), own.sign("elsewhere", "127.0.0.9"),
                own.sign("scanner"), other.sign("unknown"))  # fmt: skip


def send(hospital: Hospital, datasets: list[Dataset], tls: ssl.SSLContext | None) -> list[int]:
    """Send by C-STORE; returns the statuses, or [] without an association."""
    node = AE("SCANNER")
    node.connection_timeout = node.acse_timeout = 5
    node.add_requested_context(datasets[0].SOPClassUID, datasets[0].file_meta.TransferSyntaxUID)
    assert hospital.port is not None
    how: Any = None if tls is None else (tls, "127.0.0.1")
    association = node.associate("127.0.0.1", hospital.port, ae_title="SOFTFREE", tls_args=how)
    if not association.is_established:
        return []
    try:
        return [association.send_c_store(dataset).Status for dataset in datasets]
    finally:
        association.release()


def secured(hall: Hall, folder: Path, port: int, **more: Any) -> ServeOptions:
    return options_of(folder, port, dicom_cert=hall.node.certificate, dicom_key=hall.node.key, **more)


def test_images_in_and_results_out(
    hall: Hall, service: FixedService, ct: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Both sides show and want certificates; whoever has none, or another authority's, gets no association."""
    archive = Archive(tls=hall.archive.server(hall.authority.path))
    options = secured(hall, tmp_path, archive.port, dicom_client_ca=hall.authority.path, dicom_send_tls=True,
                      dicom_send_ca=hall.authority.path)  # fmt: skip
    (image,) = copies(ct, 1)

    async def scenario() -> None:
        async with running(options, service) as hospital:
            without = ssl.create_default_context(cafile=str(hall.authority.path))
            for stranger, why in (
                (None, "it does not speak TLS"),
                (without, "it shows no certificate, which --dicom-client-ca demands"),
                (hall.unknown.client(hall.authority.path), "its certificate is not trusted (unable to get local"),
            ):
                assert await asyncio.to_thread(send, hospital, [image], stranger) == []
                await until(lambda why=why: f"a connection to the DICOM node was refused: {why}" in caplog.text)
            assert service.asked == []
            known = hall.scanner.client(hall.authority.path)
            assert await asyncio.to_thread(send, hospital, [image], known) == [0]
            await until(lambda: archive.received)

    asyncio.run(scenario())
    archive.close()
    assert [result.Modality for result in archive.received] == ["SR"]
    assert archive.received[0].StudyInstanceUID == image.StudyInstanceUID


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # pynetdicom's, of such clients
def test_silent_clients_keep_nobody_waiting(
    hall: Hall, service: FixedService, archive: Archive, ct: Path, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with running(secured(hall, tmp_path, archive.port), service) as hospital:
            assert hospital.port is not None
            with socket.create_connection(("127.0.0.1", hospital.port)):
                known = ssl.create_default_context(cafile=str(hall.authority.path))
                assert await asyncio.to_thread(send, hospital, copies(ct, 1), known) == [0]
                await until(lambda: archive.received)

    asyncio.run(scenario())


def slow(*values: str) -> Any:
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("receiver", "said"),
    [
        ("unknown", "its certificate is not trusted: unable to get local issuer certificate; check --dicom-send-ca"),
        slow("elsewhere", "its certificate is not trusted: IP address mismatch"),
        slow("plain", "it does not speak TLS on this port; leave out --dicom-send-tls"),
        slow("strict", "it does not accept our certificate, or wants one; check --dicom-cert there and here"),
    ],
)
def test_receivers_that_are_not_trusted(
    receiver: str, said: str, hall: Hall, service: FixedService, ct: Path, tmp_path: Path,
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Results wait on disk, and one line says why."""
    monkeypatch.setattr(outbox, "FIRST_PAUSE", 60.0)
    tls = {
        "plain": None,
        "strict": hall.archive.server(hall.stranger.path),
        "unknown": hall.unknown.server(),
        "elsewhere": hall.elsewhere.server(),
    }[receiver]
    archive = Archive(tls=tls)
    options = secured(hall, tmp_path, archive.port, dicom_send_tls=True, dicom_send_ca=hall.authority.path)
    known = ssl.create_default_context(cafile=str(hall.authority.path))

    async def scenario() -> None:
        async with running(options, service) as hospital:
            assert await asyncio.to_thread(send, hospital, copies(ct, 1), known) == [0]
            await until(lambda: said in caplog.text)

    asyncio.run(scenario())
    archive.close()
    assert archive.received == []
    assert len(list((options.dicom_folder / "outbox" / "waiting").iterdir())) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"cert": "absent.pem"}, "--dicom-cert absent.pem cannot be read: No such file or directory"),
        ({"cert": "rules.yaml"}, "--dicom-cert rules.yaml has no certificate; expected a PEM file with '-----BEGIN"),
        ({"cert": "node.pem"}, "--dicom-cert node.pem has no private key; expected a PEM file"),
        ({"cert": "node.pem", "key": "absent.key"}, "--dicom-key absent.key cannot be read"),
        ({"cert": "node.pem", "key": "scanner.key"}, "--dicom-key scanner.key do not belong together; give the key"),
        ({"cert": "node.pem", "key": "locked.key"}, "--dicom-key locked.key: the key has a password; take it off"),
        ({"cert": "broken.pem", "key": "node.key"}, "--dicom-cert broken.pem, or its key, cannot be used"),
        ({"cert": "node.pem", "key": "node.key", "client_ca": "node.key"}, "--dicom-client-ca node.key has no cert"),
        ({"key": "node.key"}, "--dicom-key is of no use without --dicom-cert; add it"),
        ({"client_ca": "authority.pem"}, "--dicom-client-ca is of no use without --dicom-cert"),
        ({"send_ca": "authority.pem"}, "--dicom-send-ca is of no use without --dicom-send-tls"),
    ],
)
def test_mistakes_get_one_line(
    given: dict[str, str], message: str, hall: Hall, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in hall.authority.path.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    encrypted(tmp_path / "node.key", tmp_path / "locked.key")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    (tmp_path / "rules.yaml").write_text(RULES)
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {f"dicom_{name}": Path(value) for name, value in given.items()}
    with pytest.raises(UserError) as error:
        entrances(ServeOptions(route=Path("rules.yaml"), dicom_port=0, dicom_send="PACS@127.0.0.1:1", **options))
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_certificate_and_key_in_one_file(hall: Hall, tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(hall.node.certificate.read_bytes() + hall.node.key.read_bytes())
    options = ServeOptions(route=tmp_path, dicom_port=0, dicom_send="PACS@127.0.0.1:1", host="10.0.0.7",
                           dicom_cert=both, dicom_client_ca=hall.authority.path)  # fmt: skip
    assert len(entrances(options)) == 1
    options.dicom_client_ca = None
    with pytest.raises(UserError, match="needs --dicom-from with the AE titles that may send, or --dicom-client-ca"):
        entrances(options)


@pytest.mark.slow
def test_orthanc_by_tls(hall: Hall, service: FixedService, ct: Path, tmp_path: Path) -> None:
    """There and back with certificates on both sides, by another implementation of TLS."""
    (tmp_path / "orthanc").mkdir()
    tls = {"DicomTlsEnabled": True, "DicomTlsCertificate": str(hall.archive.certificate),
           "DicomTlsPrivateKey": str(hall.archive.key),
           "DicomTlsTrustedCertificates": str(hall.authority.path)}  # fmt: skip
    (image,) = copies(ct, 1)

    async def scenario(orthanc: Orthanc) -> None:
        options = secured(hall, tmp_path, orthanc.dicom_port, title=orthanc.title, dicom_client_ca=hall.authority.path,
                          dicom_send_tls=True, dicom_send_ca=hall.authority.path)  # fmt: skip
        async with running(options, service) as hospital:
            await asyncio.to_thread(send_to_orthanc, orthanc, [ct])
            (series,) = orthanc.get("/series")
            assert hospital.port is not None
            await asyncio.to_thread(orthanc.forward, series, "SOFTFREE", hospital.port, UseDicomTls=True)
            await until(lambda: len(orthanc.get("/series")) == 2)

    with started_orthanc(tmp_path / "orthanc", **tls) as orthanc:
        asyncio.run(scenario(orthanc))
        (study,) = orthanc.get("/studies?expand")
        assert study["MainDicomTags"]["StudyInstanceUID"] == image.StudyInstanceUID
