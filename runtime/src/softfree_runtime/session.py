"""Logits of prepared samples from an exported file, by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.core.telemetry import import_onnxruntime
from softfree_runtime.metadata import Metadata


class Model:
    """An ONNX file made by ``softfree export``.

    Attributes:
        path: Path of the file.
        metadata: Its metadata.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open a file.

        Args:
            path: The file.
            threads: Threads per matrix product; default: all processors.

        Raises:
            UserError: The file is missing, damaged, not from softfree, or does not match its metadata.
        """
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        self.metadata = Metadata.from_strings(self._session.get_modelmeta().custom_metadata_map, self.path)
        self._check_graph()

    def _check_graph(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        promised = (None, *self.metadata.sample_shape)
        if len(inputs) != 1 or not _fits(inputs[0].shape, promised):
            raise UserError(
                f"{self.path} takes {[entry.shape for entry in inputs]}, but its metadata say {_in_words(promised)};"
                " export the run again"
            )
        self._input = inputs[0].name
        task = self.metadata.task
        wanted = len(task.outputs)
        if not outputs or outputs[0].shape[-1] != wanted:
            each = "outputs" if self.metadata.targets else "cuts" if self.metadata.task.ordered else "classes"
            raise UserError(f"{self.path} gives no logit for each of its {wanted} {each}; export the run again")
        wanted = 1 if self.metadata.unusual_rate is None else 2
        if len(outputs) != wanted:
            raise UserError(f"{self.path} has {len(outputs)} outputs; its metadata say {wanted}; export the run again")

    def check(self, name: str, sample: np.ndarray) -> None:
        """Refuse a prepared sample, such as an image (C, H, W), that the graph does not take; ``name`` is for messages.

        Raises:
            UserError: Wrong number of channels, features or axes.
            ReadError: Wrong size for a file that takes one size only.
        """
        taken = self.metadata.sample_shape
        fixed = -1 if self.metadata.modality.sequence else 0
        if sample.ndim != len(taken) or sample.shape[fixed] != taken[fixed]:
            raise UserError(f"{name}: got a sample of shape {sample.shape}; {self.path} takes {_in_words(taken)}")
        if not _fits(sample.shape, taken):
            got, sides = (" x ".join(map(str, shape[1:])) for shape in (sample.shape, taken))
            raise ReadError(f"{got} once prepared, but {self.path} takes {sides} only", "unsupported", path=name)

    def logits(self, samples: np.ndarray) -> np.ndarray:
        """Return float64 logits (B, K) of prepared samples; see :meth:`outputs`."""
        return self.outputs(samples)[0]

    def distances(self, samples: np.ndarray) -> np.ndarray:
        """Return distances from the training samples (B,) of prepared samples; see :meth:`outputs`.

        Raises:
            UserError: The file gives no distances.
        """
        distances = self.outputs(samples)[1]
        if distances is None:
            raise UserError(f"{self.path} gives no distances; export a run that has distribution.safetensors")
        return distances

    def outputs(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return float64 logits (B, K) and distances from the training samples (B,), None if the file has none.

        Args:
            samples: Prepared samples of one shape, such as images (B, C, H, W).

        Raises:
            UserError: The graph does not take the samples.
        """
        if samples.ndim != 1 + len(self.metadata.sample_shape) or not len(samples):
            taken = _in_words((None, *self.metadata.sample_shape))
            raise UserError(f"got samples of shape {samples.shape}; expected {taken}, the batch first")
        self.check("a batch", samples[0])
        try:
            results = self._session.run(None, {self._input: np.ascontiguousarray(samples, dtype=np.float32)})
        except Exception as error:  # the exceptions of onnxruntime have no common base
            shape = " x ".join(map(str, samples.shape))
            raise UserError(
                f"{self.path} failed on a batch of {shape} ({_first_line(error)}); try --batch-size 1"
            ) from None
        logits, *distances = (np.asarray(values, dtype=np.float64) for values in results)
        return logits, distances[0] if distances else None


def _fits(shape: Sequence[object], taken: Sequence[int | None]) -> bool:
    return len(shape) == len(taken) and all(want in (None, got) for got, want in zip(shape, taken, strict=True))


def _in_words(taken: Sequence[int | None]) -> str:
    return f"({', '.join('any' if side is None else str(side) for side in taken)})"


def open_session(path: Path, threads: int | None) -> Any:
    """Open a file in onnxruntime with the settings of prediction.

    Args:
        path: Path of an ONNX model.
        threads: Threads per matrix product; None for all processors.

    Raises:
        UserError: onnxruntime is not installed, or it cannot open the file.
    """
    onnxruntime = import_onnxruntime()
    if path.is_dir() or not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"{path} {what}; expected a file made by softfree export")
    try:
        return onnxruntime.InferenceSession(str(path), _options(threads), providers=["CPUExecutionProvider"])
    except Exception as error:  # as above
        raise UserError(
            f"{path} cannot be opened as an ONNX model ({_first_line(error)}); it may be truncated: copy it again"
        ) from None


def _options(threads: int | None) -> Any:
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = 4  # errors are raised, and should be reported once
    # The memory plan of the first run adds a third to its peak memory and does not make it faster.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
