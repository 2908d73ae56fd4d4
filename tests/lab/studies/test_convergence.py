from pathlib import Path

import pandas as pd
import pytest
import torch

from softfree.attention.soft.pseudoinverse import residual, start, step, to_unit_norm
from softfree_lab.cli import main
from softfree_lab.studies.convergence import _rows, study_convergence
from softfree_lab.studies.options import ConvergenceOptions
from softfree_runtime.core.errors import UserError


def options(tmp_path: Path, **changes: object) -> ConvergenceOptions:
    given = {"size": 64, "preset": "radiograph", "out": tmp_path / "out", "count": 2, "progress": False}
    return ConvergenceOptions(**(given | changes))


def test_residuals_of_each_iteration() -> None:
    torch.manual_seed(0)
    at = torch.randn(5, 9, 4)
    matrices = (-torch.cdist(at, at).square() / 2).exp()
    rows = _rows("layer", "fp32", matrices, 6)
    scaled, _ = to_unit_norm(matrices.double())
    x = start(scaled)
    for row in rows:
        assert row["residual"] == pytest.approx(residual(scaled, x).median().item(), rel=1e-3)
        x = step(scaled, x)
    assert rows[-1]["residual"] < 0.2 * rows[0]["residual"]


def test_halves_stay_above() -> None:
    at = torch.randn(5, 49, 8) * 0.5
    matrices = (-torch.cdist(at, at).square() / 2).exp()
    last = {precision: _rows("layer", precision, matrices, 20)[-1] for precision in ("fp32", "fp16")}
    assert last["fp16"]["not_finite"] > 0 or last["fp16"]["residual"] > 2 * last["fp32"]["residual"]


def test_on_images(small_table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["study", "convergence", str(small_table), "--size", "64", "--preset", "radiograph", "--count", "2"]
    assert main([*arguments, "--iterations", "3", "--out", str(tmp_path / "out")]) == 0
    assert "| blocks.5.attn | 16 | bf16 |" in capsys.readouterr().out
    table = pd.read_csv(tmp_path / "out" / "convergence.csv")
    assert len(table) == 6 * 3 * 4, "layers, precisions, and the start with three iterations"
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".csv", ".md", ".png", ".json"}


def test_a_model_without_soft_attention(small_table: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no SOFT attention"):
        study_convergence(options(tmp_path, model="sima_vit_nano_patch16"), [str(small_table)])


def test_no_image_can_be_read(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="none of 1 images"):
        study_convergence(options(tmp_path), [str(tmp_path / "bad.png")])
