"""Reading weights: from a file, a folder or a hub, without ever running what a file contains."""

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
        source: A file, a folder with ``model.safetensors``, "hf-hub:owner/name" (the prefix may be left out), or a
            timm name with its tag.
        progress: Show the progress of a download.

    Raises:
        UserError: Nothing found under this name, or a file that is broken or would have to be trusted.
    """
    return read_file(find_file(source, progress=progress))


def find_file(source: str | Path, *, config: bool = False, progress: bool = False) -> Path:
    """Find the file of ``source``, as :func:`read_weights` takes it.

    Args:
        source: As for :func:`read_weights`.
        config: Fetch ``config.json`` to the same folder, too, where the hub has one: it says the size of the images.
        progress: Show the progress of a download.

    Raises:
        UserError: Nothing found under this name.
    """
    path = Path(source)
    if path.is_dir():
        if not (path / SAFE_NAME).is_file():
            raise UserError(f"Folder {path} holds no {SAFE_NAME}: name the file of the weights.")
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
    """Read a safetensors file, or a PyTorch file that holds nothing but tensors.

    Raises:
        UserError: Another kind of file, a broken one, or a pickle.
    """
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise UserError(f"{path} is no readable safetensors file ({error}): fetch it again.") from error
    if path.suffix not in SUFFIXES:
        raise UserError(f"Got weights in {path.name}: expected a file that ends in {', '.join(SUFFIXES)}.")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(
            f"{path} is broken or holds Python objects, which could run any code: it is not opened. "
            "Where you trust it, save its tensors with safetensors.torch.save_file and name that file."
        ) from error
    for key in ("state_dict", "model", "teacher"):  # DINO keeps its better half as teacher
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            content = content[key]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise UserError(f"{path} holds no plain table of tensors: save a state_dict and name that file.")
    return content


def download(hub_name: str, *, progress: bool = False) -> Path:
    """Fetch the local copy of a hub repository's weights; "owner/name" or "owner/name@revision".

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
                    f"No connection to the hub and no local copy of {hub_name}: name a file of the weights instead."
                ) from error
            except EntryNotFoundError:
                continue
            except (HfHubHTTPError, HFValidationError) as error:
                raise UserError(f"No weights named {hub_name} on the hub or on disk: expected {KINDS}.") from error
    raise UserError(f"Hub repository {hub_name} holds neither {SAFE_NAME} nor pytorch_model.bin.")


def _hub_name(timm_name: str) -> str:
    """Find where timm keeps the weights of ``timm_name``."""
    if not timm.models.is_model_pretrained(timm_name):
        raise unknown_name("weights", timm_name, timm.list_pretrained("vit_*"))
    config = timm.get_pretrained_cfg(timm_name)
    if not (config and config.hf_hub_id):
        raise UserError(f"timm keeps no weights of {timm_name} on the hub: download them and name the file.")
    return config.hf_hub_id


@contextmanager
def _progress_bars(shown: bool) -> Iterator[None]:
    hidden_before = are_progress_bars_disabled()
    if not shown:
        disable_progress_bars()
    try:
        yield
    finally:
        if not hidden_before:
            enable_progress_bars()
