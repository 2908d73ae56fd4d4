"""Import of libraries with telemetry, with telemetry switched off.

By default, onnxruntime (1.31) and OpenVINO (2026) create a machine id in the home folder and look up a collector's host
name as soon as they are imported; MLflow counts what is used, and Weights & Biases reports errors. Users who work with
patients' images have not consented to that. The first two are imported only here.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from softfree_runtime.core.errors import UserError

# Read when a library is imported; calling its function to switch telemetry off is too late.
DECLINED = {
    "ORT_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_ERROR_REPORTING": "false",
}


def decline() -> None:
    """Switch telemetry off for this process and its children, unless the user has set the variables."""
    for name, value in DECLINED.items():
        os.environ.setdefault(name, value)


def import_onnxruntime(module: str = "onnxruntime") -> ModuleType:
    """Import onnxruntime, or a module of it.

    Raises:
        UserError: It is not installed.
    """
    decline()
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError("exported files need onnxruntime; get it with: pip install onnxruntime") from None


def import_openvino() -> ModuleType:
    """Import OpenVINO as if its telemetry package were not installed.

    Raises:
        UserError: It is not installed.
    """
    # None makes the import of this name fail, and OpenVINO falls back to a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise UserError("--format openvino needs OpenVINO; get it with: pip install softfree[export]") from None
