"""An exported file, opened and checked: pictures to logits through onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from softfree.errors import ReadError, UserError
from softfree.runtime.metadata import Metadata


class Model:
    """An ONNX file made by ``softfree export``.

    Attributes:
        path: the file.
        metadata: what it says of itself.
    """

    def __init__(self, path: str | Path, *, threads: int | None = None) -> None:
        """Open a file.

        Args:
            path: the file.
            threads: that one product may use; default: all processors.

        Raises:
            UserError: there is none, it is damaged, not ours, or does not take what its metadata promise.
        """
        self.path = Path(path)
        self._session = open_session(self.path, threads)
        self.metadata = Metadata.from_strings(self._session.get_modelmeta().custom_metadata_map, self.path)
        self._check_graph()

    def _check_graph(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        channels, classes = self.metadata.preparation.channels, len(self.metadata.task.classes)
        if len(inputs) != 1 or len(inputs[0].shape) != 4 or inputs[0].shape[1] != channels:
            raise UserError(
                f"{self.path} takes {[one.shape for one in inputs]}, but its metadata promise pictures of {channels} "
                "channels; export the run again"
            )
        if len(outputs) != 1 or outputs[0].shape[-1] != classes:
            raise UserError(f"{self.path} gives no logit for each of its {classes} classes; export the run again")

    def check(self, name: str, pixels: np.ndarray) -> None:
        """Refuse a prepared picture (C, H, W), called ``name``, that the graph does not take.

        Raises:
            UserError: another channel count.
            ReadError: another size than the only one that the file takes.
        """
        channels, size = self.metadata.preparation.channels, self.metadata.size
        if pixels.ndim != 3 or pixels.shape[0] != channels:
            raise UserError(f"{name}: got a picture of shape {pixels.shape}; {self.path} takes ({channels}, H, W)")
        if size is not None and pixels.shape[1:] != size:
            got, taken = (f"{height} x {width}" for height, width in (pixels.shape[1:], size))
            raise ReadError(f"{name}: {got} pixels once prepared, but {self.path} takes {taken} only", "unsupported")

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Give float64 logits (B, K) for prepared pictures (B, C, H, W); UserError for what the graph does not take."""
        if pixels.ndim != 4 or not len(pixels):
            raise UserError(f"got pictures of shape {pixels.shape}; expected (batch, channels, height, width)")
        self.check("a batch", pixels[0])
        try:
            (found,) = self._session.run(None, {"pixels": np.ascontiguousarray(pixels, dtype=np.float32)})
        except Exception as error:  # onnxruntime's own kinds have no common base
            shape = " x ".join(map(str, pixels.shape))
            raise UserError(f"{self.path} failed on a batch of {shape} ({_first_line(error)}); try --batch 1") from None
        return np.asarray(found, dtype=np.float64)


def open_session(path: Path, threads: int | None) -> Any:
    """Open a file in onnxruntime, as every prediction does.

    Args:
        path: of an ONNX model.
        threads: that a product may use; None for all processors.

    Raises:
        UserError: no onnxruntime, no file, or none that it opens.
    """
    try:
        import onnxruntime
    except ImportError:
        raise UserError("exported files need onnxruntime; get it with: pip install onnxruntime") from None
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
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what goes wrong is raised, and said once
    # A plan of the first run's memory comes beside what that run holds: a third more at the peak, and no faster.
    options.enable_mem_pattern = False
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
