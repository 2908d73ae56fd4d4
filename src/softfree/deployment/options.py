"""Options of an export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(kw_only=True)
class ExportOptions:
    """Export.

    Attributes:
        format: 'onnx' (one file for onnxruntime and others), 'openvino' (an .xml file with a .bin beside it) or
            'executorch' (a .pte file for phones with a .json beside it, for images of the run's size only).
        out: File to write; default: model.onnx, model.xml or model.pte in the run directory.
        table: The run's table, if it was moved after training; source of the samples for the parity check, the
            int8 calibration and the loss due to fp16 or int8, unless these are given.
        images: Samples for the parity check: a folder, a file or a table with a column path; default: the validation
            rows.
        count: Number of samples for the parity check, taken evenly from all.
        precision: 'fp16' halves the file, and linear layers compute in half precision where the processor can; sums
            over tokens stay in float32.
        int8: 'static' computes linear layers in 8-bit integers, with ranges from the calibration samples; 'weights'
            stores their weights in 8 bits and finds the ranges at run time. Both are for 'onnx' only.
        calibration: Calibration samples for int8, given as for images; default: the training rows.
        calibration_count: Number of calibration samples, taken evenly from all.
        margin: Loss of AUROC on the test rows beyond which an int8 or fp16 file is refused.
        max_shift: Change of a probability on the test rows beyond which an int8 or fp16 file is refused.
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
