"""Plots against the number of tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from softfree_lab.studies.plots import plot_tokens, tokens_of
from softfree_lab.studies.trials import Trial, TrialKey

Make = Callable[..., Trial]


@pytest.mark.parametrize(
    ("options", "tokens"),
    [
        ({"size": 512, "model": "seqnorm_vit_nano_patch8"}, 4096),
        ({"size": 100, "model": "sima_vit_tiny_patch16"}, 49),  # the last patches reach beyond the image
        ({"size": 512, "model": "timm_resnet18"}, None),
        ({"model": "seqnorm_vit_nano_patch8"}, None),
    ],
)
def test_tokens_of_a_trial(options: dict, tokens: int | None, make_trial: Make) -> None:
    assert tokens_of(replace(make_trial("x", 0, 0.3), options=options)) == tokens


def test_one_number_of_tokens_is_no_axis(tmp_path: Path, make_trial: Make) -> None:
    def trials(*sides: int) -> dict[TrialKey, Trial]:
        made = [replace(make_trial("x", 0, 0.3), options={"size": side, "model": "vit_patch16"}) for side in sides]
        made = [
            replace(trial, key=trial.key._replace(data=str(side)), curve=[(30, 0.6), (60, 0.95)])
            for trial, side in zip(made, sides, strict=True)
        ]
        return {trial.key: trial for trial in made}

    path = tmp_path / "tokens.png"
    assert not plot_tokens(path, trials(512))
    assert not path.exists()
    assert plot_tokens(path, trials(512, 1024))
    with Image.open(path) as image:
        assert image.width > image.height > 400
