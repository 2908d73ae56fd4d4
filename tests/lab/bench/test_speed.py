"""The benchmark commands end to end, on small sizes, with their files."""

import json
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from softfree.core.environment import describe_machine
from softfree_lab.bench import speed
from softfree_lab.bench.cases import BenchCase
from softfree_lab.bench.options import AttentionBenchOptions, ModelBenchOptions, OrderBenchOptions
from softfree_lab.bench.speed import bench_attention, bench_model, bench_orders
from softfree_runtime.core.errors import UserError

QUICK = {"seconds": 0.02, "threads": 1, "precision": ["fp32"], "passes": ["forward"]}


@pytest.mark.slow
def test_attention(tmp_path: Path) -> None:
    told: list[str] = []
    options = AttentionBenchOptions(
        tokens=[200, 50], width=64, heads=2, methods=["softmax", "seqnorm gram"], out=tmp_path, **QUICK
    )
    text = bench_attention(options, told.append)
    rows = pd.read_csv(tmp_path / "attention.csv")
    assert rows["size"].tolist() == [50] * 3 + [200] * 3
    assert set(rows["status"]) == {"ok"}
    assert (rows.loc[rows["method"] == "products", "to_floor"] == 1).all()
    assert told == ["attention, 50, fp32, forward", "attention, 200, fp32, forward"]
    assert "| method | pass | type | 50 | 200 |" in text
    assert (tmp_path / "attention.md").read_text() == text
    record = json.loads((tmp_path / "attention.json").read_text())
    assert record["machine"] == describe_machine(threads=1)
    assert record["options"]["tokens"] == [200, 50]
    assert Image.open(tmp_path / "attention.png").width > 1000


def test_model_with_a_peer_of_any_kind_and_one_that_is_none(tmp_path: Path) -> None:
    options = ModelBenchOptions(
        sides=[64],
        models=["seqnorm_vit_nano_patch16", "seqnorm_vit_nano_patch16 literal"],
        peer=["resnet10t", "no_such_model"],
        out=tmp_path,
        **QUICK,
    )
    text = bench_model(options, lambda line: None)
    rows = pd.read_csv(tmp_path / "model.csv").set_index("method")
    assert rows["status"].to_dict() == {
        "products": "ok",
        "seqnorm_vit_nano_patch16": "ok",
        "seqnorm_vit_nano_patch16 literal": "ok",
        "resnet10t": "ok",
        "no_such_model": "failed",
    }
    assert "Not measured" in text
    assert "no_such_model" in text


def test_a_model_of_ours_is_needed_for_the_floor() -> None:
    with pytest.raises(UserError, match="at least one of softfree's"):
        bench_model(ModelBenchOptions(models=["vit_tiny_patch16_224"]))


@pytest.mark.slow
def test_orders(tmp_path: Path) -> None:
    options = OrderBenchOptions(widths=[64], multiples=[0.5, 10], out=tmp_path, **QUICK)
    text = bench_orders(options, lambda line: None)
    assert pd.read_csv(tmp_path / "orders.csv")["size"].unique().tolist() == [32, 640]
    assert text.startswith("Tokens from which the Gram order is faster")


@pytest.mark.parametrize(
    ("gram", "words"),
    [((1.0, 0.5), "none of the measured sizes"), ((4.0, 1.0), "Median: 2.00 tokens per feature.")],
)
def test_orders_are_reported_where_they_cross(
    monkeypatch: pytest.MonkeyPatch, gram: tuple[float, float], words: str
) -> None:
    """The folded order takes 2 ms for 64 and for 256 tokens: halfway between, 128 of them are 2 a feature."""
    times = {"seqnorm literal": (9.0, 9.0), "seqnorm folded": (2.0, 2.0), "seqnorm gram": gram}

    def measured(cases: list[BenchCase], *_: object) -> pd.DataFrame:
        rows = [
            {"method": case.method, "size": case.size, "ms": times[case.method][case.size == 256]} for case in cases
        ]
        return pd.DataFrame(rows).assign(passes="forward", precision="fp32", status="ok")

    monkeypatch.setattr(speed, "measure", measured)
    options = OrderBenchOptions(widths=[64], multiples=[1, 4], precision=["fp32"], passes=["forward"])
    assert words in bench_orders(options, lambda line: None)
