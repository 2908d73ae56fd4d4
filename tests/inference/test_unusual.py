"""Distances from the training samples: their formula, their rate, and their columns."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.covariance import LedoitWolf

from softfree.core.options import StreamOptions
from softfree.data.dataset import SampleDataset
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.inference.predict import predict
from softfree.inference.run import Run
from softfree.inference.unusual import Distances, TokenMeans, TrainingDistribution
from softfree.training.results import _add_distances
from softfree_runtime.core.errors import UserError


def features(rng: np.random.Generator, n: int, shift: float = 0.0) -> np.ndarray:
    mixing = np.random.default_rng(0).normal(size=(12, 12))
    return (5 * rng.normal(size=(n, 12)) @ mixing + 100 + shift).astype(np.float32)


def test_distances_are_those_of_scikit_learn() -> None:
    rng = np.random.default_rng(1)
    training, validation, new = features(rng, 200), features(rng, 99), features(rng, 50)
    ours = TrainingDistribution.fit(training, validation, np.arange(99))
    assert ours is not None
    standard = (training - training.mean(axis=0)) / training.std(axis=0)
    estimate = LedoitWolf().fit(standard)

    def theirs(x: np.ndarray) -> np.ndarray:
        return np.sqrt(estimate.mahalanobis((x - training.mean(axis=0)) / training.std(axis=0)))

    limit = np.sort(theirs(validation))[94]  # the 95th of 99 is the smallest that 5 of 100 exceed
    np.testing.assert_allclose(ours.distance(new), theirs(new) / limit, rtol=1e-3)
    assert ours.rate == 0.05
    assert (ours.distance(validation) > 1).mean() == pytest.approx(4 / 99)


def test_the_rate_holds_for_new_samples_and_others_are_far() -> None:
    rng = np.random.default_rng(2)
    rates = []
    for _ in range(30):
        fitted = TrainingDistribution.fit(features(rng, 60), features(rng, 59), np.arange(59))
        assert fitted is not None
        rates.append((fitted.distance(features(rng, 500)) > 1).mean())
        assert fitted.distance(features(rng, 5, shift=60.0)).min() > 1
    assert 0.03 < np.mean(rates) < 0.06


def test_few_patients_state_the_rate_that_they_can_give() -> None:
    rng = np.random.default_rng(3)
    validation = features(rng, 36)
    fitted = TrainingDistribution.fit(features(rng, 40), validation, np.arange(36) // 4)
    assert fitted is not None
    assert fitted.rate == 1 / 10
    assert fitted.distance(validation).max() == pytest.approx(1, abs=2e-4)


def test_unreadable_and_constant_samples_do_no_harm() -> None:
    rng = np.random.default_rng(4)
    training, validation = features(rng, 40), features(rng, 30)
    training[:, 3] = validation[:, 3] = 7.0
    training[0] = validation[0] = np.nan
    fitted = TrainingDistribution.fit(training, validation, np.arange(30))
    assert fitted is not None
    assert np.isfinite(fitted.distance(validation[1:])).all()
    assert np.isnan(fitted.distance(validation[:1])).all()
    assert fitted.distance(np.where(np.arange(12) == 3, 8.0, validation[1:2]))[0] > 100
    assert TrainingDistribution.fit(training[:2], validation, np.arange(30)) is None
    assert TrainingDistribution.fit(training, validation[:1], np.arange(1)) is None


def test_a_distribution_comes_back_and_damage_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    fitted = TrainingDistribution.fit(features(rng, 40), features(rng, 30), np.arange(30))
    assert fitted is not None
    path = tmp_path / "distribution.safetensors"
    fitted.write(path)
    again = TrainingDistribution.read(path)
    np.testing.assert_array_equal(again.whitening, fitted.whitening)
    np.testing.assert_array_equal(again.mean, fitted.mean)
    assert again.rate == fitted.rate
    replace(fitted, whitening=fitted.whitening[:3]).write(path)
    with pytest.raises(UserError, match=r"shapes \(12,\) and \(3, 12\)"):
        TrainingDistribution.read(path)
    path.write_bytes(b"no tensors")
    with pytest.raises(UserError, match="cannot be read"):
        TrainingDistribution.read(path)


@pytest.fixture
def images(run: Run) -> list[Path]:
    return sorted((run.folder.parent / "data").glob("*.png"))


def test_predictions_say_what_is_unusual(run: Run, images: list[Path], tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 40), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    rows = predict(run, [*images[24:], tmp_path / "noise.png", tmp_path / "gone.png", *images[:2]])
    assert list(rows)[-4:] == ["set", "abstain", "distance", "unusual"]
    assert rows["distance"][8] > 2 * rows["distance"][:8].max()
    assert rows["unusual"][8]
    assert rows.loc[9, ["distance", "unusual"]].isna().all()
    assert (rows["unusual"].drop(9) == (rows["distance"].drop(9) > 1)).all()
    stored = pd.read_csv(run.folder / "predictions.csv").set_index("row")
    np.testing.assert_allclose(rows["distance"][:8], stored.loc[24:, "distance"], rtol=1e-4)
    assert stored.loc[16:23, "distance"].max() == pytest.approx(1, abs=2e-4), "four validation patients: the largest"
    assert stored["unusual"].equals(stored["distance"] > 1)


def test_streaming_batches_and_views_change_no_distance(run: Run, images: list[Path]) -> None:
    expected = predict(run, images[20:27])["distance"]
    for options in (
        InferenceOptions(stream="always", token_chunk=5, progress=False),
        InferenceOptions(batch_size=3, progress=False),
        InferenceOptions(tta=3, batch_size=2, progress=False),
    ):
        np.testing.assert_allclose(predict(run, images[20:27], options)["distance"], expected, rtol=1e-5)
    assert run.predict(images[20:27], stream=StreamOptions(stream="always"))["distance"].notna().all()


def test_there_is_one_forward_pass(run: Run, images: list[Path]) -> None:
    calls = []
    run.model.register_forward_pre_hook(lambda *_: calls.append(1))
    predict(run, images[:8], InferenceOptions(batch_size=4, progress=False))
    assert len(calls) == 2


def test_an_ensemble_takes_the_mean(run: Run, images: list[Path]) -> None:
    own = run.distributions[0]
    other = TrainingDistribution(own.mean + 0.1, own.whitening * 2, own.rate)
    both = Distances([own, other], 3)
    tokens = np.random.default_rng(0).normal(size=(2, len(own.mean)))
    both([2, 0], [tokens, tokens])
    expected = (own.distance(tokens) + other.distance(tokens)) / 2
    np.testing.assert_array_equal(both.values[[2, 0]], expected)
    assert both.columns([0])["distance"].isna().tolist() == [True, True, False]


def test_runs_without_a_distribution_have_no_columns(run: Run, images: list[Path], tmp_path: Path) -> None:
    old = Path(shutil.copytree(run.folder, tmp_path / "old"))
    (old / "distribution.safetensors").write_bytes(b"something else")
    with pytest.raises(UserError, match="not the file that training wrote"):
        predict(Run.load(old), images[0])
    (old / "distribution.safetensors").unlink()
    (old / "calibration.json").write_text('{"temperature": 1.0, "thresholds": {"low": 0.5}}')
    assert list(predict(Run.load(old), images[0]))[-1] == "predicted"


def test_models_without_tokens_say_so(run: Run, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    class Plain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.flatten(1)[:, :2]

    copied = Run.load(shutil.copytree(run.folder, tmp_path / "copied"))
    dataset = SampleDataset(["a.png"], None, run.preprocessing)
    means = TokenMeans(1)
    assert infer(Plain(), dataset, 2, on_token_means=means).failed[0].status == "missing"
    frame = pd.DataFrame({"patient": [0], "status": ["ok"]})
    _add_distances(copied, {"val": frame}, {"val": means}, dataset, InferenceOptions(progress=False))
    assert "the model has no tokens" in capsys.readouterr().err
    assert "distance" not in frame
    assert not copied.directory.distribution.exists(), "that of an earlier training"


def test_two_training_samples_give_distances_by_their_variances() -> None:
    training = np.array([[0.0, 10.0, 5.0], [2.0, 14.0, 5.0]])
    fitted = TrainingDistribution.fit(training, training, np.arange(2))
    assert fitted is not None
    near, far = fitted.distance(np.array([[1.0, 12.0, 5.0], [5.0, 20.0, 5.0]]))
    assert near == pytest.approx(0, abs=1e-5)
    assert far == pytest.approx(4, rel=1e-3)  # four standard deviations in each, where the samples have one
