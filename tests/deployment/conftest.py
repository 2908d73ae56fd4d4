"""A tiny run, trained and exported once."""

from collections.abc import Callable
from pathlib import Path

import pytest

from softfree.core.options import TrainOptions
from softfree.deployment.graph import Graph, make_graph
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import Exported, export
from softfree.inference.run import Run
from softfree.training.loop import train


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory, make_small_table: Callable[[Path], Path]) -> Run:
    folder = tmp_path_factory.mktemp("export")
    return train(
        TrainOptions(
            table=make_small_table(folder / "data"), out=folder / "run", model="seqnorm_vit_nano_patch16",
            model_options={"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8}, size=32, epochs=2,
            batch_size=8, lr=3e-3, progress=False, accelerator="cpu",
        )
    ).run  # fmt: skip


@pytest.fixture(scope="session")
def exported(run: Run) -> Exported:
    return export(run.folder, ExportOptions())


@pytest.fixture(scope="session")
def graph(run: Run) -> Graph:
    """Of the same run, in float32."""
    return make_graph(run.model.cpu(), 1, 32)
