"""Predictions from an exported file with numpy and onnxruntime: nothing here imports torch or pandas.

Pictures do without SciPy, too; volumes, slides and bags of tiles need the libraries that read their files.

``softfree.runtime.predict("model.onnx", ["a.png", "folder"])`` gives the rows of ``softfree predict``.
"""

from softfree.runtime.predicting import predict, predict_to_file
from softfree.runtime.session import Model

__all__ = ["Model", "predict", "predict_to_file"]
