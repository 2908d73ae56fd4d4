"""DICOMweb: finds new series by QIDO-RS, fetches them by WADO-RS, and sends results by STOW-RS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from pydicom import dcmread

from softfree.data.dicomweb import DICOM, SERIES, STUDY, authorization_in, connect, status_of, value_of, why
from softfree.serving.hospital.incoming import Incoming, short
from softfree.serving.hospital.outbox import Refused, Unreachable
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically
from softfree_runtime.readers.quiet import quiet

_OF_A_WHILE = (408, 425, 429, 500, 502, 503, 504)
_INSTANCES = "00201209"  # Number of Series Related Instances
_CREDENTIALS = "--dicomweb-credentials"


class Archive:
    """A DICOMweb server."""

    def __init__(self, url: str, credentials: Path | None = None, authority: Path | None = None) -> None:
        """Configure; nothing is sent yet.

        Args:
            url: Its address, below which ``/studies`` lies.
            credentials: A file with one line, ``Bearer TOKEN`` or ``USER:PASSWORD``.
            authority: A file with the certificates (PEM) that its own is signed by; None for the public ones.

        Raises:
            UserError: The address or the file cannot be used.
        """
        if not url.startswith(("http://", "https://")) or "@" in url:
            raise UserError(
                "--dicomweb: expected http://HOST/PATH or https://HOST/PATH without user and password, which belong"
                " into --dicomweb-credentials FILE"
            )
        if authority is not None and not authority.is_file():
            raise UserError(f"--dicomweb-ca {authority}: no such file; expected certificates in PEM")
        authorization = None if credentials is None else authorization_in(credentials, _CREDENTIALS)
        self._client = connect(url, authorization, authority)

    def series(self, modality: str | None, days: int) -> list[dict[str, Any]]:
        """Return the series of recent studies, in DICOM JSON.

        Args:
            modality: Only of this modality; None for all.
            days: Days back by study date; 0 for all.

        Raises:
            Unreachable: No connection, or an answer that makes no sense.
        """
        filters = {} if modality is None else {"Modality": modality}
        if days:
            filters["StudyDate"] = f"{date.today() - timedelta(days):%Y%m%d}-"
        try:
            return self._client.search_for_series(
                search_filters=filters, fields=[_INSTANCES, STUDY], get_remaining=True
            )
        except Exception as error:  # requests' own, and almost any for an answer that is no DICOM JSON
            raise Unreachable(why(error, _CREDENTIALS)) from None

    def fetch(self, study: str, series: str, incoming: Incoming) -> int:
        """Fetch a series into ``incoming``, and return the number of its files.

        Raises:
            Unreachable: As :meth:`series`.
        """
        number = 0
        try:
            with quiet():
                for dataset in self._client.iter_series(study, series, media_types=DICOM):
                    path = incoming.part()
                    dataset.save_as(path, enforce_file_format=True)
                    incoming.add(path, dataset)
                    number += 1
        except Exception as error:
            raise Unreachable(why(error, _CREDENTIALS)) from None
        return number

    def store(self, paths: Sequence[Path]) -> None:
        """Send results.

        Raises:
            Unreachable: As :meth:`series`, or the server cannot take results now.
            Refused: The server does not take these results.
        """
        datasets = [dcmread(path) for path in paths]
        try:
            with quiet():
                answer = self._client.store_instances(datasets)
        except Exception as error:
            code = status_of(error)
            if code is not None and code not in _OF_A_WHILE and code not in (401, 403, 404):
                raise Refused(f"HTTP status {code}") from None
            raise Unreachable(why(error, _CREDENTIALS)) from None
        if failed := answer.get("FailedSOPSequence"):
            raise Refused(f"{len(failed)} of {len(datasets)} files, reason {failed[0].get('FailureReason', 0):04X}")


class Poller:
    """Looks for new series, and fetches those that have stopped growing."""

    def __init__(
        self,
        archive: Archive,
        incoming: Incoming,
        state: Path,
        modalities: Sequence[str] | None,
        days: int,
        quiet: float,
    ) -> None:
        """Take up what an earlier process has fetched.

        Args:
            archive: The server.
            incoming: Takes the files.
            state: File for the series that were fetched; short names that follow from their UIDs.
            modalities: Modalities to look for; None for all.
            days: Days back by study date; 0 for all.
            quiet: Seconds without new instances after which a series counts as complete.
        """
        self._archive, self._incoming, self._state = archive, incoming, state
        self._modalities, self._days, self._quiet = modalities, days, quiet
        self._fetched: dict[str, int] = _read_state(state)
        self._growing: dict[str, tuple[int, float]] = {}

    def poll(self) -> int:
        """Look once, fetch what is complete and new, and return the number of series fetched.

        Raises:
            Unreachable: The server cannot be reached; what was fetched before stays.
        """
        modalities: Sequence[str | None] = [None] if self._modalities is None else self._modalities
        found = [entry for modality in modalities for entry in self._archive.series(modality, self._days)]
        fetched = 0
        present: dict[str, int] = {}
        each = [
            (value_of(entry, STUDY), value_of(entry, SERIES), int(value_of(entry, _INSTANCES) or 0)) for entry in found
        ]
        each = [(study, series, count) for study, series, count in each if study and series]
        # What a rule collects of a study waits for all of its series that are there.
        self._incoming.expected = frozenset(
            short(study) for study, series, count in each if self._is_new(series, count)
        )
        for study, series, count in each:
            name = short(series)
            if self._fetched.get(name) == count:
                present[name] = count
            elif self._complete(name, count):
                self._archive.fetch(study, series, self._incoming)
                self._fetched[name] = present[name] = count
                self._growing.pop(name, None)
                fetched += 1
                write_atomically(self._state, _state(self._fetched))
            elif name in self._fetched:
                present[name] = self._fetched[name]
        growing = (short(study) for study, series, count in each if self._is_new(series, count))
        self._incoming.expected = frozenset(growing)
        if present != self._fetched:  # what has left the archive, or the days that are looked at
            self._fetched = present
            write_atomically(self._state, _state(present))
        return fetched

    def _is_new(self, series: str, count: int) -> bool:
        return self._fetched.get(short(series)) != count

    def _complete(self, name: str, count: int) -> bool:
        now = time.monotonic()
        before, since = self._growing.setdefault(name, (count, now))
        if before != count:
            self._growing[name] = (count, now)
            return False
        return now - since >= self._quiet


def _read_state(path: Path) -> dict[str, int]:
    if not path.is_file():
        return {}
    lines = (line.split() for line in path.read_text().splitlines())
    return {line[0]: int(line[1]) for line in lines if len(line) == 2 and line[1].isdigit()}


def _state(fetched: Mapping[str, int]) -> str:
    return "".join(f"{name} {count}\n" for name, count in sorted(fetched.items()))
