"""A tiny run, exported once."""

import copy
import shutil
from typing import Any

import pytest

from softfree.deployment.graph import Graph, make_graph
from softfree.deployment.options import ExportOptions
from softfree.deployment.pipeline import Exported, export
from softfree.inference.run import Run


@pytest.fixture(scope="session")
def run(trained_once: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A copy of the run, which holds the exported file too."""
    copied = shutil.copytree(trained_once.folder.parent, tmp_path_factory.mktemp("export") / "trained")
    return Run.load(copied / trained_once.folder.name)


@pytest.fixture(scope="session")
def exported_and_graph(run: Run) -> tuple[Exported, Graph]:
    graphs = []

    def make_once(*arguments: Any) -> Graph:
        graphs.append(make_graph(*arguments))
        return copy.deepcopy(graphs[-1])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softfree.deployment.pipeline.make_graph", make_once)
        return export(run.folder, ExportOptions()), graphs[0]


@pytest.fixture(scope="session")
def exported(exported_and_graph: tuple[Exported, Graph]) -> Exported:
    return exported_and_graph[0]


@pytest.fixture(scope="session")
def graph(exported_and_graph: tuple[Exported, Graph]) -> Graph:
    """Of the same run, in float32."""
    return exported_and_graph[1]
