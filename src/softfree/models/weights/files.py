"""Reading weights from a file, a folder or a hub, without ever executing their contents."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from softfree_runtime.core.errors import UserError, unknown_name

SAFE_NAME = "model.safetensors"
SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
KINDS = "a .safetensors file, a folder with model.safetensors, 'hf-hub:owner/name', or a timm name with its tag"


def read_weights(source: str | Path, *, progress: bool = False) -> dict[str, Tensor]:
    """Read tensors by name, on the CPU.

    Args:
        source: A file, a folder with ``model.safetensors``, "hf-hub:owner/name" (the prefix is optional), or a
            timm name with its tag.
        progress: Show the progress of a download.

    Raises:
        UserError: Nothing found under this name, or the file is broken or unsafe.
    """
    return read_file(find_file(source, progress=progress))


def find_file(source: str | Path, *, config: bool = False, progress: bool = False) -> Path:
    """Find the file of ``source``, as :func:`read_weights` takes it.

    Args:
        source: As for :func:`read_weights`.
        config: Also download ``config.json``, which has the image size, to the same folder, if the hub has one.
        progress: Show the progress of a download.

    Raises:
        UserError: Nothing found under this name.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / SAFE_NAME).is_file():
            raise UserError(f"Folder {path} has no {SAFE_NAME}: pass the path of the weights file.")
        return path / SAFE_NAME
    if path.is_file():
        return path
    name = str(source).removeprefix("hf-hub:").removeprefix("hf_hub:")
    if isinstance(source, Path) or path.suffix in SUFFIXES or path.is_absolute():
        raise UserError(f"No weights at {source}: expected {KINDS}.")
    name = name if "/" in name else _hub_name(name)
    path = download(name, progress=progress)
    if config:
        with suppress(EntryNotFoundError, HfHubHTTPError), _progress_bars(shown=False):
            repository, _, revision = name.partition("@")
            hf_hub_download(repository, "config.json", revision=revision or None)
    return path


def read_file(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a PyTorch file that contains only tensors.

    Raises:
        UserError: Another kind of file, a broken one, or a pickle.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is not a readable safetensors file ({error}): download it again.") from error
    if path.suffix not in SUFFIXES:
        raise UserError(f"Got weights in {path.name}: expected a file ending in {', '.join(SUFFIXES)}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} is broken or contains Python objects, which could run arbitrary code, and was not opened. "
            "If you trust it, save its tensors with safetensors.torch.save_file and pass that file."
        ) from error
    for key in ("state_dict", "model", "teacher"):  # DINO stores its EMA weights under "teacher"
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} is not a dictionary of tensors: save a state_dict and pass that file.")
    return content


def download(hub_name: str, *, progress: bool = False) -> Path:
    """Download the weights of a hub repository, "owner/name" or "owner/name@revision"; return the local file.

    Raises:
        UserError: No such repository, no weights in it, or no connection.
    """
    repository, _, revision = hub_name.partition("@")
    with _progress_bars(progress):
        for filename in (SAFE_NAME, "pytorch_model.bin"):
            try:
                return Path(hf_hub_download(repository, filename, revision=revision or None))
            except LocalEntryNotFoundError as error:
                raise UserError(
                    f"No connection to the hub and no local copy of {hub_name}: pass a weights file instead."
                ) from error
            except EntryNotFoundError:
                continue
            except (HfHubHTTPError, HFValidationError) as error:
                raise UserError(f"No weights named {hub_name} on the hub or on disk: expected {KINDS}.") from error
    raise UserError(f"Hub repository {hub_name} has neither {SAFE_NAME} nor pytorch_model.bin.")


def _hub_name(timm_name: str) -> str:
    """Return the hub repository with timm's weights for ``timm_name``."""
    if not timm.models.is_model_pretrained(timm_name):
        raise unknown_name("weights", timm_name, timm.list_pretrained("vit_*"))
    config = timm.get_pretrained_cfg(timm_name)
    if not (config and config.hf_hub_id):
        raise UserError(f"timm has no weights of {timm_name} on the hub: download them and pass the file.")
    return config.hf_hub_id


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    were_hidden = are_progress_bars_disabled()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if not were_hidden:
            enable_progress_bars()
