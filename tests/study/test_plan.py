"""Plans of studies on volumes."""

import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pandas as pd
import pytest

from softfree.core.options import TrainOptions
from softfree.data.folds import assign_folds
from softfree.data.samples import join_cases
from softfree.data.table import read_table
from softfree.study import plan as planning
from softfree.study.options import AutoOptions
from softfree.study.plan import _memory, make_plan
from softfree.study.plan_file import StudyPlan, write_plan

SHAPES = [(24, 20, 10), (24, 20, 10), (26, 20, 10), (24, 20, 12), (24, 20, 10), (40, 30, 20)]  # columns, rows, slices


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., StudyPlan]:
    """Return a function that plans a study of six volumes."""

    def make(spacing: tuple[float, float, float], values: tuple[float, float], **options: object) -> StudyPlan:
        rng = np.random.default_rng(0)
        rows = []
        for number, shape in enumerate(SHAPES):
            voxels = rng.uniform(*values, shape).astype(np.float32)
            nibabel.save(nibabel.Nifti1Image(voxels, np.diag([*spacing, 1])), tmp_path / f"{number}.nii.gz")
            rows.append({"path": f"{number}.nii.gz", "label": "ab"[number % 2], "site": "xyz"[number // 2]})
        path = tmp_path / "volumes.csv"
        pd.DataFrame(rows).to_csv(path, index=False)
        table = read_table(path, val_fraction=0.0, test_fraction=1.0)
        return make_plan(AutoOptions(folds=2, progress=False, **options), path, table, assign_folds(table, 2))

    return make


@pytest.mark.parametrize(("values", "modality"), [((0, 900), "mr"), ((-1000, 1500), "ct")])
def test_the_grid_of_volumes_fits_all_but_the_largest_at_their_own_spacing(
    plan_of: Callable[..., StudyPlan], values: tuple[float, float], modality: str
) -> None:
    plan = plan_of((0.5, 0.5, 2.0), values)
    assert plan.values["modality"] == modality
    assert plan.values["spacing"] == [2.0, 0.5, 0.5], "slices, rows, columns"
    assert plan.values["shape"] == [20, 32, 40], "of the largest of six, in whole patches of 4 x 8 x 8"
    assert plan.values["batch_size"] == 4, "so few samples make more steps in smaller batches"
    assert plan.memory is None
    assert plan.facts[:4] == ("6 samples of 6 patients", "a: 3", "b: 3", "3 sites")


def test_a_budget_makes_voxels_coarser(plan_of: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "_seconds", lambda train, *_: float(np.prod(train.shape)))
    whole = plan_of((0.5, 0.5, 2.0), (0, 900), budget="1d")
    assert whole.values["shape"] == [20, 32, 40]
    half = plan_of((0.5, 0.5, 2.0), (0, 900), budget="13000s")
    assert half.values["spacing"] == [2.5, 0.625, 0.625]
    assert half.values["shape"] == [16, 24, 32]
    assert np.prod(half.values["shape"]) == half.seconds
    own = plan_of((0.5, 0.5, 2.0), (0, 900), train={"shape": [8, 16, 16]})
    assert own.values["shape"] == [8, 16, 16]
    assert "spacing" not in own.values


def test_a_time_measured_beside_other_programs_says_so(
    plan_of: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(planning, "busy_cores", lambda: 1.72)
    path = tmp_path / "plan.yaml"
    write_plan(path, plan_of((1, 1, 1), (0, 900), train={"shape": [8, 16, 16]}))
    assert "measured beside other programs (a load of 1.7 on" in path.read_text()


def test_without_space_on_the_disk_samples_are_not_stored_there(
    plan_of: Callable[..., StudyPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 6 * 4 * 8 * 16 * 16  # float32 of six volumes
    for free, cache in ((needed, "auto"), (2 * needed, None)):
        monkeypatch.setattr(planning, "disk_usage", lambda _, free=free: shutil._ntuple_diskusage(0, 0, free))
        plan = plan_of((1, 1, 1), (0, 900), train={"shape": [8, 16, 16]})
        assert plan.values.get("cache") == cache


def test_a_model_without_a_formula_has_no_planned_memory(small_table: Path) -> None:
    images = read_table(small_table)
    assert _memory(TrainOptions(table=Path("table.csv"), model="soft_tiny"), images) is None
    assert (_memory(TrainOptions(table=Path("table.csv"), size=64), images) or 0) > 2**20


def test_the_planned_memory_is_that_of_the_largest_case(small_table: Path) -> None:
    frame = read_table(small_table).frame
    options = TrainOptions(table=Path("table.csv"), size=64)
    planned = []
    for images in (1, 2, 4):
        numbers = frame.groupby("label").cumcount()
        names = frame["label"] + numbers.where(numbers < 4, numbers // images + 4).astype(str)
        path = small_table.with_name(f"cases_{images}.csv")
        frame[["path", "label"]].assign(case_id=names).to_csv(path, index=False)
        planned.append(_memory(options, join_cases(read_table(path))))
    assert planned[0] < planned[1] < planned[2]
    step = planned[1] - planned[0]
    assert planned[2] - planned[1] == pytest.approx(2 * step, rel=0.1)
