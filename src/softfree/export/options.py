"""From a run to a file that runs without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class ExportOptions:
    """A file that runs where PyTorch does not, proven to give the same logits.

    Attributes:
        format: 'onnx', one file for onnxruntime and others; 'openvino', an .xml file with a .bin beside it; or
            'executorch', a .pte file for phones with a .json beside it, for images of the run's size only.
        out: File to write; default: model.onnx, model.xml or model.pte in the run directory.
        table: The run's table, where it was moved after training; it gives the samples for the proof, for the ranges of
            int8, and for what int8 and float16 cost, where these are not named.
        images: Samples for the proof: a folder, a file or a table with a column path; default: the validation rows.
        count: Samples to use for the proof, taken evenly from all.
        precision: 'fp32'; or 'fp16', a file of half the size, which calculates linear layers in half precision
            where the machine can, and sums over tokens in float32.
        int8: 'static' calculates the linear layers in 8-bit integers, with ranges from the calibration
            samples; 'weights' stores their weights in 8 bits and finds the ranges as it runs. Both for 'onnx' only.
        calibration: Samples that show the ranges, as in images; default: the training rows.
        calibration_count: Calibration samples to use, taken evenly from all.
        margin: Loss of AUROC on the test rows beyond which an int8 or float16 file is refused.
        max_shift: Change of a probability on the test rows beyond which an int8 or float16 file is refused.
    """

    format: Literal["onnx", "openvino", "executorch"] = "onnx"
    out: Path | None = None
    table: Path | None = None
    images: Path | None = None
    count: int = 8
    precision: Literal["fp32", "fp16"] = "fp32"
    int8: Literal["none", "static", "weights"] = "none"
    calibration: Path | None = None
    calibration_count: int = 64
    margin: float = 0.01
    max_shift: float = 0.1
