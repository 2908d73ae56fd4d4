"""A folder of features as softfree features writes it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from softfree.archive.inputs import write_inputs
from softfree.embeddings.feature_folder import FeatureFolder

Write = Callable[..., FeatureFolder]


def write_folder(
    root: Path,
    vectors: np.ndarray,
    files: Sequence[str],
    *,
    failed: Sequence[int] = (),
    model: str = "a" * 64,
    frames: Sequence[int | None] | None = None,
    **columns: Sequence[Any],
) -> FeatureFolder:
    """Write features (n, D) of files; those with a number in ``failed`` have none."""
    root.mkdir(parents=True, exist_ok=True)
    is_failed = np.isin(np.arange(len(files)), list(failed))
    table = pa.table(
        {
            "input": np.arange(len(files)),
            "path": [Path(file).name for file in files],
            "status": np.where(is_failed, "corrupt", "ok").tolist(),
            "reason": np.where(is_failed, "damaged", "").tolist(),
            "features": pa.FixedSizeListArray.from_arrays(
                pa.array(np.asarray(vectors, np.float32).ravel()), vectors.shape[1], mask=pa.array(is_failed)
            ),
            **columns,
        }
    )
    pq.write_table(table, root / "results.parquet", row_group_size=7)
    numbers = frames or [None] * len(files)
    inputs = [(Path(file).name, file, frame) for file, frame in zip(files, numbers, strict=True)]
    write_inputs(root / "inputs.parquet", inputs)
    identity = {"task": "features", "encoder": "run", "model_digest": model, "features": vectors.shape[1]}
    (root / "archive.json").write_text(json.dumps(identity))
    return FeatureFolder.open(root)


@pytest.fixture
def write() -> Write:
    return write_folder
