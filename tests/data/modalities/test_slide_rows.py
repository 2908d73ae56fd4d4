"""Slides that are read band by band, and what becomes of those that are too long to be read at once."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from softfree.core.options import StreamOptions
from softfree.data.dataset import SampleDataset
from softfree.data.modalities import slide_rows
from softfree.data.modalities.slide import SlidePreprocessing
from softfree.data.modalities.slide_rows import SlideRows, load_or_open, open_rows
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.saliency.api import explain
from softfree.saliency.options import ExplainOptions
from softfree_runtime.core.errors import ReadError

MPP = 8.0
NAMES = ["CMU-1-Small-Region.svs", "cptac-brca_15BR001_level.dcm"]


@pytest.fixture
def svs(shared_data: Path) -> str:
    return str(shared_data / "wsi" / NAMES[0])


@pytest.mark.parametrize(
    ("name", "tissue", "held"),
    [
        *((NAMES[0], tissue, held) for tissue in (False, True) for held in (1, 2**12, 2**26)),
        (NAMES[1], True, 1),
        (NAMES[1], False, 2**26),
    ],
)
def test_bands_are_those_of_the_whole(
    shared_data: Path, name: str, tissue: bool, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slide_rows, "_HELD", held)
    source = str(shared_data / "wsi" / name)
    preprocessing = SlidePreprocessing.create(16.0 if name.endswith("dcm") else MPP, tissue=tissue)
    whole = preprocessing.load(source)
    rows = open_rows(preprocessing, source)
    assert rows.shape == whole.shape
    # With one token row again above each band, as a convolutional stem is given it.
    for top in range(0, whole.shape[1], 37):
        first, bottom = max(0, top - 5), min(top + 37, whole.shape[1])
        got = rows.read(first, bottom).numpy()
        assert got.dtype == np.float32
        # A pixel's position is rounded differently: by one of 255 steps, over a standard deviation of about 0.225.
        np.testing.assert_allclose(got, whole[:, first:bottom], atol=1.01 / 255 / 0.224)


def test_rows_pass_to_other_processes(svs: str) -> None:
    rows = open_rows(SlidePreprocessing.create(MPP), svs)
    again = pickle.loads(pickle.dumps(rows))
    assert again.shape == rows.shape
    torch.testing.assert_close(again.read(3, 9), rows.read(3, 9), rtol=0, atol=0)


def test_only_what_is_too_long_is_opened(svs: str) -> None:
    assert isinstance(load_or_open(SlidePreprocessing(MPP), svs), torch.Tensor)
    assert isinstance(load_or_open(SlidePreprocessing(MPP, max_side=50), svs), SlideRows)
    with pytest.raises(ReadError, match="no such file"):
        load_or_open(SlidePreprocessing(MPP, max_side=50), svs + ".gone")


def runs(write_run: Callable[..., Run], folder: Path, name: str = "seqnorm_vit_nano_patch16") -> tuple[Run, Run]:
    """The same model behind steps for which the slide is short enough, and too long."""
    return (
        write_run(folder / "short", name, SlidePreprocessing(MPP)),
        write_run(folder / "long", name, SlidePreprocessing(MPP, max_side=50)),
    )


@pytest.mark.parametrize("num_workers", [0, 1])
def test_a_prediction_of_a_long_slide(
    write_run: Callable[..., Run], svs: str, tmp_path: Path, num_workers: int
) -> None:
    short, long = runs(write_run, tmp_path)
    want, got = (run.predict([svs, svs + ".gone"], num_workers=num_workers) for run in (short, long))
    assert list(got["status"]) == list(want["status"]) == ["ok", "missing"]
    np.testing.assert_allclose(got["raw_ill"][0], want["raw_ill"][0], atol=1e-3)


def test_a_map_of_a_long_slide(write_run: Callable[..., Run], svs: str, tmp_path: Path) -> None:
    short, long = runs(write_run, tmp_path)
    (want,), (got,) = (
        explain(run, [svs], ExplainOptions(out=tmp_path / str(number), method="split"))
        for number, run in enumerate((short, long))
    )
    assert got.images[0].token_grid == want.images[0].token_grid
    (want,), (got,) = want.maps, got.maps
    np.testing.assert_allclose(got.values, want.values, atol=1e-3 * np.abs(want.values).max())
    assert got.values.sum() == pytest.approx(got.log_odds)


@pytest.mark.parametrize(("name", "stream"), [("seqnorm", "never"), ("softmax", "auto")])
def test_what_cannot_stream_keeps_its_reason(
    write_run: Callable[..., Run], svs: str, tmp_path: Path, name: str, stream: str
) -> None:
    _, run = runs(write_run, tmp_path, f"{name}_vit_nano_patch16")
    options = StreamOptions(stream=stream)  # type: ignore[arg-type]
    (row,) = run.predict([svs], stream=options).to_dict("records")
    assert row["status"] == "too_large"
    assert "--mpp" in row["reason"]
    (map_of_it,) = explain(run, [svs], ExplainOptions(out=tmp_path, stream=stream))  # type: ignore[arg-type]
    assert map_of_it.error is not None
    assert map_of_it.error.status == "too_large"


def test_damage_within_a_long_slide_is_a_row_with_a_reason(
    write_run: Callable[..., Run], svs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, run = runs(write_run, tmp_path)
    dataset = SampleDataset([svs, svs], None, run.preprocessing)
    whole = SlideRows._pixels

    def damaged(rows: SlideRows, top: int, bottom: int) -> np.ndarray:
        if not damaged_once:
            damaged_once.append(True)
            raise ReadError("damaged pixels of the slide", "corrupt", path=svs)
        return whole(rows, top, bottom)

    damaged_once: list[bool] = []
    monkeypatch.setattr(SlideRows, "_pixels", damaged)
    logits = infer(run.model, dataset, 2)
    assert {index: error.status for index, error in logits.failed.items()} == {0: "corrupt"}
    assert np.isfinite(logits.values[1]).all()


def test_no_space_for_the_tokens_is_a_row_with_a_reason(
    write_run: Callable[..., Run], svs: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short, long = runs(write_run, tmp_path)
    monkeypatch.setattr("softfree.streaming.store.available_memory", lambda: 1000)
    for run in (short, long):
        rows = run.predict([svs], stream=StreamOptions(stream="always"))
        assert rows["status"][0] == "too_large"
        assert rows["reason"][0].startswith(f"{svs}: cannot keep")
        assert "--token-store" in rows["reason"][0]
    (map_of_it,) = explain(long, [svs], ExplainOptions(out=tmp_path, method="split"))
    assert map_of_it.error is not None
    assert map_of_it.error.status == "too_large"
    assert str(map_of_it.error).startswith(f"{svs}: cannot keep")


def test_slides_do_not_wait_for_others_of_their_shape(write_run: Callable[..., Run], tmp_path: Path) -> None:
    """Each slide has a shape of its own: with all of them waiting for company, memory would hold the whole table."""
    from softfree_runtime.core.batching import WAITING

    run = write_run(tmp_path / "run", "seqnorm_vit_nano_patch16", SlidePreprocessing(MPP))
    held: list[int] = []

    class Shapes(SampleDataset):
        def __getitem__(self, key):
            held.append(key - len(seen))
            return {"image": torch.zeros(3, 16, 16 * (key + 1)), "target": torch.zeros(()), "index": key}

    seen: list[int] = []
    run.model.register_forward_hook(lambda *_: seen.append(1))
    logits = infer(
        run.model, Shapes(["x"] * 12, None, run.preprocessing), 2, InferenceOptions(batch_size=4, progress=False)
    )
    assert np.isfinite(logits.values).all()
    assert max(held) <= WAITING + 1
