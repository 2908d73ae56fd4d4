"""Libraries that report to their makers how they are used, imported such that they do not.

onnxruntime (1.31) and OpenVINO (2026) do so by default: as soon as they are imported they make an id of the machine in
the home folder and look up a collector's host name. Who works with patients' images has not agreed to that. Each of
them is imported here and nowhere else.
"""

from __future__ import annotations

import importlib
import os
import sys
from types import ModuleType

from softfree_runtime.core.errors import UserError

# Read when a library is imported; its own call to switch reports off comes too late.
DECLINED = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def decline() -> None:
    """Decline for this process and those that it starts, unless the user has said otherwise."""
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
    """Import OpenVINO as if the package that reports its use were not installed.

    Raises:
        UserError: It is not installed.
    """
    # None makes the import of this name fail, and OpenVINO has a stand-in for that.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    try:
        return importlib.import_module("openvino")
    except ImportError:
        raise UserError("--format openvino needs OpenVINO; get it with: pip install softfree[export]") from None
