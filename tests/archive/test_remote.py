"""Inputs at addresses: copied, predicted, removed."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import fsspec
import pandas as pd
import pyarrow as pa
import pytest

from softfree.archive.folder import ArchiveFolder
from softfree.archive.inputs import write_inputs
from softfree.archive.listing import Wanted, list_inputs
from softfree.archive.local import LocalEngine
from softfree.archive.options import ArchiveOptions, check_only_archives
from softfree.archive.remote import Fetcher, addresses_of_table, is_remote, list_remote
from softfree.archive.worker import Block
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import SourceFile


class Lengths:
    """Fills in the number of bytes of each file, and puts its path into the reason."""

    model_seconds = 0.0

    def open(self, root: Path) -> Lengths:
        return self

    def __call__(self, samples, numbers) -> pa.Table:
        rows = []
        for name, path, _ in samples:
            rows.append({"path": name, "status": "ok", "reason": path, "value": float(len(Path(path).read_bytes()))})
            assert path.endswith(".nii.gz")
        return pa.Table.from_pylist(rows)


def test_remote_files_have_rows_with_their_addresses(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    for number in range(1, 6):
        (store / f"{number}.nii.gz").write_bytes(b"x" * number)
    (store / ".hidden").write_bytes(b"")
    (store / "list.csv").write_text("")
    address = store.as_uri()
    samples = list_remote(address, None, "volume")
    names = [f"{address}/{number}.nii.gz" for number in range(1, 6)]
    assert samples == [(name, name, None) for name in names]
    (store / "3.nii.gz").unlink()

    folder = ArchiveFolder(tmp_path / "archive")
    write_inputs(folder.inputs, samples)
    finished = []
    LocalEngine(folder.root, Lengths(), 1, finished.append).run([Block(0, 4), Block(4, 5)], lambda: True)
    rows = pa.concat_tables(list(folder.rows())).to_pylist()
    assert [row["path"] for row in rows] == names
    assert [row["value"] for row in rows] == [1.0, 2.0, None, 4.0, 5.0]
    assert [row["status"] for row in rows] == ["ok", "ok", "missing", "ok", "ok"]
    assert rows[0]["reason"] == names[0]
    assert rows[2]["reason"] == f"{names[2]}: there is no file at this address"


class Faulty(fsspec.AbstractFileSystem):
    """A store whose first answers are errors."""

    protocol = "faulty"
    errors: ClassVar[list[Exception]] = []
    cachable = False

    def get_file(self, rpath, lpath, **_):
        if self.errors:
            raise self.errors.pop(0)
        Path(lpath).write_bytes(b"there")

    there = True

    def exists(self, path, **_):
        return Faulty.there

    def isdir(self, path, **_):
        raise PermissionError("Unable to locate credentials")


@pytest.fixture
def fetcher():
    fsspec.register_implementation("faulty", Faulty, clobber=True)
    pauses: list[float] = []
    fetcher = Fetcher((1, 5), pauses.append)
    yield fetcher, pauses
    fetcher.close()


@pytest.mark.parametrize(
    ("errors", "outcome", "waited"),
    [
        ([], None, []),
        ([OSError("busy"), OSError("busy")], None, [1, 5]),
        ([OSError("busy")] * 3, "cannot be reached", [1, 5]),
        ([FileNotFoundError()], "missing", []),
        ([PermissionError("no key")], "unreadable", []),
        ([FileNotFoundError("gone")] * 3, "bucket gone", [1, 5]),
    ],
)
def test_stores_that_fail(fetcher, errors: list[Exception], outcome: str | None, waited: list[float]) -> None:
    fetch, pauses = fetcher
    Faulty.errors, Faulty.there = list(errors), outcome != "bucket gone"
    samples = [("faulty://a/b.png", "faulty://a/b.png", 2)]
    copies = fetch.begin(samples)
    if outcome in ("cannot be reached", "bucket gone"):
        with pytest.raises(UserError, match=r"b\.png cannot be reached \((busy|gone)\).*give the same command again"):
            fetch.local(samples, copies)
    else:
        local, failed = fetch.local(samples, copies)
        if outcome is None:
            (name, path, frame) = local[0]
            assert (name, Path(path).read_bytes(), frame) == ("faulty://a/b.png", b"there", 2)
            fetch.remove(copies)
            assert not Path(path).exists()
        else:
            assert isinstance(failed[0], ReadError)
            assert failed[0].status == outcome
    assert pauses == waited


def test_tables_of_addresses(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,frame\ns3://a/b.dcm,1\ns3://a/c.dcm,\n")
    b, c = "s3://a/b.dcm", "s3://a/c.dcm"
    assert addresses_of_table(table, 7, "image") == [(b, b, 1), (c, c, None)]
    with pytest.raises(UserError, match="cases cannot be read from addresses"):
        addresses_of_table(table, None, "case")
    table.write_text("path\ns3://a/b.dcm\nc.dcm\n")
    with pytest.raises(UserError, match="1 of 2 paths are addresses"):
        addresses_of_table(table, None, "image")
    table.write_text("path\nc.dcm\n")
    assert addresses_of_table(table, None, "image") is None


def test_cells_of_a_table_of_addresses_are_read_as_those_of_files(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    address = "s3://a/b.tif"
    for cell in ("first", "1.7", "-3"):
        table.write_text(f"path,frame\n{address},{cell}\n")
        with pytest.raises(UserError, match=f"t.csv: frame '{cell}' in line 2; expected 0, 1, 2, ... or an empty cell"):
            addresses_of_table(table, None, "image")
    table.write_text(f"path,mpp\n{address},0.5\n{address},\n")
    assert addresses_of_table(table, 2, "image") == [(address, address, 2)] * 2
    with_resolution, without = addresses_of_table(table, None, "slide") or ()
    assert (with_resolution[1], without[1]) == (SourceFile(address, 0.5), address)
    pd.DataFrame({"path": [address] * 2, "frame": pd.array([1, None], "Int64")}).to_parquet(tmp_path / "t.parquet")
    assert addresses_of_table(tmp_path / "t.parquet", None, "image") == [
        (address, address, 1),
        (address, address, None),
    ]


def test_what_ends_the_listing_is_told_as_it_is(tmp_path: Path) -> None:
    wanted = Wanted([str(tmp_path / "x.png")], None, None, "no such kind", (), None, keeps_columns=False)
    (tmp_path / "x.png").mkdir()
    with pytest.raises(KeyError, match="no such kind"):
        list_inputs(tmp_path / "inputs.parquet", wanted)


def test_what_is_an_address(tmp_path: Path) -> None:
    assert is_remote("s3://bucket/key")
    assert not is_remote("C:/images")
    assert not is_remote("images/a:b.png")
    with pytest.raises(UserError, match="is read for archives only"):
        check_only_archives(ArchiveOptions(), ["x.png", "s3://bucket/key"])
    with pytest.raises(UserError, match="there is no file"):
        list_remote((tmp_path / "nothing").as_uri(), None, "image")
    with pytest.raises(UserError, match="nosuch"):
        list_remote("nosuch://x/y", None, "image")


def test_credentials_that_are_missing_are_one_line(fetcher) -> None:
    with pytest.raises(UserError, match=r"faulty://a cannot be reached \(Unable to locate credentials\)"):
        list_remote("faulty://a", None, "image")


@pytest.mark.slow
def test_a_bucket(run, shared_data: Path, tmp_path: Path, monkeypatch) -> None:
    """A local server of S3: the rows of the files themselves."""
    server_of = pytest.importorskip("moto.server").ThreadedMotoServer
    pytest.importorskip("s3fs")
    from softfree.archive.predict import predict_archive

    server = server_of(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        system = fsspec.filesystem("s3", skip_instance_cache=True)
        system.mkdir("archive")
        files = sorted((shared_data / "blood_cells").rglob("*.jpg"))[:40]
        for file in files:
            system.put_file(str(file), f"archive/cells/{file.name}")
        local = tmp_path / "files"
        local.mkdir()
        for file in files:
            (local / file.name).symlink_to(file)
        options = {"workers": 1, "progress": False}
        predict_archive(str(run.folder), [str(local)], ArchiveOptions(out=tmp_path / "local", **options))
        predict_archive(str(run.folder), ["s3://archive/cells"], ArchiveOptions(out=tmp_path / "s3", **options))
    finally:
        server.stop()
    expected, rows = (pd.read_parquet(tmp_path / name / "predictions.parquet") for name in ("local", "s3"))
    assert list(rows["path"]) == [f"s3://archive/cells/{Path(path).name}" for path in expected["path"]]
    pd.testing.assert_frame_equal(rows.drop(columns="path"), expected.drop(columns="path"))
