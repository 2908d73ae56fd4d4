"""Where the tokens of all layers wait: in main memory, or in a file on disk of which only one chunk is in memory."""

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

    The file is read and written by plain calls with one buffer that is used again and again: a memory map would count
    every page that was ever touched as this process's memory. It has no name, so that the system takes it back however
    the process ends, and its whole size is reserved at the start: a disk that is too small shows at once, not after an
    hour.

    Args:
        sizes: Tokens of each chunk.
        width: C.
        dtype: What tokens are kept in. What comes back has the type that was written, rounded to this one.
        layers: How many layers are kept.
        place: "ram", or the folder for the file.

    Raises:
        ReadError: status ``too_large``: no space.
        UserError: a folder that cannot be written to.
    """

    def __init__(
        self, sizes: Sequence[int], width: int, dtype: torch.dtype, layers: int = 1, place: str | Path = "ram"
    ) -> None:
        self.sizes, self.width, self.dtype, self.layers, self.place = list(sizes), width, dtype, layers, place
        self._starts = [0, *accumulate(sizes)]
        self._parts: dict[tuple[int, int], Tensor] = {}
        self._file: BinaryIO | None = None
        if place == "ram":
            self._refuse_what_does_not_fit()
        else:
            self._buffer = torch.empty(max(sizes, default=0), width, dtype=dtype)
            self._open(Path(place))

    @property
    def nbytes(self) -> int:
        """Bytes of all tokens of all layers."""
        return self.layers * self._starts[-1] * self.width * self.dtype.itemsize

    def write(self, layer: int, chunk: int, tokens: Tensor) -> Tensor:
        """Keep a chunk's tokens (1, n, C), and give them back rounded as :meth:`read` will; nobody may change them."""
        rounded = tokens.to(self.dtype)
        kept = rounded.contiguous().cpu()
        if self._file is not None:
            self._move(layer, chunk, _bytes(kept), writing=True)
        elif kept.untyped_storage().nbytes() > kept.nbytes:  # a part would keep the whole in memory
            self._parts[layer, chunk] = kept.clone()
        else:
            self._parts[layer, chunk] = kept
        return rounded.to(tokens.dtype)

    def read(self, layer: int, chunk: int, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Get a chunk's tokens (1, n, C) as ``dtype``; those from a file hold until the next call."""
        if self._file is None:
            return self._parts[layer, chunk].to(device, dtype)
        kept = self._buffer[: self.sizes[chunk]]
        self._move(layer, chunk, _bytes(kept), writing=False)
        return kept.unsqueeze(0).to(device, dtype)

    def close(self) -> None:
        """Give the space back; may be called again."""
        self._parts.clear()
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
            raise self._refused(error) from None

    def _move(self, layer: int, chunk: int, data: memoryview, writing: bool) -> None:
        assert self._file is not None
        place = (layer * self._starts[-1] + self._starts[chunk]) * self.width * self.dtype.itemsize
        try:
            while data:  # the system may take less than all at once
                moved = (
                    os.pwrite(self._file.fileno(), data, place)
                    if writing
                    else os.preadv(self._file.fileno(), [data], place)
                )
                if not moved:
                    raise OSError(errno.EIO, "the file ends too early")
                data, place = data[moved:], place + moved
        except OSError as error:
            self.close()
            raise self._refused(error) from None

    def _refuse_what_does_not_fit(self) -> None:
        """Say so at once: later the system would end the process, after hours perhaps."""
        free = available_memory()
        if free is not None and self.nbytes > free:
            raise ReadError(
                f"cannot keep {self.nbytes / 2**30:.3g} GiB of tokens in main memory, of which {free / 2**30:.3g} are "
                "free; name a folder on a disk (--token-store) or keep them in bfloat16 (--token-bf16)",
                "too_large",
            )

    def _refused(self, error: OSError) -> UserError:
        message = (
            f"cannot keep {self.nbytes / 2**30:.3g} GiB of tokens in {self.place}: {error.strerror or error}; free "
            "some space, name another folder, or keep them in bfloat16"
        )
        return ReadError(message, "too_large") if error.errno == errno.ENOSPC else UserError(message)


def _bytes(tokens: Tensor) -> memoryview:
    return memoryview(tokens.view(torch.uint8).numpy()).cast("B")  # type: ignore[arg-type]
