"""Storage for the tokens of all layers: main memory, or a file with one chunk in memory at a time."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from softfree.core.memory import available_memory
from softfree_runtime.core.errors import ReadError, UserError


class TokenStore:
    """Tokens by layer and chunk.

    The file is read and written through one reused buffer: a memory map would count every touched page as memory of
    this process. It has no name, so that the system removes it however the process ends, and its whole size is reserved
    at the start, so that a full disk fails immediately and not after an hour.

    Args:
        sizes: Tokens of each chunk.
        width: C.
        dtype: Storage type, to which tokens are rounded.
        layers: Number of layers kept.
        location: "ram", or the folder for the file.

    Raises:
        ReadError: Status ``too_large``: not enough space.
        UserError: A folder that cannot be written to.
    """

    def __init__(
        self, sizes: Sequence[int], width: int, dtype: torch.dtype, layers: int = 1, location: str | Path = "ram"
    ) -> None:
        self.sizes, self.width, self.dtype, self.layers, self.location = list(sizes), width, dtype, layers, location
        self._starts = [0, *accumulate(sizes)]
        self._chunks: dict[tuple[int, int], Tensor] = {}
        self._file: BinaryIO | None = None
        if location == "ram":
            self._check_free_memory()
        else:
            self._buffer = torch.empty(max(sizes, default=0), width, dtype=dtype)
            self._open(Path(location))

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens of all layers."""
        return self.layers * self._starts[-1] * self.width * self.dtype.itemsize

    def write(self, layer: int, chunk: int, tokens: Tensor) -> Tensor:
        """Store a chunk's tokens (1, n, C), and return them rounded as in the store; they must not be changed."""
        rounded = tokens.to(self.dtype)
        stored = rounded.contiguous().cpu()
        if self._file is not None:
            self._move(layer, chunk, _bytes(stored), writing=True)
        elif stored.untyped_storage().nbytes() > stored.nbytes:  # a view would keep its whole base in memory
            self._chunks[layer, chunk] = stored.clone()
        else:
            self._chunks[layer, chunk] = stored
        return rounded.to(tokens.dtype)

    def read(self, layer: int, chunk: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Return a chunk's tokens (1, n, C) as ``dtype``; those from a file are valid until the next call."""
        if self._file is None:
            return self._chunks[layer, chunk].to(device, dtype)
        stored = self._buffer[: self.sizes[chunk]]
        self._move(layer, chunk, _bytes(stored), writing=False)
        return stored.unsqueeze(0).to(device, dtype)

    def close(self) -> None:
        """Free the space; may be called more than once."""
        self._chunks.clear()
        if self._file is not None:
            self._file.close()

    def __enter__(self) -> TokenStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, prefix="softfree-tokens-", buffering=0)  # noqa: SIM115
            if self.nbytes and hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._file.fileno(), 0, self.nbytes)
        except OSError as error:
            self.close()
            raise self._write_error(error) from None

    def _move(self, layer: int, chunk: int, data: memoryview, writing: bool) -> None:
        assert self._file is not None
        offset = (layer * self._starts[-1] + self._starts[chunk]) * self.width * self.dtype.itemsize
        try:
            while data:  # a call may transfer only some of the bytes
                moved = (
                    os.pwrite(self._file.fileno(), data, offset)
                    if writing
                    else os.preadv(self._file.fileno(), [data], offset)
                )
                if not moved:
                    raise OSError(errno.EIO, "the file ends too early")
                data, offset = data[moved:], offset + moved
        except OSError as error:
            self.close()
            raise self._write_error(error) from None

    def _check_free_memory(self) -> None:
        """Fail now rather than be killed by the system later, perhaps after hours."""
        free = available_memory()
        if free is not None and self.nbytes > free:
            raise ReadError(
                f"cannot keep {self.nbytes / 2**30:.3g} GiB of tokens in main memory, of which {free / 2**30:.3g} are "
                "free; store them in a folder on a disk (--token-store) or in bfloat16 (--token-bf16)",
                "too_large",
            )

    def _write_error(self, error: OSError) -> UserError:
        message = (
            f"cannot keep {self.nbytes / 2**30:.3g} GiB of tokens in {self.location}: {error.strerror or error}; free "
            "some space, choose another folder, or keep them in bfloat16"
        )
        return ReadError(message, "too_large") if error.errno == errno.ENOSPC else UserError(message)


def _bytes(tokens: Tensor) -> memoryview:
    return memoryview(tokens.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
