"""Nothing that a verb imports reports to its makers."""

from __future__ import annotations

import ast
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.watching import ROOT, watch

from softfree_runtime.core.telemetry import DECLINED, decline, import_onnxruntime, import_openvino

SOURCES = sorted(file for root in ("src", "runtime/src", "lab/src") for file in (ROOT / root).rglob("*.py"))
REPORTING = {"onnxruntime", "openvino", "openvino_telemetry"}


def imported(tree: ast.AST) -> Iterator[str]:
    """Names that a file imports, in statements and by calls with a literal."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
        elif isinstance(node, ast.Call) and "import" in ast.unparse(node.func):
            yield from (a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def test_one_place_imports_what_reports() -> None:
    results = {
        str(path.relative_to(ROOT)): names
        for path in SOURCES
        if any(name in (text := path.read_text()) for name in REPORTING)
        and (names := {name.split(".")[0] for name in imported(ast.parse(text))} & REPORTING)
    }
    asks = "src/softfree/deployment/quantization.py"  # for a module of onnxruntime, by import_onnxruntime
    assert results.pop(asks) == {"onnxruntime"}
    assert "import_onnxruntime(" in (ROOT / asks).read_text()
    assert results == {"runtime/src/softfree_runtime/core/telemetry.py": {"openvino"}}


def test_a_choice_of_the_user_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in DECLINED:
        monkeypatch.setenv(name, "0")
    decline()
    assert {os.environ[name] for name in DECLINED} == {"0"}


def test_the_package_declines_before_anything_else_is_imported(tmp_path: Path) -> None:
    assert (
        watch(["import softfree, os; assert os.environ['HF_HUB_DISABLE_TELEMETRY'] == '1'"], tmp_path, ["-c"]).status
        == 0
    )


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_importing_leaves_nothing_and_calls_nobody(tmp_path: Path, name: str) -> None:
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    code = f"from softfree_runtime.core.telemetry import import_{name}; print(import_{name}().__version__)"
    result = watch([code], tmp_path / "declined", ["-c"])
    assert (result.status, result.home, result.calls) == (0, [], []), result.said
    # The same without us: else this test could not fail. Releases of these libraries differ.
    plain = watch([f"import {name}"], tmp_path / "plain", ["-c"])
    if not plain.home:
        pytest.skip(f"this release of {name} does not report")


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    from softfree_runtime.core.errors import UserError

    for name, load in (("onnxruntime", import_onnxruntime), ("openvino", import_openvino)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(UserError, match="pip install"):
            load()


@pytest.mark.slow
def test_verbs_leave_nothing_and_call_nobody(tmp_path: Path, small_table: Path, quick: dict[str, Any]) -> None:
    """The fonts that matplotlib finds are kept by matplotlib."""
    run, image = tmp_path / "run", next(small_table.parent.glob("*.png"))
    options = [f"--{name}={value}" for name, value in quick.items() if name != "model_options"]
    options.append(f"--model-options={quick['model_options']}")
    verbs = {
        "check": ["check", str(small_table)],
        "train": ["train", str(small_table), "--out", str(run), *options],
        "evaluate": ["evaluate", str(run), "--maps", "2"],
        "predict": ["predict", str(run), str(image), "--out", str(tmp_path / "rows.csv")],
        "explain": ["explain", str(run), str(image), "--out", str(tmp_path / "maps")],
        "models": ["models"],
        "onnx": ["export", str(run)],
        "int8": ["export", str(run), "--int8", "static", "--margin", "0.9"],
        "exported": ["predict", str(run / "model.onnx"), str(image), "--out", str(tmp_path / "exported.csv")],
    }
    if importlib.util.find_spec("openvino") is not None:
        verbs["openvino"] = ["export", str(run), "--format", "openvino"]
    for name, arguments in verbs.items():
        result = watch(arguments, tmp_path / "watched" / name)
        assert result.status in (0, 1), result.said
        assert [file for file in result.home if not file.startswith(".cache/matplotlib/")] == [], name
        assert result.calls == [], name
