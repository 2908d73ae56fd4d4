import numpy as np
import pandas as pd

from softfree.data.datasets.base import DataSetRows
from softfree.data.datasets.splitting import fill_splits


def test_given_splits_stay_and_rows_without_labels_are_extra():
    frame = pd.DataFrame(
        {
            "path": [f"{n}.png" for n in range(24)],
            "label": ["a", "b"] * 12,
            "patient_id": [f"p{n // 4}" for n in range(24)],
        }
    )
    frame.loc[4, "label"] = None
    frame["split"] = ["test"] * 4 + [None] * 20
    filled, notes = fill_splits(DataSetRows(frame, fractions={"train": 0.8, "val": 0.2}), seed=0)
    assert (filled["split"][:4] == "test").all()
    assert filled["split"][4] == "extra"
    drawn = filled[5:]
    assert set(drawn["split"]) == {"train", "val"}
    assert (drawn.groupby("patient_id")["split"].nunique() == 1).all()
    assert not notes


def test_rare_findings_do_not_prevent_a_split():
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(40)], "often": np.arange(40) % 2.0, "once": 0.0})
    frame.loc[3, "once"] = 1.0
    filled, _ = fill_splits(DataSetRows(frame, ("often", "once")), seed=0)
    for name, part in {"train": 0.6, "val": 0.2, "test": 0.2}.items():
        assert (filled["split"] == name).sum() >= 40 * part / 2
        assert set(filled["often"][filled["split"] == name]) == {0, 1}


def test_only_rare_findings():
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(10)], "once": [1.0] + [0.0] * 9})
    filled, _ = fill_splits(DataSetRows(frame, ("once",)), seed=0)
    assert set(filled["split"]) == {"train", "val", "test"}


def test_forms_of_one_id_are_one_patient():
    ids = [f"{n:04d}" if k else f"{n}.0" for n in range(30) for k in range(2)]
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(60)], "label": ["a", "b"] * 30, "patient_id": ids})
    filled, _ = fill_splits(DataSetRows(frame), seed=0)
    assert (filled.groupby(np.arange(60) // 2)["split"].nunique() == 1).all()
