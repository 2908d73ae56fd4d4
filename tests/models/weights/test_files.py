"""Where weights come from, and what is refused. No test uses the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError, RepositoryNotFoundError
from huggingface_hub.utils import enable_progress_bars
from safetensors.torch import save_file

from softfree.models.weights import files as weight_files
from softfree.models.weights.files import read_weights
from softfree_runtime.core.errors import UserError

TENSORS = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}


def assert_read(source: str | Path) -> None:
    got = read_weights(source)
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[key], TENSORS[key]) for key in TENSORS)


class Hub:
    """Stands in for the download: knows some files of some repositories, and what was asked."""

    def __init__(self, files: dict[tuple[str, str], Path], error: Exception | None = None) -> None:
        self.files, self.error, self.asked = files, error, []

    def __call__(self, repository: str, filename: str, revision: str | None = None) -> str:
        self.asked.append((repository, filename, revision))
        if self.error is not None:
            raise self.error
        if (repository, filename) not in self.files:
            raise EntryNotFoundError("not there")
        return str(self.files[repository, filename])


@pytest.fixture
def safe(tmp_path: Path) -> Path:
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_file_and_folder(safe: Path) -> None:
    assert_read(safe)
    assert_read(str(safe))
    assert_read(safe.parent)


@pytest.mark.parametrize("wrap", [lambda t: t, lambda t: {"state_dict": t, "epoch": 3}, lambda t: {"model": t}])
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin"])
def test_pytorch_file_of_tensors(tmp_path: Path, suffix: str, wrap: object) -> None:
    torch.save(wrap(TENSORS), tmp_path / f"w{suffix}")
    assert_read(tmp_path / f"w{suffix}")


class Trap:
    """What a pickle can do: create a file while it is read."""

    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.victim,)


def test_pickle_is_never_run(tmp_path: Path) -> None:
    torch.save({"a": Trap(tmp_path / "victim")}, tmp_path / "w.pth")
    with pytest.raises(UserError, match="could run arbitrary code"):
        read_weights(tmp_path / "w.pth")
    assert not (tmp_path / "victim").exists()


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\x08\x00\x00\x00\x00\x00\x00\x00{}"])
@pytest.mark.parametrize("name", ["w.safetensors", "w.pth"])
def test_broken_file(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=r"w\.(safetensors|pth) (is|holds)"):
        read_weights(tmp_path / name)


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, TENSORS["a"]])
def test_file_without_a_table_of_tensors(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(UserError, match="not a dictionary of tensors"):
        read_weights(tmp_path / "w.pth")


def test_other_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "w.npz").write_bytes(b"")
    with pytest.raises(UserError, match=r"Got weights in w\.npz: expected a file ending in \.safetensors"):
        read_weights(tmp_path / "w.npz")


@pytest.mark.parametrize("source", ["nowhere.safetensors", "runs/nowhere.pth", "/nowhere/at/all", Path("vit_small")])
def test_no_such_file(source: str | Path) -> None:
    with pytest.raises(UserError, match=r"No weights at .*: expected a \.safetensors file, a folder"):
        read_weights(source)


def test_folder_without_weights(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no model\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("source", ["hf-hub:some/vit", "some/vit"])
def test_hub(monkeypatch: pytest.MonkeyPatch, safe: Path, source: str) -> None:
    hub = Hub({("some/vit", "model.safetensors"): safe})
    monkeypatch.setattr(weight_files, "hf_hub_download", hub)
    assert_read(source)
    assert hub.asked == [("some/vit", "model.safetensors", None)]


def test_hub_with_a_revision_and_no_safetensors(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    hub = Hub({("some/vit", "pytorch_model.bin"): tmp_path / "pytorch_model.bin"})
    monkeypatch.setattr(weight_files, "hf_hub_download", hub)
    assert_read("some/vit@v2")
    assert hub.asked[-1] == ("some/vit", "pytorch_model.bin", "v2")


def test_name_of_timm(monkeypatch: pytest.MonkeyPatch, safe: Path) -> None:
    name = "vit_small_patch16_224.augreg_in1k"
    hub = Hub({(f"timm/{name}", "model.safetensors"): safe})
    monkeypatch.setattr(weight_files, "hf_hub_download", hub)
    assert_read(name)


@pytest.mark.parametrize("name", ["vit_smal_patch16_224.augreg_in1k", "vit_small_patch16_224.augreg_in1"])
def test_misspelt_name_of_timm(name: str) -> None:
    with pytest.raises(UserError, match=r"did you mean .*vit_small_patch16_224\.augreg_in1k"):
        read_weights(name)


def test_what_the_hub_does_not_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "hf_hub_download", Hub({}))
    with pytest.raises(UserError, match="has neither"):
        read_weights("some/vit")
    absent = RepositoryNotFoundError.__new__(RepositoryNotFoundError)  # releases differ in what it is made of
    monkeypatch.setattr(weight_files, "hf_hub_download", Hub({}, absent))
    with pytest.raises(UserError, match="No weights named some/vit"):
        read_weights("some/vit")


def test_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weight_files, "hf_hub_download", Hub({}, LocalEntryNotFoundError("offline")))
    with pytest.raises(UserError, match="No connection to the hub"):
        read_weights("some/vit")


def test_progress_bars_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch, safe: Path) -> None:
    shown: list[bool] = []
    hub = Hub({("some/vit", "model.safetensors"): safe})

    def download(*args: object, **kwargs: object) -> str:
        shown.append(not weight_files.are_progress_bars_disabled())
        return hub(*args, **kwargs)

    monkeypatch.setattr(weight_files, "hf_hub_download", download)
    enable_progress_bars()
    before = weight_files.are_progress_bars_disabled()
    for progress in (False, True):
        read_weights("some/vit", progress=progress)
        assert weight_files.are_progress_bars_disabled() == before
    assert shown == [False, not before]
