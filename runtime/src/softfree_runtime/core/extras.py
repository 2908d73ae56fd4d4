"""Optional libraries: which extra of softfree brings each of them."""

from __future__ import annotations

from softfree_runtime.core.errors import UserError

EXTRA_OF = {
    "nibabel": "volumes",
    "openslide": "slides",
    "wsidicom": "slides",
    "h5py": "slides",
    "skimage": "slides",
    "onnx": "export",
    "onnxscript": "export",
    "openvino": "export",
    "executorch": "executorch",
    "highdicom": "dicom",
    "pynetdicom": "serve",
    "dicomweb_client": "serve",
    "segmentation_models_pytorch": "dense",
    "pycocotools": "dense",
    "openpyxl": "datasets",
    "mlflow": "mlflow",
    "wandb": "wandb",
    "optuna": "tune",
    "docx": "report",
    "usearch": "index",
    "cleanlab": "audit",
}


def missing_library(error: ModuleNotFoundError) -> UserError | None:
    """Turn the failed import of an optional library into one line with the command that installs it.

    Args:
        error: What Python raised.

    Returns:
        The error for the user; None if the library belongs to no extra.
    """
    name = (error.name or "").partition(".")[0]
    if name not in EXTRA_OF:
        return None
    return UserError(
        f"this needs {name}, which is not installed; install it with: pip install 'softfree[{EXTRA_OF[name]}]'"
    )
