"""What trackers are sent, and that training does without them."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from lightning.pytorch.loggers import Logger

from softfree.cli.main import main
from softfree.core.options import TrainOptions
from softfree.evaluation.metrics import Metric
from softfree.inference.run_directory import RunDirectory
from softfree.pretraining.loop import pretrain
from softfree.pretraining.options import PretrainOptions
from softfree.training import tracking
from softfree.training.loop import resume, train
from softfree.training.tracking import Tracker, check_loggers, public_options, public_results, start_trackers
from softfree_runtime.core.errors import UserError


class Flaky(Logger):
    """A logger whose server is away for some calls."""

    name, version = "flaky", None

    def __init__(self, away: set[int]) -> None:
        super().__init__()
        self.away, self.calls, self.sent = away, 0, []

    def log_hyperparams(self, *_: Any) -> None: ...

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        self.calls += 1
        if self.calls in self.away:
            raise ConnectionError("refused\nwith many lines")
        self.sent.append((dict(metrics), step))


def test_metrics_wait_for_a_server_that_is_away_and_it_is_said_once(capsys: pytest.CaptureFixture) -> None:
    closed: list[bool] = []
    tracker = Tracker("MLflow", Flaky({2, 3}), closed.append)
    for step in range(4):
        tracker.log_metrics({"train_loss": 1.0 / (step + 1)}, step)
    tracker.finalize("success")
    assert closed == []
    tracker.finish({"test/auroc": 0.9})
    assert tracker.logger.sent == [*(({"train_loss": 1 / (n + 1)}, n) for n in range(4)), ({"test/auroc": 0.9}, 3)]
    assert closed == [True]
    said = capsys.readouterr().err
    assert " ".join(said.split()) == "MLflow cannot be reached (refused); training goes on without it"


def test_what_never_arrived_is_said_at_the_end(capsys: pytest.CaptureFixture) -> None:
    closed: list[bool] = []
    tracker = Tracker("MLflow", Flaky(set(range(2, 99))), closed.append)
    for step in range(3):
        tracker.log_metrics({"train_loss": 1.0}, step)
    tracker.finish({})
    assert closed == []
    assert "MLflow could not be reached again: 3 epochs or results are missing there" in " ".join(
        capsys.readouterr().err.split()
    )


def test_an_interrupted_run_is_closed_as_such() -> None:
    closed: list[bool] = []
    Tracker("MLflow", Flaky(set()), closed.append).finalize("failed")
    assert closed == [False]


def test_options_that_may_name_data_are_not_sent(tmp_path: Path) -> None:
    options = TrainOptions(
        table=tmp_path / "jones.csv", label="cancer", weights="jones.safetensors", fold_file=tmp_path
    )
    public = public_options(options)
    assert {"lr", "epochs", "size", "model", "seed", "fold"} <= public.keys()
    assert not {"table", "out", "image_root", "fold_file", "label", "weights", "cache", "series"} & public.keys()
    texts = {f.name for f in fields(TrainOptions) if "str" in str(f.type) and f.name in public}
    # A new option that holds text must be known to name no data, or be private.
    assert texts == {
        "accelerator",
        "attention_options",
        "auto_augment",
        "devices",
        "model",
        "model_options",
        "strategy",
    }


def test_results_are_sent_without_names_of_classes() -> None:
    metric = Metric(0.9, 0.8, float("nan"), "", 10, 5)
    whole = Metric(0.9, 0.8, 0.95, "", 10, 5)
    binary = {"auroc": whole, "sensitivity/jones": metric, "ppv/jones": Metric(float("nan"), 0, 0, "", 0, 0)}
    assert public_results(binary, "test") == {
        "test/auroc": 0.9,
        "test/auroc_low": 0.8,
        "test/auroc_high": 0.95,
        "test/sensitivity": 0.9,
    }
    several = {"auroc": whole, "auroc/a": metric, "auroc/b": metric, "ece": metric}
    assert public_results(several, "val").keys() == {"val/auroc", "val/auroc_low", "val/auroc_high", "val/ece"}


@pytest.mark.parametrize(
    ("logger", "message"), [("mlfow", "--logger mlfow: expected csv"), (["csv", "x"], "--logger x")]
)
def test_unknown_loggers_are_refused(tmp_path: Path, logger: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_loggers(TrainOptions(table=tmp_path, logger=logger))


class Away:
    """A client of a server that does not answer."""

    def search_experiments(self, **_: Any) -> None:
        raise ConnectionError("connection refused")


def test_a_server_that_does_not_answer_is_one_line_before_anything_is_written(
    small_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    arguments = ["train", str(small_table), "--out", str(tmp_path / "run"), "--logger", "mlflow"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert main(arguments) == 2
    assert "set the environment variable MLFLOW_TRACKING_URI" in capsys.readouterr().err
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://me:secret@tracking:5000")
    monkeypatch.setattr(tracking, "_mlflow_client", Away)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "http://tracking:5000 does not answer (connection refused); start the server" in error
    assert "secret" not in error
    assert error.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_only_csv_is_always_written(small_table: Path, tmp_path: Path, quick: dict, without_figures: None) -> None:
    train(TrainOptions(table=small_table, out=tmp_path / "run", logger="csv", **quick))
    assert [path.name for path in sorted((tmp_path / "run" / "logs").iterdir()) if path.is_dir()] == ["csv"]


TARGETS = """
- {name: hiv_status, kind: classes, column: label}
- {name: smith_score, kind: regression, column: score}
"""


@pytest.mark.parametrize("command", ["train", "targets", "pretrain"])
def test_each_epoch_and_the_results_are_sent(
    command: str, small_table: Path, tmp_path: Path, quick: dict, without_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    logger, closed, sent_options = Flaky(set()), [], {}

    def start(options: Any, values: dict[str, Any], known: str | None) -> tuple[Tracker, str]:
        sent_options.update(values)
        return Tracker("MLflow", logger, closed.append), "id 1"

    monkeypatch.setattr(tracking, "_start_mlflow", start)
    monkeypatch.setattr("softfree.training.loop.check_loggers", lambda _: None)
    monkeypatch.setattr("softfree.pretraining.loop.check_loggers", lambda _: None)
    quick = quick | {"epochs": 2, "out": tmp_path / "run", "logger": "mlflow"}
    if command == "targets":
        rows = pd.read_csv(small_table)
        rows.assign(score=[float(row % 7) for row in range(len(rows))]).to_csv(small_table, index=False)
        quick["targets"] = tmp_path / "targets.yaml"
        quick["targets"].write_text(TARGETS)
    if command != "pretrain":
        result = train(TrainOptions(table=small_table, **quick))
        assert result.evaluation is not None
        names = {"auroc": "auroc"}
        if command == "targets":
            names = {"target1.auroc": "hiv_status.auroc", "target2.mae": "smith_score.mae"}
            epochs = {name for metrics, _ in logger.sent for name in metrics}
            assert {"val_auroc/target1", "val_loss/target1", "val_mae/target2", "val_score"} <= epochs
        results = {f"test/{name}": result.evaluation.metrics[own].value for name, own in names.items()}
        assert (sent_options["train_samples"], sent_options["num_classes"]) == (16, 2)
    else:
        pretrain(PretrainOptions(table=small_table, decoder_dim=32, decoder_depth=1, **quick))
        history = RunDirectory(tmp_path / "run").read_history()
        assert history is not None
        results = {"last_loss": history["train_loss"].iloc[-1]}
        assert sent_options["samples"] == 16
    losses = [metrics["train_loss"] for metrics, _ in logger.sent if "train_loss" in metrics]
    assert len(losses) == 2
    assert results.items() <= logger.sent[-1][0].items()
    assert closed == [True]
    assert json.loads((tmp_path / "run" / "logs" / "tracking.json").read_text()) == {"mlflow": "id 1"}
    refuse_names(json.dumps([sent_options, logger.sent]), small_table)


@pytest.mark.parametrize("command", ["train", "pretrain"])
def test_a_new_training_goes_on_in_no_run_that_was_tracked_before(
    command: str, small_table: Path, tmp_path: Path, quick: dict, without_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that stopped within its first epoch leaves a folder that may be used again."""
    known: list[str | None] = []

    def start(options: Any, values: dict[str, Any], last: str | None) -> tuple[Tracker, str]:
        known.append(last)
        raise ConnectionError

    monkeypatch.setattr(tracking, "_start_mlflow", start)
    monkeypatch.setattr(f"softfree.{command}ing.loop.check_loggers", lambda _: None)
    logs = tmp_path / "run" / "logs"
    (logs / "csv" / "version_3").mkdir(parents=True)
    (logs / "csv" / "version_3" / "metrics.csv").write_text("epoch,train_loss\n7,0.5\n")
    (logs / "tracking.json").write_text('{"mlflow": "id of another"}')
    options = quick | {"table": small_table, "out": tmp_path / "run", "logger": "mlflow"}
    train(TrainOptions(**options)) if command == "train" else pretrain(PretrainOptions(decoder_dim=32, **options))
    assert known == [None]
    history = RunDirectory(tmp_path / "run").read_history()
    assert history is not None
    assert history["epoch"].tolist() == [0]


def refuse_names(text: str, table: Path) -> None:
    text = text.replace("agreement_high", "")  # a metric; high is also a class
    for name in (
        "patient",
        str(table.parent),
        table.name,
        "high",
        "hiv",
        "smith",
        os.path.expanduser("~"),
        socket.gethostname(),
    ):
        assert name not in text, name


def written(record: Path, last: str) -> str:
    """Read a record that another process writes, when its last entry is there."""
    end = time.monotonic() + 30
    while last not in (content := record.read_bytes().decode("latin-1")) and time.monotonic() < end:
        time.sleep(0.2)
    return content


@pytest.mark.slow
def test_weights_and_biases_is_offline_and_gets_nothing_that_names_data(
    small_table: Path, tmp_path: Path, quick: dict, without_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    options = TrainOptions(table=small_table, out=tmp_path / "run", logger=["wandb"], **quick)
    train(options)
    (folder,) = (tmp_path / "run" / "logs" / "wandb").glob("offline-run-*")
    (record,) = folder.glob("*.wandb")
    content = written(record, "test/auroc")
    for name in ("train_loss", "val_auroc", "test/auroc", "weight_decay"):
        assert name in content, name
    refuse_names(content, small_table)
    uploaded = {path.name for path in (folder / "files").rglob("*")}
    assert uploaded <= {"config.yaml", "output.log", "wandb-summary.json"}
    known = json.loads((tmp_path / "run" / "logs" / "tracking.json").read_text())
    assert known["wandb"] in record.name


@pytest.fixture
def server(tmp_path: Path) -> Iterator[subprocess.Popen]:
    """A real MLflow server with its database in a temporary folder."""
    found = shutil.which("mlflow") if importlib.util.find_spec("flask") else None
    program = os.environ.get("SOFTFREE_TEST_MLFLOW", found)
    if program is None:
        pytest.skip("no MLflow server: install mlflow, or name its program by SOFTFREE_TEST_MLFLOW")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [program, "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (tmp_path / "server.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=tmp_path, env=environment, start_new_session=True
        )
    process.address = f"http://127.0.0.1:{port}"  # type: ignore[attr-defined]
    for _ in range(300):
        try:
            urllib.request.urlopen(f"{process.address}/health", timeout=2)  # type: ignore[attr-defined]
            break
        except OSError:
            assert process.poll() is None, (tmp_path / "server.log").read_text()
            time.sleep(0.5)
    yield process
    stop(process)


def stop(process: subprocess.Popen) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_a_real_mlflow_server(
    server: Any,
    small_table: Path,
    tmp_path: Path,
    quick: dict,
    without_figures: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    quick = quick | {"epochs": 3, "logger": "mlflow"}
    options = TrainOptions(table=small_table, out=tmp_path / "run", **quick)

    class Stopped(Exception):
        pass

    with monkeypatch.context() as patch:  # interrupted in the second epoch, and resumed
        real = Tracker.log_metrics

        def stop_in_the_second(self: Tracker, metrics: Any, step: int | None = None) -> None:
            if metrics.get("epoch") == 1:
                raise Stopped
            real(self, metrics, step)

        patch.setattr(Tracker, "log_metrics", stop_in_the_second)
        with pytest.raises(Stopped):
            train(options)
    client = mlflow.MlflowClient(server.address)
    (experiment,) = client.search_experiments(filter_string="name = 'softfree'")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FAILED"
    result = resume(tmp_path / "run")
    (tracked,) = client.search_runs([experiment.experiment_id])
    assert tracked.info.status == "FINISHED"
    assert tracked.info.run_name == "seqnorm_vit_nano_patch16 seed 0"
    history = client.get_metric_history(tracked.info.run_id, "train_loss")
    assert {point.step for point in history} == {2, 4, 6} or len(history) == 3
    assert tracked.data.metrics["test/auroc"] == result.evaluation.metrics["auroc"].value
    assert (tracked.data.params["epochs"], tracked.data.params["train_samples"]) == ("3", "16")
    refuse_names(json.dumps(tracked.to_dictionary()), small_table)

    with monkeypatch.context() as patch:  # the server goes away after the first epoch

        def leave_in_the_second(self: Tracker, metrics: Any, step: int | None = None) -> None:
            if metrics.get("epoch") == 1:
                stop(server)
            real(self, metrics, step)

        patch.setattr(Tracker, "log_metrics", leave_in_the_second)
        capsys.readouterr()
        train(TrainOptions(table=small_table, out=tmp_path / "second", **quick))
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("MLflow cannot be reached") == 1
    assert said.count("MLflow could not be reached again: ") == 1
    assert RunDirectory(tmp_path / "second").is_finished()

    arguments = ["train", str(small_table), "--out", str(tmp_path / "third"), "--logger", "mlflow"]
    assert main(arguments) == 2
    assert f"--logger mlflow: {server.address} does not answer" in capsys.readouterr().err
    assert not (tmp_path / "third").exists()


def test_trackers_of_another_server_are_left_out_with_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    monkeypatch.setattr(tracking, "_mlflow_client", Away)
    assert start_trackers(TrainOptions(table=tmp_path, out=tmp_path, logger="mlflow"), {}) == []
    assert "MLflow cannot be reached" in capsys.readouterr().err
    assert not (tmp_path / "logs" / "tracking.json").exists()
