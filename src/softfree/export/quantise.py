"""Eight-bit integers in the plain layers of a graph, and what they cost in AUROC.

Only linear layers and convolutions of the model become integers: not the head, and not the small products of SeqNorm's
Gram order, which hold covariances and take little time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from softfree.data.readers import Picture, read_picture
from softfree.errors import ReadError, UserError
from softfree.evaluation.comparison import compare
from softfree.evaluation.scores import Scores
from softfree.export.graph import Graph, quiet
from softfree.export.pictures import find_pictures, read_evenly
from softfree.options.exporting import ExportOptions
from softfree.runs import Run
from softfree.runtime.outputs import probabilities
from softfree.runtime.preparation import Preparation
from softfree.runtime.session import Model
from softfree.scoring import open_table


@dataclass(frozen=True)
class Loss:
    """AUROC on the test rows before and after, and the loss with its paired 95 % interval.

    Attributes:
        before: of the float32 file.
        after: of the int8 file.
        loss: ``before - after``.
        low: lower bound of the loss.
        high: its upper bound; NaN where there is no interval.
        method: of the interval.
        n: test pictures.
        calibrated_on: pictures that showed the ranges; 0 for ``weights``.
        reason: why there is no interval.
    """

    before: float
    after: float
    loss: float
    low: float
    high: float
    method: str
    n: int
    calibrated_on: int
    reason: str | None = None

    def in_words(self, margin: float) -> str:
        """Say what was lost, and whether a loss within the margin is shown or only seen."""
        said = f"AUROC {self.after:.4f} with int8, {self.before:.4f} without, on {self.n} test pictures"
        said += f": loss {self.loss:.4f}"
        if self.high != self.high:
            return f"{said}, without an interval ({self.reason or 'no resample differs'})"
        said += f" (95 % interval {self.low:.4f} to {self.high:.4f}, {self.method})"
        if self.high <= margin:
            return f"{said}; less than the margin of {margin} is shown"
        return f"{said}; that it is less than the margin of {margin} is not shown: more test pictures may decide"

    def to_dict(self) -> dict[str, Any]:
        """Return the fields, None for what is no number."""
        return {key: None if value != value else value for key, value in asdict(self).items()}


def quantised(
    run: Run, graph: Graph, path: Path, before: Model, options: ExportOptions
) -> tuple[onnx.ModelProto, Loss, list[str]]:
    """Write plain layers as integers and measure the loss on the run's test rows.

    Args:
        run: the run.
        graph: its float32 graph.
        path: where that graph lies.
        before: the same, opened.
        options: which kind, calibration, margin.

    Returns:
        The graph, the loss, and the calibration pictures that could not be read.

    Raises:
        UserError: no picture to calibrate on or to test on, or a loss beyond the margin.
    """
    if not graph.layers:
        raise UserError("the graph has no linear layer or convolution to store in 8 bits; export without --int8")
    pictures: list[Picture] = []
    failed: list[str] = []
    if options.int8 == "static":
        found = find_pictures(run, options.calibration, "train")
        read = read_evenly(found, options.calibration_count, "calibration (--calibration)")
        pictures, failed = read.pictures, read.failed
    with TemporaryDirectory() as folder:
        target = Path(folder) / "int8.onnx"
        with quiet():
            if options.int8 == "static":
                _static(path, target, graph, _Pictures(pictures, before.metadata.preparation))
            else:
                _weights(target, graph)
        proto = onnx.load(target)
        loss = replace(_loss(run, before, Model(target), options), calibrated_on=len(pictures))
    if not loss.loss <= options.margin:
        raise UserError(f"{loss.in_words(options.margin)}; no file was written: raise --margin or keep float32")
    return proto, loss, failed


def _static(path: Path, target: Path, graph: Graph, reader: CalibrationDataReader) -> None:
    quantize_static(
        path,
        target,
        reader,
        quant_format=QuantFormat.QDQ,
        nodes_to_quantize=list(graph.layers),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def _weights(target: Path, graph: Graph) -> None:
    plain = onnx.ModelProto()
    plain.CopyFrom(graph.proto)
    # The quantiser turns the head around and then stumbles over the old shape of its weights.
    del plain.graph.value_info[:]
    # Convolutions of integers are slower than those of floats there.
    names = [node.name for node in plain.graph.node if node.name in graph.layers and node.op_type != "Conv"]
    quantize_dynamic(
        plain,
        target,
        op_types_to_quantize=["MatMul", "Gemm"],
        nodes_to_quantize=names,
        per_channel=True,
        weight_type=QuantType.QInt8,
    )


class _Pictures(CalibrationDataReader):
    """Prepared pictures, one at a time."""

    def __init__(self, pictures: Sequence[Picture], preparation: Preparation) -> None:
        self._rest: Iterator[Picture] = iter(pictures)
        self._preparation = preparation

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Give the next input of the graph, or None at the end."""
        picture = next(self._rest, None)
        return None if picture is None else {"pixels": self._preparation(picture)[None]}


def _loss(run: Run, before: Model, after: Model, options: ExportOptions) -> Loss:
    """Compare the AUROC of two files on the run's test rows."""
    part = open_table(run).where("test")
    numbers = part.frame["frame"] if "frame" in part.frame else [None] * len(part.frame)
    kept: list[int] = []
    logits: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for row, (file, frame) in enumerate(zip(part.frame["file"], numbers, strict=True)):
        try:
            picture = read_picture(file, frame=None if frame is None or pd.isna(frame) else int(frame))
        except ReadError:
            continue
        pixels = before.metadata.preparation(picture)[None]
        kept.append(row)
        for model, found in zip((before, after), logits, strict=True):
            found.append(model.logits(pixels)[0])
    if not kept:
        raise UserError("the run's table has no readable test row, so that the loss of --int8 cannot be measured")
    patients, targets = part.frame["patient"].to_numpy()[kept], np.asarray(part.targets)[kept]
    temperature = run.operating.temperature
    float32, int8 = (
        Scores(run.task, probabilities(np.stack(found), run.task, temperature), targets, patients) for found in logits
    )
    auroc = compare(int8, float32, names=("int8", "float32")).differences["auroc"]
    loss = auroc.b - auroc.a
    return Loss(auroc.b, auroc.a, loss, -auroc.high, -auroc.low, auroc.method, len(kept), 0, auroc.reason)
