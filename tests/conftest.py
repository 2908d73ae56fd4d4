"""Fixtures for all tests."""

from __future__ import annotations

import gc
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

if TYPE_CHECKING:
    from softfree.inference.run import Run

ROOT = Path(__file__).parents[1]


# Tests that run on any device; the others never ask for one.
ON_DEVICES = ("tests/attention/", "tests/models/", "tests/streaming/")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--device", default="cpu", help=f"where the tests of {', '.join(ON_DEVICES)} run: cpu or cuda; no others then"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Let tensors and modules be created on the device that was asked for."""
    config.addinivalue_line("markers", "cpu(reason): runs on the processor alone")
    if config.getoption("--device") != "cpu":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # before CUDA starts; for deterministic products
        import torch

        torch.set_default_device(config.getoption("--device"))
        torch.backends.cudnn.allow_tf32 = False  # the default for convolutions, with 10 bits of precision


def pytest_collection_finish() -> None:
    """Let the garbage collector leave alone what has been imported, which stays anyway."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()


# Their files share what is dear to make: an exported run, the server that starts the processes of benchmarks.
TOGETHER = ("tests/deployment/", "tests/lab/bench/")
# So that no process waits for the other at the end.
FIRST = (
    *TOGETHER,
    "tests/test_docs.py",
    "tests/training/test_loop.py",
    "tests/study/test_auto.py",
    "tests/attention/test_attentions.py",
    "tests/streaming/test_parallel.py",
)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what needs the processor if another device was asked for; begin with what takes longest."""
    if config.getoption("--device") != "cpu":
        kept = [item for item in items if item.nodeid.startswith(ON_DEVICES) and not item.get_closest_marker("cpu")]
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = kept
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not item.nodeid.startswith(FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Make ``--dist loadfile`` give each process whole files, and some folders as a whole."""
    if config.getvalue("dist") != "loadfile":
        return None
    config.option.loadscopereorder = False
    from xdist.scheduler import LoadFileScheduling

    class ByFileOrFolder(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            folder = next((folder for folder in TOGETHER if nodeid.startswith(folder)), None)
            return folder or super()._split_scope(nodeid)

    return ByFileOrFolder(config, log)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder of real sample images, kept outside the project; tests that need it are skipped without it."""
    folder = Path(os.environ.get("SOFTFREE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (folder / "chest_xray" / "manifest.csv").is_file():
        pytest.skip("real sample data not found: set SOFTFREE_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def own_attentions() -> Iterator[None]:
    """Forget the attentions that a module's tests register, and all that follows from their names."""
    from softfree.attention import ATTENTIONS
    from softfree.models import registry
    from softfree_lab.studies.variants import ZOO

    known = (ATTENTIONS, registry.IMAGE_MODELS, registry.VOLUME_MODELS, registry.BAG_MODELS, ZOO)
    before = [dict(names) for names in known]
    yield
    for names, old in zip(known, before, strict=True):
        names.clear()  # type: ignore[attr-defined]
        names.update(old)  # type: ignore[attr-defined]


@pytest.fixture
def small_table(tmp_path: Path) -> Path:
    """A table of 32 small images, two of each patient; class "high" is bright at the top, "low" at the bottom."""
    return write_small_table(tmp_path / "data")


@pytest.fixture(scope="session")
def make_small_table() -> Callable[[Path], Path]:
    """The same for fixtures that live longer than a test."""
    return write_small_table


def write_small_table(folder: Path, count: int = 32, classes: tuple[str, str] = ("low", "high")) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    rows = []
    for number in range(count):
        label = classes[number // 2 % 2]
        pixels = rng.integers(0, 120, (48, 40), dtype=np.uint8)
        pixels[slice(0, 20) if label == classes[1] else slice(28, 48)] += 100
        Image.fromarray(pixels).save(folder / f"{number:02}.png")
        split = "train" if number < count // 2 else "val" if number < 3 * count // 4 else "test"
        rows.append((f"{number:02}.png", label, f"patient{number // 2}", split, "AB"[number % 2]))
    table = folder / "table.csv"
    pd.DataFrame(rows, columns=["path", "label", "patient_id", "split", "site"]).to_csv(table, index=False)
    return table


@contextmanager
def leave_out_figures() -> Iterator[None]:
    """Write reports without their figures, which take half the time of a small training run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("softfree.evaluation.report._figures", lambda report, matrix: {})
        yield


@pytest.fixture
def without_figures() -> Iterator[None]:
    """For tests that train and do not look at the figures of the report."""
    with leave_out_figures():
        yield


@pytest.fixture(scope="session")
def quick() -> dict[str, Any]:
    """Options of a training run that takes seconds."""
    return {
        "model": "seqnorm_vit_nano_patch16",
        "model_options": {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
        "size": 32, "epochs": 1, "batch_size": 8, "progress": False, "accelerator": "cpu",
    }  # fmt: skip


@pytest.fixture(scope="session")
def trained_once(tmp_path_factory: pytest.TempPathFactory, quick: dict[str, Any]) -> Run:
    """What training gives on the small table, which lies beside it in ``data``; not to be changed."""
    from softfree.core.options import TrainOptions
    from softfree.training.loop import train

    folder = tmp_path_factory.mktemp("trained")
    with leave_out_figures():
        return train(TrainOptions(table=write_small_table(folder / "data"), out=folder / "run", **quick)).run


@pytest.fixture(scope="module")
def run(trained_once: Run, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """That run; each module has a copy of its own, and of the images beside it."""
    from softfree.inference.run import Run

    copied = shutil.copytree(trained_once.folder.parent, tmp_path_factory.mktemp("copied") / "trained")
    return Run.load(copied / trained_once.folder.name)


@pytest.fixture(scope="session")
def write_run() -> Callable[..., Run]:
    """Writes a run as training writes it, with fresh weights of which every part is felt in the logits."""
    return _write_run


def _write_run(folder: Path, name: str, preprocessing: Any, **options: Any) -> Run:
    import torch

    from softfree.data.modalities.registry import preprocessing_to_config
    from softfree.inference.run import Run
    from softfree.inference.run_directory import RunDirectory
    from softfree.models.registry import build_model

    folder.mkdir()
    tiny = {"depth": 2, "embed_dim": 24, "num_heads": 2}
    config = {
        "task": {"kind": "binary", "classes": ["well", "ill"]},
        "preprocessing": preprocessing_to_config(preprocessing),
        "model": {"name": name, "num_classes": 2, **preprocessing.model_arguments(), **tiny, **options},
        "options": {},
    }
    RunDirectory(folder).write_config(config)
    torch.manual_seed(0)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    RunDirectory(folder).write_weights(model.state_dict())
    return Run.load(folder)


@pytest.fixture
def image_run(tmp_path: Path, write_run: Callable[..., Run]) -> Run:
    """A run on images, with fresh weights."""
    from softfree.data.modalities.image import ImagePreprocessing

    preprocessing = ImagePreprocessing.create("radiograph", 64, "pad")
    return write_run(tmp_path / "image_run", "seqnorm_vit_nano_patch16", preprocessing)


@pytest.fixture
def volume_run(tmp_path: Path, write_run: Callable[..., Run]) -> Run:
    """A run on volumes, with fresh weights."""
    from softfree.data.modalities.volume import VolumePreprocessing

    preprocessing = VolumePreprocessing.create("mr", (32, 48, 40), (1.5, 1.5, 1.5))
    return write_run(tmp_path / "volume_run", "seqnorm_vit3d_nano", preprocessing, patch_size=[4, 8, 8])


@pytest.fixture
def slide_run(tmp_path: Path, write_run: Callable[..., Run]) -> Run:
    """A run on slides, with fresh weights."""
    from softfree.data.modalities.slide import SlidePreprocessing

    return write_run(tmp_path / "slide_run", "seqnorm_vit_nano_patch16", SlidePreprocessing.create(8.0))
