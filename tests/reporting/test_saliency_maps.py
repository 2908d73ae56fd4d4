"""Maps in the report."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.data.modalities.registry import MODALITIES
from softfree.data.samples import as_samples
from softfree.data.table import Table, read_table
from softfree.evaluation.examples import SORTS
from softfree.evaluation.report import Thumbnail
from softfree.inference.options import InferenceOptions
from softfree.inference.run import Run
from softfree.reporting.options import EvaluateOptions
from softfree.reporting.saliency_maps import report_maps
from softfree.reporting.scoring import predict_rows, scores_of
from softfree.saliency.methods import METHODS
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.usefixtures("without_figures")


def judged(run: Run, path: Path, images: Path | None = None) -> tuple[Table, pd.DataFrame, Any]:
    table = read_table(path, image_root=images, classes=run.task.classes, strict_patients=False)
    table = as_samples(table, MODALITIES[run.preprocessing.kind])
    frame = predict_rows(run, table, InferenceOptions(batch_size=4, progress=False))
    return table, frame, scores_of(frame, run)


def maps(run: Run, of: tuple[Table, pd.DataFrame, Any], **options: Any) -> tuple[list[Thumbnail], list[str]]:
    return report_maps(run, *of, EvaluateOptions(**options))


@pytest.fixture
def images(small_table: Path) -> Path:
    small_table.write_text(small_table.read_text().replace("low", "well").replace("high", "ill"))
    return small_table


def opened(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"), dtype=int)


def test_images_of_every_sort_and_no_names(image_run: Run, images: Path) -> None:
    shown, notes = maps(image_run, judged(image_run, images), maps=5)
    sorts = [one.caption.partition(":")[0] for one in shown]
    assert sorts == sorted(sorts, key=SORTS.index)
    assert {sort: sorts.count(sort) for sort in SORTS} == dict(zip(SORTS, (2, 2, 1), strict=True))
    for one in shown:
        assert one.beside is not None
        plain, painted = opened(one.beside), opened(one.png)
        (second,) = map(opened, one.others)
        assert plain.shape[1] == painted.shape[1] == second.shape[1]
        assert 384 < len(painted) < 480, "words below"
        assert max(plain.shape) == 384, "48 x 40 pixels, each a square"
        assert (plain[..., 0] == plain[..., 2]).all()
        assert (second[..., 0] != second[..., 2]).any()
        assert (painted[..., 0] != painted[..., 2]).any()
        assert "Red is evidence for " in one.caption
        assert "Rank correlation of the two maps: " in one.caption
    words = " ".join([*notes, *(one.caption for one in shown)])
    assert METHODS["integrated"].description in notes
    assert METHODS["occlusion"].description in notes
    assert not any(name in words for name in ("png", "patient", str(images.parent)))


def test_the_map_is_that_of_the_class_that_is_named(image_run: Run, images: Path) -> None:
    pd.read_csv(images).head(8).to_csv(images, index=False)
    shown, _ = maps(image_run, judged(image_run, images), maps=8)
    assert len(shown) == 8
    assert len({one.beside for one in shown}) == 8, "each once"


def test_what_is_gone_makes_room(image_run: Run, images: Path) -> None:
    of = judged(image_run, images)
    before, _ = maps(image_run, of, maps=1)
    for file in of[0].frame["file"]:
        if opened_is(file, before[0]):
            Path(file).unlink()
    after, _ = maps(image_run, of, maps=1)
    assert len(after) == 1
    assert after[0].beside != before[0].beside
    for file in of[0].frame["file"]:
        Path(file).unlink(missing_ok=True)
    assert maps(image_run, of, maps=1) == ([], ["No maps: none of the samples could be read."])


def opened_is(file: str, shown: Thumbnail) -> bool:
    assert shown.beside is not None
    whole = np.asarray(Image.open(file)).repeat(8, 0).repeat(8, 1)
    return np.array_equal(whole, opened(shown.beside)[..., 0])


def test_none_by_default_and_no_fewer(image_run: Run, images: Path) -> None:
    of = judged(image_run, images)
    assert maps(image_run, of) == ([], [])
    with pytest.raises(UserError, match="--maps -1: expected a number"):
        maps(image_run, of, maps=-1)


def test_streamed_samples_have_maps_of_their_own(image_run: Run, images: Path) -> None:
    of = judged(image_run, images)
    whole, streamed = (maps(image_run, of, maps=2, stream=how, token_chunk=5) for how in ("never", "always"))
    assert [one.beside for one in whole[0]] == [one.beside for one in streamed[0]]
    assert METHODS["split"].description in streamed[1]
    assert METHODS["gradcam"].description in streamed[1]


def test_bags_have_none_and_say_so(image_run: Run, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = judged(image_run, images)
    monkeypatch.setattr(type(image_run.preprocessing), "kind", "bag")
    shown, notes = maps(image_run, of, maps=2)
    assert shown == []
    assert notes[0].startswith("No maps: a run on samples of kind bag has no pixels to draw a map on")


def test_volumes_show_a_slice_and_slides_the_whole(
    volume_run: Run, slide_run: Run, shared_data: Path, tmp_path: Path
) -> None:
    volumes = sorted(str(path) for path in (shared_data / "nifti").rglob("*.nii.gz"))[:2]
    for run, files in ((volume_run, volumes), (slide_run, [str(shared_data / "wsi" / "CMU-1-Small-Region.svs")])):
        rows = pd.DataFrame({"path": files, "label": ["well", "ill"][: len(files)], "split": "test"})
        rows.to_csv(tmp_path / "table.csv", index=False)
        shown, _ = maps(run, judged(run, tmp_path / "table.csv", shared_data), maps=1)
        assert ("from the feet." in shown[0].caption) == (run is volume_run)
        assert shown[0].beside is not None
        assert 300 < max(opened(shown[0].beside).shape) <= 384
