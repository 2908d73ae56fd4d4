"""DICOMweb as input, with a client that answers from memory; a real server is in the tests of the hospital."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("dicomweb_client")

import requests
from pydicom import dcmread

from softfree.archive import dicomweb
from softfree.archive.dicomweb import Unanswered, fetch, list_dicomweb, parse
from softfree.archive.remote import Fetcher, is_remote, list_remote
from softfree_runtime.core.errors import ReadError, UserError

ADDRESS = "dicomweb+https://pacs.example.org/dicom-web"


class Server:
    """Answers queries two at a time, whatever it was asked for, and fetches; or raises."""

    def __init__(self, shared_data: Path, count: int = 5) -> None:
        self.file = dcmread(shared_data / "dicom" / "pydicom" / "CT_small.dcm")
        self.count, self.asked, self.error = count, [], None

    def search_for_instances(self, study, series, *, limit, offset, search_filters) -> list[dict[str, Any]]:
        if self.error is not None:
            raise self.error
        self.asked.append((study, series, offset, search_filters))
        uids = range(offset, min(offset + 2, self.count))
        return [{tag: {"Value": [f"1.{place}.{uid // size}"]} for tag, place, size in
                 (("0020000D", 1, 4), ("0020000E", 2, 2), ("00080018", 3, 1))} for uid in uids]  # fmt: skip

    def search_for_series(self, study, *, limit, offset, search_filters) -> list[dict[str, Any]]:
        return self.search_for_instances(study, None, limit=limit, offset=offset, search_filters=search_filters)

    def retrieve_instance(self, study, series, instance, media_types) -> Any:
        if self.error is not None:
            raise self.error
        return self.file

    def iter_series(self, study, series, media_types) -> Any:
        yield from [self.file, self.file]


@pytest.fixture
def server(shared_data: Path, monkeypatch) -> Server:
    made = Server(shared_data)
    monkeypatch.setattr(dicomweb, "_client", lambda address: made)
    return made


def http(code: int) -> requests.HTTPError:
    return requests.HTTPError("the answer's text", response=SimpleNamespace(status_code=code))


def test_addresses() -> None:
    assert is_remote(ADDRESS)
    assert parse(f"{ADDRESS}?Modality=CR&StudyDate=20250101-") == (
        "dicomweb+https", "https://pacs.example.org/dicom-web", None, None, None,
        (("Modality", "CR"), ("StudyDate", "20250101-")),
    )  # fmt: skip
    assert parse("dicomweb://pacs:8042/web/studies/1.2/series/3")[1:5] == ("http://pacs:8042/web", "1.2", "3", None)
    with pytest.raises(UserError, match="without user and password"):
        parse("dicomweb://me:secret@pacs/web")


def test_all_pages_of_a_query(server: Server) -> None:
    found = list_remote(f"{ADDRESS}?Modality=CR", 2, "image")
    assert [name for name, _, _ in found] == [
        f"{ADDRESS}/studies/1.1.{n // 4}/series/1.2.{n // 2}/instances/1.3.{n}" for n in range(5)
    ]
    assert found[0] == (found[0][0], found[0][0], 2)
    assert server.asked[1] == (None, None, 2, {"Modality": "CR"})
    assert [name.rpartition("/studies/")[2] for name, _, _ in list_dicomweb(ADDRESS, None, "volume")] == [
        "1.1.0/series/1.2.0", "1.1.0/series/1.2.1", "1.1.1/series/1.2.2",
    ]  # fmt: skip
    server.count = 0
    with pytest.raises(UserError, match="there is no such instance"):
        list_dicomweb(ADDRESS, None, "image")
    with pytest.raises(UserError, match="samples of kind slide"):
        list_dicomweb(ADDRESS, None, "slide")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (http(401), "HTTP status 401: check the variable SOFTFREE_DICOMWEB_TOKEN"),
        (requests.ConnectionError(), "it cannot be reached"),
        (ValueError("no JSON"), "an answer that is no DICOMweb"),
    ],
)
def test_a_server_that_cannot_be_asked(server: Server, error: Exception, line: str) -> None:
    server.error = error
    with pytest.raises(UserError, match=line):
        list_dicomweb(ADDRESS, None, "image")


def test_instances_and_series_are_fetched(server: Server, tmp_path: Path) -> None:
    instance, series = f"{ADDRESS}/studies/1/series/2/instances/3", f"{ADDRESS}/studies/1/series/2"
    assert dcmread(fetch(instance, tmp_path)).SOPInstanceUID == server.file.SOPInstanceUID
    assert len(list(fetch(series, tmp_path).iterdir())) == 2
    for code, kind in ((404, ReadError), (406, ReadError), (403, UserError), (503, Unanswered)):
        server.error = http(code)
        with pytest.raises(kind):
            fetch(instance, tmp_path)


def test_a_server_that_disappears_is_asked_again_and_then_a_line(server: Server) -> None:
    pauses: list[float] = []
    fetcher = Fetcher((1, 5), pauses.append)
    sample = (f"{ADDRESS}/studies/1/series/2/instances/3",) * 2 + (None,)
    server.error = requests.ConnectionError()
    with pytest.raises(UserError, match=r"pacs\.example\.org/dicom-web: it cannot be reached.*same command") as caught:
        fetcher.local([sample], fetcher.begin([sample]))
    assert pauses == [1, 5]
    assert "instances/3" not in str(caught.value)
    server.error = None
    copies = fetcher.begin([sample])
    local, failed = fetcher.local([sample], copies)
    assert not failed
    path = Path(local[0][1])
    assert path.is_file()
    fetcher.remove(copies)
    assert not path.exists()
    fetcher.close()


def test_credentials(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv(dicomweb.TOKEN, "abc")
    client = dicomweb._client.__wrapped__("https://pacs/web")
    assert client._session.headers["Authorization"] == "Bearer abc"
    monkeypatch.delenv(dicomweb.TOKEN)
    monkeypatch.setenv(dicomweb.CREDENTIALS, str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"SOFTFREE_DICOMWEB_CREDENTIALS .*none cannot be read"):
        dicomweb._client.__wrapped__("https://pacs/web")
    (tmp_path / "none").write_text("me:secret\n")
    client = dicomweb._client.__wrapped__("https://pacs/web")
    assert client._session.headers["Authorization"] == "Basic bWU6c2VjcmV0"
