"""Options of the server."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class ListenOptions:
    """Who may connect.

    Attributes:
        host: Address to listen on; any but this machine's own needs --token-file or --trusted-header.
        port: Port to listen on; 0 for a free one, which is printed.
        token_file: File with a line 'NAME TOKEN' for each client; requests must carry one of the tokens.
        trusted_header: Header in which a proxy names the user that it has signed on, such as X-Forwarded-User.
        trusted_proxy: Addresses that the trusted header is accepted from.
        hostname: Further names by which browsers reach the server, besides its address and localhost.
        allow: Folders whose files may be predicted by their path; without any, files must be uploaded.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    token_file: Path | None = None
    trusted_header: str | None = None
    trusted_proxy: list[str] = field(default_factory=lambda: ["127.0.0.1", "::1"])
    hostname: list[str] = field(default_factory=list)
    allow: list[Path] = field(default_factory=list)


@dataclass(kw_only=True)
class StoreOptions:
    """What is kept.

    Attributes:
        store: SQLite file for jobs and the audit log, or postgresql://... that several servers may share.
        spool: Folder of the uploaded files until they are answered, which servers with one store must share; default:
            the folder spool beside the SQLite file.
        keep: Keep uploaded files in the spool after the answer.
        keep_names: Store the names of uploaded files with jobs; they may name patients.
        hold: Minutes that the page and finished jobs may still show an upload and its maps.
    """

    store: str = "softfree-serve/store.sqlite"
    spool: Path | None = None
    keep: bool = False
    keep_names: bool = False
    hold: float = 15.0


@dataclass(kw_only=True)
class LimitOptions:
    """Work and its limits.

    Attributes:
        workers: Number of processes that read files and run models; default: one for each GPU, or without one for
            each processor.
        threads: Threads of each worker.
        max_batch: Maximum number of samples that a worker takes at once.
        queue: Number of samples that may wait; further requests are answered with status 503.
        max_upload: Largest request in MiB.
        max_pixels: Largest image or volume in pixels, checked before it is decoded; slides are read in parts.
        memory_limit: Memory of each worker in GiB; default: an equal part of what is free at the start.
        time_limit: Seconds that a request may wait and take before it is answered with status 504.
        job_time_limit: Seconds that a sample of a job may take.
    """

    workers: int | None = None
    threads: int = 1
    max_batch: int = 16
    queue: int = 32
    max_upload: float = 2048.0
    max_pixels: int = 1 << 28
    memory_limit: float | None = None
    time_limit: float = 60.0
    job_time_limit: float = 3600.0


@dataclass(kw_only=True)
class ReadingOptions:
    """Maps and the reading room.

    Attributes:
        maps: Runs that exported models came from, which make their maps.
        cases: Table that the run or study was trained on: opens the reading room with its test and out-of-fold cases.
        blinded: In the reading room, hide the model and the label until the reader has decided.
    """

    maps: list[Path] = field(default_factory=list)
    cases: Path | None = None
    blinded: bool = False


@dataclass(kw_only=True)
class HospitalOptions:
    """DICOM in a hospital.

    Attributes:
        route: YAML file with rules that say which series go to which model; needed for --dicom-port and --dicomweb.
        dicom_port: Port of a DICOM node that takes images by C-STORE.
        dicom_aet: AE title of the node.
        dicom_from: AE titles that may connect; any if empty, which only an address of this machine itself allows.
        dicom_send: DICOM node that results are sent to, as TITLE@HOST:PORT; default: the DICOMweb server.
        dicom_cert: Certificate of the node, PEM: it speaks TLS then. It is shown to the receiver of results, too, if
            that asks for one.
        dicom_key: Key of the certificate, PEM without a password; default: in the file of the certificate.
        dicom_client_ca: Certificates that those of senders must be signed by, PEM; default: senders need none.
        dicom_send_tls: Send results by TLS.
        dicom_send_ca: Certificates that the receiver's must be signed by, PEM; default: those of the system.
        dicomweb: Address of a DICOMweb server, above /studies: its new series are fetched, and get their results.
        dicomweb_credentials: File with one line, 'Bearer TOKEN' or 'USER:PASSWORD'.
        dicomweb_ca: File with the certificates that the DICOMweb server's own is signed by, PEM.
        dicomweb_days: Days back, by the date of the study, in which series are looked for; 0 for all.
        dicomweb_every: Seconds between two looks.
        dicom_maps: How maps are sent: 'capture' (an image with the map over it), 'parametric' (its values, as a
            parametric map in the space of the source) or 'both'; default: capture, and both for slides.
        quiet: Seconds without a new image after which a series counts as complete.
        dicom_folder: Folder for series that wait for their answer and results that wait to be sent; one for each
            server.
    """

    route: Path | None = None
    dicom_port: int | None = None
    dicom_aet: str = "SOFTFREE"
    dicom_from: list[str] = field(default_factory=list)
    dicom_send: str | None = None
    dicom_cert: Path | None = None
    dicom_key: Path | None = None
    dicom_client_ca: Path | None = None
    dicom_send_tls: bool = False
    dicom_send_ca: Path | None = None
    dicomweb: str | None = None
    dicomweb_credentials: Path | None = None
    dicomweb_ca: Path | None = None
    dicomweb_days: int = 2
    dicomweb_every: float = 10.0
    dicom_maps: Literal["capture", "parametric", "both"] | None = None
    quiet: float = 10.0
    dicom_folder: Path = Path("softfree-serve/dicom")


@dataclass(kw_only=True)
class ServeOptions(ListenOptions, LimitOptions, StoreOptions, ReadingOptions, HospitalOptions):
    """The options of ``softfree serve``."""
