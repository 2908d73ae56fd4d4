import numpy as np
import pandas as pd

from softfree.data.sets.base import Found
from softfree.data.sets.splitting import fill_splits


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
    filled, notes = fill_splits(Found(frame, draw={"train": 0.8, "val": 0.2}), seed=0)
    assert (filled["split"][:4] == "test").all()
    assert filled["split"][4] == "extra"
    drawn = filled[5:]
    assert drawn["split"].value_counts().to_dict() == {"train": 15, "val": 4}
    assert (drawn.groupby("patient_id")["split"].nunique() == 1).all()
    assert not notes


def test_rare_findings_do_not_prevent_a_split():
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(40)], "often": np.arange(40) % 2.0, "once": 0.0})
    frame.loc[3, "once"] = 1.0
    filled, _ = fill_splits(Found(frame, ("often", "once")), seed=0)
    assert filled["split"].value_counts().to_dict() == {"train": 24, "val": 8, "test": 8}
    assert filled.groupby("split")["often"].mean().between(0.45, 0.55).all()


def test_only_rare_findings():
    frame = pd.DataFrame({"path": [f"{n}.png" for n in range(10)], "once": [1.0] + [0.0] * 9})
    filled, _ = fill_splits(Found(frame, ("once",)), seed=0)
    assert filled["split"].value_counts().to_dict() == {"train": 6, "val": 2, "test": 2}
