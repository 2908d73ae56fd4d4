import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from softfree.cli import main
from softfree.data.task import Task
from softfree.evaluation.scores import Scores
from softfree.options import AttentionStudyOptions
from softfree.studies.attentions import summarise, to_markdown


def scores(noise: float, seed: int) -> Scores:
    rng = np.random.default_rng(seed)
    truth = np.arange(60) % 2
    p = np.clip(truth * 0.4 + 0.3 + noise * rng.standard_normal(60), 0, 1)
    return Scores(Task("binary", ("no", "yes")), np.column_stack([1 - p, p]), truth, np.arange(60))


def test_means_over_seeds_and_paired_differences():
    options = AttentionStudyOptions(attentions=["softmax", "seqnorm"], seeds=[0, 1])
    found = {("softmax", s): scores(0.6, s) for s in (0, 1)} | {("seqnorm", s): scores(0.1, s) for s in (0, 1)}
    summary = summarise(found, options).set_index("attention")
    for attention in options.attentions:
        areas = [roc_auc_score(found[attention, s].targets, found[attention, s].probabilities[:, 1]) for s in (0, 1)]
        assert summary.loc[attention, "auroc"] == pytest.approx(np.mean(areas))
        assert summary.loc[attention, "auroc_seeds"] == pytest.approx(np.std(areas, ddof=1))
        called = [
            balanced_accuracy_score(found[attention, s].targets, found[attention, s].probabilities[:, 1] >= 0.5)
            for s in (0, 1)
        ]
        assert summary.loc[attention, "balanced_accuracy"] == pytest.approx(np.mean(called))
    assert summary.loc["softmax", ["auroc_minus_softmax_low", "auroc_minus_softmax_high"]].tolist() == [0, 0]
    assert summary.loc["seqnorm", "auroc_minus_softmax_low"] > 0, "clearly better on the same patients"


@pytest.mark.slow
def test_a_study_runs_goes_on_and_tabulates(small_table, tmp_path, capsys):
    out = tmp_path / "study"
    arguments = [
        "study", "attentions", str(small_table), "--out", str(out), "--attentions", "[softmax, seqnorm]",
        "--seeds", "[0]", "--size", "32", "--epochs", "2", "--batch", "4",
        "--model_options", "{depth: 2, embed_dim: 32, num_heads: 2, patch_size: 8}",
    ]  # fmt: skip
    assert main(arguments) == 0
    assert "| seqnorm |" in capsys.readouterr().out
    before = (out / "seqnorm_seed0" / "model.safetensors").stat().st_mtime_ns
    assert main(arguments) == 0
    assert (out / "seqnorm_seed0" / "model.safetensors").stat().st_mtime_ns == before
    assert len(pd.read_csv(out / "runs.csv")) == 2
    assert (out / "attentions.png").stat().st_size > 1000


def test_the_table_names_the_peer():
    options = AttentionStudyOptions(attentions=["softmax", "sima"], seeds=[0])
    summary = summarise({("softmax", 0): scores(0.6, 0), ("sima", 0): scores(0.3, 0)}, options)
    text = to_markdown(summary.assign(seconds=1.0, cpu_seconds=2.0, peak_gib=0.5), 1)
    assert "minus softmax" in text
    assert text.count("\n|") == 4
