"""The benchmark of exported models: what is measured, compared, left out and refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

pytest.importorskip("onnxruntime")

import onnx
from onnx import helper

from softfree.deployment.graph import Graph
from softfree_lab.bench import edge, edge_cases
from softfree_lab.bench.edge import bench_edge, estimated_bytes
from softfree_lab.bench.edge_cases import PYTORCH, EdgeCase, attention_of, joules, make_model, open_case, packages
from softfree_lab.bench.edge_files import CALIBRATION_SIDE, EdgeFiles, read_calibration, with_fused_attention
from softfree_lab.bench.edge_report import edge_tables, with_ratios
from softfree_lab.bench.options import EdgeBenchOptions
from softfree_lab.cli import main
from softfree_runtime.core.errors import UserError

NANO = "nano_patch16"


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, list[str]]:
    """One small run of everything, and what it told."""
    folder, told = tmp_path_factory.mktemp("edge"), []
    options = EdgeBenchOptions(
        sides=[96, 64], methods=["seqnorm relu2", "softmax", "softmax standard"], model=NANO, threads=1, seconds=0.02,
        calibration_count=2, out=folder,
    )  # fmt: skip
    return folder, bench_edge(options, told.append), told


@pytest.mark.slow
def test_every_case_has_its_row(done: tuple[Path, str, list[str]]) -> None:
    rows = pd.read_csv(done[0] / "edge.csv")
    assert set(rows["status"]) == {"ok"}
    kinds = rows.groupby(["method", "runtime"])["precision"].agg(set).to_dict()
    all_three = {"fp32", "fp16", "int8"}
    assert kinds == {
        ("seqnorm relu2", "onnxruntime"): all_three, ("seqnorm relu2", "pytorch"): {"fp32"},
        ("softmax", "onnxruntime"): all_three, ("softmax", "pytorch"): {"fp32"},
        ("softmax standard", "onnxruntime"): all_three,
    }  # fmt: skip
    assert rows["size"].value_counts().to_dict() == {64: 11, 96: 11}
    assert (rows[["ms", "cpu_ms", "peak_mib"]] > 0).all(axis=None)
    float32 = rows[(rows["runtime"] == "onnxruntime") & (rows["precision"] == "fp32")]
    assert float32["error"].between(0, 1e-4).all()
    int8 = rows[rows["precision"] == "int8"]
    assert (int8["error"] > 1e-4).all()


@pytest.mark.slow
def test_files_are_smaller_by_their_bits(done: tuple[Path, str, list[str]]) -> None:
    rows = pd.read_csv(done[0] / "edge.csv")
    size = rows[rows["method"] == "softmax"].groupby("precision")["file_mb"].max()
    assert size["fp16"] < 0.55 * size["fp32"]
    assert size["int8"] < 0.4 * size["fp32"]


@pytest.mark.slow
def test_what_is_written(done: tuple[Path, str, list[str]]) -> None:
    folder, text, told = done
    assert (folder / "edge.md").read_text() == text
    assert json.loads((folder / "edge.json").read_text())["options"]["sides"] == [96, 64]
    assert Image.open(folder / "edge.png").width > 1000
    assert "Speed relative to softmax" in text
    assert "| softmax | onnxruntime | fp32 | 1 | 1.00 | 1.00 |" in text
    assert any("computed test blocks" in line for line in told)
    assert sum(line.startswith("exporting") for line in told) == 2  # both of softmax are one graph


def test_ratios_are_to_the_row_that_is_meant() -> None:
    common = {"threads": 1, "size": 64, "status": "ok", "ms": math.nan, "peak_mib": 10.0}
    rows = pd.DataFrame(
        [
            {"method": "seqnorm", "runtime": PYTORCH, "precision": "fp32", "cpu_ms": 6.0},
            {"method": "seqnorm", "runtime": "onnxruntime", "precision": "fp32", "cpu_ms": 4.0},
            {"method": "seqnorm", "runtime": "onnxruntime", "precision": "int8", "cpu_ms": 2.0},
            {"method": "softmax", "runtime": "onnxruntime", "precision": "fp32", "cpu_ms": 40.0},
            {"method": "softmax", "runtime": "onnxruntime", "precision": "int8", "cpu_ms": 10.0},
        ]
    ).assign(**common)
    rows.loc[3, "peak_mib"] = 40.0
    result = with_ratios(rows)
    assert result.loc[1, ["over_softmax", "over_pytorch", "over_float32", "memory_to_softmax"]].tolist() == [
        10, 1.5, 1, 0.25,
    ]  # fmt: skip
    assert result.loc[2, ["over_softmax", "over_pytorch", "over_float32"]].tolist() == [5, 3, 2]
    assert math.isnan(result.loc[0, "over_softmax"])
    two = with_ratios(rows.assign(threads=2, ms=rows["cpu_ms"][::-1].to_numpy()))
    assert two.loc[1, "over_softmax"] == 4 / 40


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Models of two blocks, which are exported three times as fast."""
    monkeypatch.setattr(edge_cases, "create_model", partial(edge_cases.create_model, depth=2))
    make_model.cache_clear()
    yield
    make_model.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_the_fused_operator_gives_the_same(tmp_path: Path) -> None:
    files = EdgeFiles(tmp_path, [], lambda line: None)
    case = EdgeCase("model", "softmax standard", 64, "fp32", model=NANO, runtime="onnxruntime")
    plain = onnx.load(files.file(case))
    fused = with_fused_attention(plain, make_model("softmax", NANO).blocks[0].attn.num_heads)
    kinds = [node.op_type for node in fused.graph.node]
    assert kinds.count("MultiHeadAttention") == 2
    assert "Attention" not in kinds
    assert kinds.count("Transpose") <= [node.op_type for node in plain.graph.node].count("Transpose") - 8
    onnx.save_model(fused, tmp_path / "fused.onnx")
    pixels = np.random.default_rng(0).standard_normal((2, 3, 80, 64), dtype=np.float32)
    got, want = (
        open_case(EdgeCase("model", "softmax", 64, "fp32", runtime="onnxruntime", file=file))(pixels)
        for file in (tmp_path / "fused.onnx", files.file(case))
    )
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_file_that_differs_has_no_speed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EdgeFiles, "difference", lambda self, case: math.nan if case.file else 0.0)
    proto = helper.make_model(helper.make_graph([], "none", [], []))
    monkeypatch.setattr("softfree_lab.bench.edge_files.make_graph", lambda *_: Graph(proto, (32, 32), (), ()))
    options = EdgeBenchOptions(
        sides=[32], methods=["softmax"], precisions=["fp32"], model=NANO, threads=1, seconds=0.01
    )
    text = bench_edge(options, lambda line: None)
    assert "| softmax | onnxruntime | fp32 | 1 | 32 | wrong | differs from PyTorch |" in text


def test_what_takes_too_long_or_too_much_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    case = EdgeCase("model", "seqnorm", 512, "fp32", model=NANO, runtime="onnxruntime")
    same = {"method": "seqnorm", "runtime": "onnxruntime", "precision": "fp32", "threads": 1, "status": "ok"}
    before: list[dict[str, object]] = [
        same | {"size": 128, "cpu_ms": 1e3, "ms": 9e3}, same | {"size": 256, "cpu_ms": 4e3, "ms": 9e3},
    ]  # fmt: skip
    assert edge._reason_to_skip(case, edge.Budget(1, 17), before) == ""
    assert edge._reason_to_skip(case, edge.Budget(1, 15), before) == "would take about 16 s per run"
    monkeypatch.setattr(edge, "available_or_assumed", lambda: 10**6)
    assert "GiB" in edge._reason_to_skip(case, edge.Budget(1, 17), before)


def test_the_standard_operator_writes_all_scores() -> None:
    plain, fused = (
        estimated_bytes(EdgeCase("model", method, 1024, "fp32", model=NANO))
        for method in ("softmax standard", "softmax")
    )
    assert plain - fused == pytest.approx(4 * 3 * 4 * 4096**2)


def test_energy_is_read_where_there_are_counters(tmp_path: Path) -> None:
    with joules(tmp_path) as spent:
        pass
    assert math.isnan(spent())
    for name, value in (("intel-rapl:0", 5_000_000), ("intel-rapl:1", 900), ("intel-rapl:0:0", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{value}\n")
        (tmp_path / name / "max_energy_range_uj").write_text("1000\n")
    assert [one.name for one in packages(tmp_path)] == ["intel-rapl:0", "intel-rapl:1"]
    with joules(tmp_path) as spent:
        (tmp_path / "intel-rapl:0" / "energy_uj").write_text("6500000\n")
        (tmp_path / "intel-rapl:1" / "energy_uj").write_text("400\n")  # began again after 1000
    assert spent() == pytest.approx(1.5 + 500e-6)


def test_calibration_takes_given_images(tmp_path: Path) -> None:
    Image.fromarray(np.full((20, 30, 3), 7, np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    images, about = read_calibration(tmp_path, 5)
    assert [image.source.pixels.shape for image in images] == [(20, 30, 3)]
    assert "1 of the given" in about
    blocks, about = read_calibration(None, 2)
    assert [block.source.pixels.shape for block in blocks] == [(2 * CALIBRATION_SIDE, 2 * CALIBRATION_SIDE, 1)] * 2
    assert "computed" in about
    (tmp_path / "a.png").unlink()
    with pytest.raises(UserError, match="none of 1 images"):
        read_calibration(tmp_path, 5)


@pytest.mark.parametrize(
    ("method", "message"),
    [("seqnrom", "did you mean seqnorm"), ("seqnorm relu3", "relu2"), ("seqnorm standard", "relu2")],
)
def test_methods_that_are_none(method: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        attention_of(method)


def test_the_command_tells_a_mistake_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "edge", "--methods", "[nonsense]"]) == 2
    assert "nonsense" in capsys.readouterr().err


def test_a_machine_without_counters_is_told() -> None:
    rows = pd.DataFrame(
        [{"method": "softmax", "runtime": PYTORCH, "precision": "fp32", "threads": 1, "size": 64, "status": "ok"}]
    ).assign(ms=1.0, cpu_ms=1.0, peak_mib=1.0, joules=math.nan, file_mb=math.nan, error=0.0, reason="")
    assert "no readable counters" in edge_tables(with_ratios(rows), "title")


@pytest.mark.slow
def test_compiled_ahead_of_time(tmp_path: Path) -> None:
    """In float32 alone, and with PyTorch's logits."""
    options = EdgeBenchOptions(
        sides=[64], methods=["seqnorm"], runtimes=["inductor"], precisions=["fp32", "int8"], model=NANO, threads=1,
        seconds=0.02, calibration_count=2, out=tmp_path,
    )  # fmt: skip
    bench_edge(options, lambda _: None)
    rows = pd.read_csv(tmp_path / "edge.csv").set_index("runtime")
    assert set(rows["status"]) == {"ok"}
    assert rows["precision"].to_dict() == {"pytorch": "fp32", "inductor": "fp32"}
    assert 0 < rows.loc["inductor", "error"] < 1e-4
