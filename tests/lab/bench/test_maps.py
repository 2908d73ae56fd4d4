"""The benchmark of maps: what is measured, compared, left out and refused; and the rows that it made faster."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from softfree_lab.bench import maps
from softfree_lab.bench.maps import FORWARD, MapCase, bench_maps, make_model, numerical_error
from softfree_lab.bench.measure import Budget
from softfree_lab.bench.options import MapBenchOptions
from softfree_lab.cli import main
from softfree_runtime.core.errors import UserError

NANO = "seqnorm_vit_nano_patch16"
CASE = MapCase("model", "rollout", 64, model=NANO)


@pytest.mark.slow
def test_every_map_has_its_ratio(tmp_path: Path) -> None:
    options = MapBenchOptions(
        model=NANO, sides=[64], streamed_sides=[96], methods=["integrated", "rollout"], token_store=tmp_path / "tokens",
        threads=1, seconds=0.01, out=tmp_path,
    )  # fmt: skip
    told: list[str] = []
    text = bench_maps(options, told.append)
    assert told == ["in memory, 64 x 64", "stream, 96 x 96"]
    rows = pd.read_csv(tmp_path / "maps.csv")
    assert rows["method"].tolist() == 2 * [FORWARD, "integrated", "rollout"]
    assert rows["tokens"].tolist() == 3 * [16] + 3 * [36]
    assert rows["status"].tolist() == ["ok"] * 4 + ["failed", "ok"]
    assert "does not stream" in rows.loc[4, "reason"]
    done = rows[rows["status"] == "ok"].set_index(["way", "method"])
    assert (done[["cpu_ms", "peak_mib"]] > 0).all(axis=None)
    for way in ("in memory", "stream"):
        forward = done.loc[(way, FORWARD), "cpu_ms"]
        assert done.loc[(way, "rollout"), "to_forward"] == pytest.approx(
            done.loc[(way, "rollout"), "cpu_ms"] / forward, rel=1e-4
        )
    assert done.loc[("in memory", "integrated"), "to_forward"] > 8  # forward passes, and as many back
    assert (tmp_path / "maps.md").read_text() == text
    assert "| stream | 96 x 96 | 36 | integrated | failed | --method integrated does not stream" in text
    assert str(tmp_path) not in (tmp_path / "maps.json").read_text()
    assert json.loads((tmp_path / "maps.json").read_text())["options"]["token_store"] == "a folder on a disk"


@pytest.mark.parametrize("way", ["in memory", "stream"])
@pytest.mark.parametrize("method", [FORWARD, "split", "gradient", "gradcam", "rollout", "attention"])
def test_maps_are_right_before_they_are_timed(method: str, way: str) -> None:
    assert numerical_error(replace(CASE, method=method, way=way)) < maps.TOLERANCES["fp32"]


def test_an_attention_that_cannot_stream_says_so() -> None:
    options = MapBenchOptions(
        model="softmax_vit_nano_patch16", sides=[], streamed_sides=[64], methods=["rollout"], threads=1, seconds=0.01
    )
    text = bench_maps(options, lambda line: None)
    assert text.count("| failed | SoftmaxAttention has no streaming form") == 2


def test_what_takes_too_long_or_too_much_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    before: list[dict[str, object]] = [
        {"method": "rollout", "way": way, "status": "ok", "size": size, "cpu_ms": ms}
        for way, size, ms in (("in memory", 16, 1e3), ("in memory", 32, 4e3), ("stream", 32, 1e6))
    ]
    assert maps._reason_to_skip(CASE, Budget(1, 17), before) == ""
    assert maps._reason_to_skip(CASE, Budget(1, 15), before) == "would take about 16 s per run"
    monkeypatch.setattr(maps, "available_or_assumed", lambda: 10**6)
    assert "GiB" in maps._reason_to_skip(CASE, Budget(1, 17), before)


def test_tokens_that_wait_on_a_disk_take_no_memory() -> None:
    stream = replace(CASE, size=4096, way="stream")
    kept = maps._bytes(stream) - maps._bytes(replace(stream, store="folder"))
    model = make_model(stream)
    assert kept == 4 * (len(model.blocks) + 1) * model.embed_dim * 256**2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"methods": ["rolout"]}, "did you mean rollout"),
        ({"model": "seqnorm_bag_nano"}, "vision transformer for images"),
        ({"model": "seqnorm_vit_nanno_patch16"}, "did you mean seqnorm_vit_nano_patch16"),
    ],
)
def test_what_there_is_not(given: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        bench_maps(MapBenchOptions(**{"model": NANO} | given))  # type: ignore[arg-type]


def test_the_command_tells_a_mistake_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    for given in (["--methods", "[nonsense]"], ["--precision", "fp16"]):
        assert main(["bench", "maps", *given]) == 2
        error = capsys.readouterr().err
        assert given[1].strip("[]") in error
        assert error.count("\n") == 1
