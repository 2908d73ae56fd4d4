import math

import pandas as pd
import pytest

from softfree.evaluation.plots import Dot, dots, learning_curves

HISTORY = pd.DataFrame(
    {
        "epoch": [0, 1, 2, 3],
        "train_loss": [1.0, 0.7, 0.5, 0.4],
        "val_loss": [1.1, 0.9, None, 0.95],
        "val_auroc": [0.6, 0.8, 0.85, 0.82],
        "lr": [1e-3, 8e-4, 4e-4, 0.0],
    }
)


def test_learning_curves() -> None:
    panels = learning_curves(HISTORY).axes
    assert [axes.get_ylabel() for axes in panels] == ["Loss", "AUROC", "Learning rate"]
    validation = next(line for line in panels[0].get_lines() if line.get_label() == "validation")
    assert list(validation.get_xdata()) == [0, 1, 3]
    assert panels[1].texts[0].get_text() == "best: epoch 2"
    low, high = panels[1].get_ylim()
    assert low < 0.6 < 0.85 < high


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("columns", [["train_loss"], ["val_auroc"], ["train_loss", "val_loss"], ["lr"]])
def test_what_was_not_logged_is_left_out(columns: list[str]) -> None:
    for rows in (1, 4):
        figure = learning_curves(HISTORY[["epoch", *columns]].head(rows))
        figure.draw_without_rendering()
        assert len(figure.axes) == 1


def test_small_differences_are_not_blown_up() -> None:
    flat = pd.DataFrame({"epoch": range(5), "val_auroc": [0.9951, 0.9953, 0.9952, 0.995, 0.9954]})
    low, high = learning_curves(flat).axes[0].get_ylim()
    assert high - low >= 0.1 - 1e-9
    assert high <= 1.01


@pytest.mark.filterwarnings("error")
def test_dots() -> None:
    nan = math.nan
    rows = [Dot("this", 0.9, 0.8, 0.95), Dot("point", 0.7, nan, nan), Dot("none", nan, nan, nan)]
    axes = dots(rows, "AUROC", 0.9).axes[0]
    assert [text.get_text() for text in axes.texts] == ["this", "point", "none", "no value"]
    assert axes.get_ylim()[0] > axes.get_ylim()[1]  # from top to bottom
    dots([], "AUROC")
    dots([Dot("none", nan, nan, nan)], "AUROC", nan).draw_without_rendering()
