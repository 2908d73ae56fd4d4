import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from softfree.cli.main import main
from softfree_lab.cli import main as lab_main

pytestmark = pytest.mark.usefixtures("without_figures")

NANO = [
    "--model-options", "{depth: 2, embed_dim: 32, num_heads: 2, patch_size: 8}",
    "--size", "32", "--epochs", "2", "--batch-size", "4", "--progress=false", "--accelerator", "cpu",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory, make_small_table) -> Path:
    """A run directory beside its data."""
    folder = tmp_path_factory.mktemp("cli")
    table = make_small_table(folder / "data")
    assert main(["train", str(table), "--out", str(folder / "run"), *NANO]) == 0
    return folder / "run"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "softfree", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("module", ["softfree.cli.commands", "softfree_lab.commands"])
def test_help_imports_nothing_heavy(module):
    """One process asks every command of a program, one after the other."""
    code = f"""
import contextlib, io, sys
from {module} import COMMANDS
from softfree.cli.main import run
for command in ["", *(name for group in COMMANDS.values() for name in group)]:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        run("softfree", "", COMMANDS, [*command.split(), "--help"])
    assert "usage" in printed.getvalue(), command
print([m for m in ("torch", "numpy", "pandas", "lightning", "monai") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], "did you mean train?"),
        (["study"], "study is not a command"),
        (["train"], "needs a TABLE"),
        (["train", "no.csv"], "no.csv: no such table"),
        (["train", "no.csv", "--epoks", "3"], "--epoks"),
        (["train", "no.csv", "--epochs", "many"], "epochs"),
        (["train", "--resume", "nowhere"], "nowhere is not a run directory"),
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["predict", "nowhere", "x.png"], "nowhere is not a run directory"),
        (["predict", "nowhere", "x.png", "--precision", "8"], "precision"),
        (["predict", "model.onnx", "x.png", "--precision", "bf16"], "an exported file has its own"),
        (["predict", "model.onnx", "x.png", "--tta", "4"], "--tta is for runs; an exported file has its own"),
        (["predict", "model.onnx", "x.png", "--out", "folder", "--num-workers", "2"], "--num-workers is for runs"),
        (["predict", "model.onnx", "x.png", "--stream", "always"], "--stream is for runs"),
        (["check", "no.csv"], "no.csv: no such table"),
        (["auto", "no.csv", "--seed", "-1"], "--seed -1: expected a whole number from 0 to 4294967295"),
        (["tune", "no.csv", "--seed", "-1"], "--seed -1: expected a whole number from 0"),
        (["learning-curve", "no.csv", "--seed", "-1"], "--seed -1: expected a whole number from 0"),
        (["compare", "a", "b", "--num-bootstrap", "0"], "--num-bootstrap 0: expected 1 or more"),
        (["probe", "features", "no.csv", "--num-bootstrap", "0"], "--num-bootstrap 0: expected 1 or more"),
        (["demo", "--seed", "-1"], "--seed -1: expected a whole number from 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_one_line_and_status_2(arguments, message, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("softfree: error: ")
    assert message in error
    assert error.count("\n") == 1


def test_the_first_word_of_a_command_alone_is_completed(capsys):
    assert lab_main(["study"]) == 2
    assert "study is not a command; did you mean study ablation or study robustness or" in capsys.readouterr().err


def test_dashes_and_bare_flags_are_understood(trained, capsys):
    assert main(["evaluate", str(trained), "--progress=false", "--num-bootstrap", "50", "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["n"] == 8
    assert "auroc" in content["metrics"]


def test_evaluate_subgroups_and_comparison(trained, tmp_path, capsys):
    arguments = ["evaluate", str(trained), "--subgroups", "[site]", "--compare-with", str(trained),
                 "--margin", "0.05", "--num-bootstrap", "50", "--show-images",
                 "--out", str(tmp_path / "out"), "--progress=false"]  # fmt: skip
    assert main(arguments) == 0
    page = (tmp_path / "out" / "report.html").read_text()
    assert "site" in page
    assert (tmp_path / "out" / "predictions.csv").is_file()
    assert main(["evaluate", str(trained), "--subgroups", "[planet]", "--progress=false"]) == 2
    assert "--subgroups planet: no such column" in capsys.readouterr().err


def test_evaluate_another_table_needs_a_folder_and_keeps_the_run(trained, tmp_path, capsys):
    before = (trained / "metrics.json").read_bytes()
    table = trained.parent / "data" / "table.csv"
    other = table.with_name("other.csv")
    pd.read_csv(table).drop(columns="split").iloc[:20].to_csv(other, index=False)
    assert main(["evaluate", str(trained), str(other), "--progress=false"]) == 2
    assert "needs --out" in capsys.readouterr().err
    arguments = ["evaluate", str(trained), str(other), "--out", str(tmp_path / "o"), "--progress=false"]
    assert main([*arguments, "--num-bootstrap", "50"]) == 2
    assert "all 20 rows" in capsys.readouterr().err  # all of train and val
    assert main([*arguments, "--num-bootstrap", "50", "--include-training"]) == 0
    assert json.loads((tmp_path / "o" / "metrics.json").read_text())["n"] == 20
    assert (trained / "metrics.json").read_bytes() == before


def test_a_changed_table_is_noticed(trained, capsys):
    table = trained.parent / "data" / "table.csv"
    content = table.read_bytes()
    table.write_bytes(content + b"\n")
    assert main(["evaluate", str(trained), "--progress=false"]) == 2
    assert "has changed since" in capsys.readouterr().err
    table.write_bytes(content)


def test_predict_gives_a_row_for_every_input(trained, tmp_path, capsys):
    data = trained.parent / "data"
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    out = tmp_path / "p.csv"
    inputs = [str(data / "00.png"), str(tmp_path / "broken.png"), str(tmp_path / "gone.png"), str(data)]
    assert main(["predict", str(trained), *inputs, "--out", str(out), "--progress=false"]) == 1
    rows = pd.read_csv(out)
    assert len(rows) == 3 + 32
    assert rows["status"][:3].tolist() == ["ok", "corrupt", "missing"]
    assert rows["reason"].notna().sum() == 2
    good = rows[rows["status"] == "ok"]
    np.testing.assert_allclose(good[["p_low", "p_high"]].sum(axis=1), 1, atol=1e-6)
    assert set(good["predicted"]) <= {"low", "high"}
    assert rows.loc[0, "p_low"] == pytest.approx(rows[rows["path"] == str(data / "00.png")]["p_low"].iloc[1])
    error = capsys.readouterr().err
    assert "gone.png" in error
    assert "33 of 35 predicted" in error


def test_predict_statuses(trained, tmp_path, capsys):
    data = trained.parent / "data"
    out = tmp_path / "p.parquet"
    assert main(["predict", str(trained), str(data / "table.csv"), "--out", str(out), "--progress=false"]) == 0
    assert len(pd.read_parquet(out)) == 32
    assert main(["predict", str(trained), str(tmp_path / "gone.png"), "--out", str(out), "--progress=false"]) == 2
    assert "none of the 1 inputs could be read" in capsys.readouterr().err
    assert main(["predict", str(trained), str(data / "00.png"), "--out", str(tmp_path / "p.txt")]) == 2
    assert "ends in .csv or .parquet" in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    assert main(["predict", str(trained), str(empty), "--out", str(out), "--progress=false"]) == 2


def test_precision_of_predict_and_evaluate(trained, tmp_path):
    data = trained.parent / "data"
    results = {}
    for precision in ("fp32", "bf16"):
        out = tmp_path / f"{precision}.csv"
        assert main(["predict", str(trained), str(data), "--out", str(out), "--precision", precision]) == 0
        results[precision] = pd.read_csv(out)["p_low"]
    assert 0 < (results["fp32"] - results["bf16"]).abs().max() < 0.05
    table, out = str(data / "table.csv"), str(tmp_path / "again")
    assert main(["evaluate", str(trained), table, "--out", out, "--precision", "bf16", "--num-bootstrap", "20"]) == 0


def test_check_finds_problems_and_says_so_in_json(trained, tmp_path, capsys):
    data = trained.parent / "data"
    assert main(["check", str(data / "table.csv"), "--progress=false"]) == 0
    capsys.readouterr()
    bad = data / "bad.csv"
    table = pd.read_csv(data / "table.csv")
    table.loc[3, "path"] = "gone.png"
    table.to_csv(bad, index=False)
    assert main(["check", str(bad), "--json"]) == 1
    content = json.loads(capsys.readouterr().out)
    assert "gone.png" in json.dumps(content)
    bad.unlink()


def test_models_lists_sizes(capsys):
    assert main(["models", "seqnorm_vit_nano*", "--json"]) == 0
    assert {row["name"] for row in json.loads(capsys.readouterr().out)} >= {"seqnorm_vit_nano_patch16"}


def test_damaged_runs_are_refused(trained, tmp_path, capsys):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(trained, copy)
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    image = str(trained.parent / "data" / "00.png")
    assert main(["predict", str(copy), image, "--out", str(tmp_path / "p.csv"), "--progress=false"]) == 2
    assert "not the file that training wrote" in capsys.readouterr().err
    (copy / "config.yaml").write_text("{")
    assert main(["predict", str(copy), image, "--out", str(tmp_path / "p.csv")]) == 2
    assert "cannot be read as YAML" in capsys.readouterr().err


def test_the_python_side_is_two_lines(trained):
    import softfree

    run = softfree.load(trained)
    image = np.asarray(Image.open(trained.parent / "data" / "00.png"))
    rows = run.predict([image, image[:, :30], np.dstack([image] * 3) / 255.0])
    assert rows["status"].tolist() == ["ok"] * 3
    path = run.predict(str(trained.parent / "data" / "00.png"))
    assert rows["p_low"][0] == pytest.approx(path["p_low"][0])
    with pytest.raises(ValueError, match="expected whole numbers, or finite floats"):
        run.predict(image.astype(np.complex64))


@pytest.mark.slow
def test_ctrl_c_is_one_line_and_status_2(trained, tmp_path):
    import signal

    table = trained.parent / "data" / "table.csv"
    process = subprocess.Popen(
        [sys.executable, "-m", "softfree", "train", str(table), "--out", str(tmp_path / "r"), *NANO, "--epochs", "500"],
        stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell's background jobs ignore Ctrl-C, and so would their children.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        while not (tmp_path / "r" / "checkpoints" / "last.ckpt").is_file():
            assert process.poll() is None
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 2
    assert "stopped by Ctrl-C; resume with" in error
    assert "Traceback" not in error
