"""Predictions from an exported file with numpy and onnxruntime: nothing here imports torch or pandas.

Images do not need SciPy; volumes, slides and bags of tiles need the libraries that read their files.

``softfree_runtime.predict("model.onnx", ["a.png", "folder"])`` returns the rows of ``softfree predict``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from softfree_runtime.core.telemetry import decline

if TYPE_CHECKING:
    from softfree_runtime.prediction import predict, predict_to_file
    from softfree_runtime.session import Model

decline()  # before any library with telemetry is imported

__version__ = "0.1.0"
__all__ = ["Model", "__version__", "predict", "predict_to_file"]


def __getattr__(name: str) -> Any:
    """Import public names on first use."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from softfree_runtime import prediction, session

    return getattr(session if name == "Model" else prediction, name)
