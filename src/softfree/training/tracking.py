"""Experiment tracking through Lightning's loggers: options, curves and results, and nothing that names the data.

Paths, names of tables, columns, targets, classes, files and people stay out. Nothing leaves the machine unless the
user has named a server (MLflow) or switched off offline mode (Weights & Biases).
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightning.pytorch.loggers import Logger

from softfree.core.environment import versions
from softfree.core.progress import console
from softfree.inference.run_directory import RunDirectory
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import write_atomically

NAMES = ("csv", "tensorboard", "mlflow", "wandb")
PROJECT = "softfree"
PRIVATE = {
    *("label", "event", "labels", "positive", "classes_in_order", "variables", "categorical"),
    *("weights", "cache", "logger"),
}
"""Options that may name columns, classes or files; those that are paths by type are private, too."""
MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",  # seconds that an epoch waits at most
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # a second attempt to create a run may make two
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
WANDB_SETTINGS = {
    "x_disable_meta": True,  # host, user, command line, paths
    "x_disable_stats": True,
    "x_save_requirements": False,
    "disable_git": True,
    "disable_code": True,
    "console": "off",
    "silent": True,
    "host": "",
}


class Tracker(Logger):
    """Send curves and results through a logger of Lightning; a failure is reported once and never stops training.

    Metrics that could not be sent are kept, and sent with later ones.

    Args:
        title: Name for messages.
        logger: To send through.
        close: Ends the run, given whether training was completed.

    Attributes:
        targets: Names of several targets, in place of which their numbers are sent.
    """

    targets: Sequence[str] = ()

    def __init__(self, title: str, logger: Logger, close: Callable[[bool], None]) -> None:
        super().__init__()
        self.title, self.logger, self.close = title, logger, close
        self.waiting: list[tuple[dict[str, float], int | None]] = []
        self.last_step: int | None = None
        self.has_warned = False

    @property
    def name(self) -> str:
        """Name for messages."""
        return self.title

    @property
    def version(self) -> None:
        """None: the version of a run is kept by the server."""

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Ignore what Lightning would log: the options are logged at the start."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Send metrics, and those that are still waiting."""
        self.last_step = step
        self.waiting.append(({_of_target(name, self.targets): value for name, value in metrics.items()}, step))
        self._send()

    def finalize(self, status: str) -> None:
        """End a run that was interrupted; a completed one is ended by :meth:`finish`."""
        if status == "failed":
            self._attempt(lambda: self.close(False))

    def finish(self, results: Mapping[str, float]) -> None:
        """Send the results of a completed training, and end the run."""
        self.log_metrics(results, self.last_step)
        if self.waiting:
            text = f"{self.title} could not be reached again: {len(self.waiting)} epochs or results are missing there"
            console.print(f"{text}; they are in the run directory", style="yellow", highlight=False, soft_wrap=True)
        else:
            self._attempt(lambda: self.close(True))

    def _send(self) -> None:
        def send() -> None:
            while self.waiting:
                metrics, step = self.waiting[0]
                self.logger.log_metrics(metrics, step)
                self.waiting.pop(0)

        self._attempt(send)

    def _attempt(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # whatever a library or the network raises: training goes on
            if not self.has_warned:
                what = f"{self.title} cannot be reached ({_first_line(error)}); training goes on without it"
                console.print(what, style="yellow", highlight=False, soft_wrap=True)
            self.has_warned = True


def logger_names(options: Any) -> list[str]:
    """Return the names of the requested loggers.

    Raises:
        UserError: An unknown name.
    """
    names = [options.logger] if isinstance(options.logger, str) else list(options.logger)
    for name in names:
        if name not in NAMES:
            raise UserError(f"--logger {name}: expected {', '.join(NAMES[:-1])} or {NAMES[-1]}, or a list of them")
    return names


def check_loggers(options: Any) -> None:
    """Refuse loggers that cannot work, before training begins.

    Raises:
        UserError: An unknown name, an MLflow server that does not answer, or Weights & Biases online without a key.
        ModuleNotFoundError: The library of a logger is not installed.
    """
    names = logger_names(options)
    if "mlflow" in names:
        importlib.import_module("mlflow")
        _check_mlflow()
    if "wandb" in names:
        wandb = importlib.import_module("wandb")
        if _wandb_mode() == "online" and not wandb.api.api_key:
            raise UserError("--logger wandb: WANDB_MODE is online but there is no key; run wandb login, or unset it")


def start_trackers(options: Any, facts: Mapping[str, Any], targets: Sequence[str] = ()) -> list[Tracker]:
    """Begin to track a run, or go on with it; a tracker that cannot be reached is reported and left out.

    Args:
        options: Of the training.
        facts: Further values to log, which must not name data.
        targets: Names of several targets, which are not sent.
    """
    values = public_options(options) | dict(facts) | {f"version_{name}": text for name, text in versions().items()}
    store = RunDirectory(options.out).logs / "tracking.json"
    known = _read(store)
    trackers = []
    for name, start in (("mlflow", _start_mlflow), ("wandb", _start_wandb)):
        if name not in logger_names(options):
            continue
        try:
            tracker, known[name] = start(options, values, known.get(name))
        except Exception as error:  # a server that has gone since it was checked
            text = f"{TITLES[name]} cannot be reached ({_first_line(error)}); training goes on without it"
            console.print(text, style="yellow", highlight=False, soft_wrap=True)
            continue
        tracker.targets = targets
        write_atomically(store, json.dumps(known))
        trackers.append(tracker)
    return trackers


TITLES = {"mlflow": "MLflow", "wandb": "Weights & Biases"}


def public_options(options: Any) -> dict[str, Any]:
    """Return the options that neither are paths nor name columns, classes or files."""
    return {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if "Path" not in str(field.type) and field.name not in PRIVATE
    }


def public_results(metrics: Mapping[str, Any], split: str, targets: Sequence[str] = ()) -> dict[str, float]:
    """Return the metrics of all classes together, without the names of classes; of two classes all metrics.

    Args:
        metrics: From :func:`softfree.evaluation.metrics.measure`, of several targets as ``<target>.<metric>``.
        split: That they were measured on.
        targets: Names of several targets, in place of which are their numbers.
    """
    if targets:
        parts = {name: name.partition(".") for name in metrics}
        metrics = {f"{_numbered(parts[name][0], targets)}.{parts[name][2]}": metrics[name] for name in metrics}
    counts: dict[str, int] = {}
    for name in metrics:
        counts[name.partition("/")[0]] = counts.get(name.partition("/")[0], 0) + 1
    results = {}
    for name, metric in metrics.items():
        statistic, _, of_class = name.partition("/")
        if (of_class and counts[statistic] > 1) or math.isnan(metric.value):
            continue
        results[f"{split}/{statistic}"] = metric.value
        if statistic == "auroc" and not math.isnan(metric.low):
            results |= {f"{split}/auroc_low": metric.low, f"{split}/auroc_high": metric.high}
    return results


def _of_target(name: str, targets: Sequence[str]) -> str:
    """Return the name of a metric of an epoch with the number of its target instead of the name."""
    metric, _, target = name.rpartition("/")
    return f"{metric}/{_numbered(target, targets)}" if target in targets else name


def _numbered(target: str, targets: Sequence[str]) -> str:
    return f"target{targets.index(target) + 1}"


def _run_name(options: Any) -> str:
    fold = getattr(options, "fold", None)
    return f"{options.model} seed {options.seed}" + (f" fold {fold}" if fold is not None else "")


def _mlflow_client() -> Any:
    for name, value in MLFLOW_SETTINGS.items():
        os.environ.setdefault(name, value)
    from mlflow.tracking import MlflowClient

    return MlflowClient(os.environ["MLFLOW_TRACKING_URI"])


def _check_mlflow() -> None:
    address = os.environ.get("MLFLOW_TRACKING_URI")
    if not address:
        raise UserError(
            "--logger mlflow: set the environment variable MLFLOW_TRACKING_URI to the address of your server, such as"
            " http://localhost:5000"
        )
    try:
        _mlflow_client().search_experiments(max_results=1)
    except Exception as error:
        parts = urlsplit(address)
        shown = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()  # without a password
        raise UserError(
            f"--logger mlflow: {shown} does not answer ({_first_line(error)}); start the server, or leave mlflow out"
        ) from None


def _start_mlflow(options: Any, values: Mapping[str, Any], known: str | None) -> tuple[Tracker, str]:
    from lightning.pytorch.loggers import MLFlowLogger
    from mlflow.exceptions import MlflowException

    client = _mlflow_client()
    run_id = known
    if run_id is not None:
        try:
            client.update_run(run_id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            run_id = None  # deleted, or of another server
    if run_id is None:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = client.get_experiment_by_name(name)
        number = client.create_experiment(name) if experiment is None else experiment.experiment_id
        # Not by Lightning's logger, which would add tags with the user and the path of the program.
        run_id = str(client.create_run(number, run_name=_run_name(options)).info.run_id)
    logger = MLFlowLogger(tracking_uri=os.environ["MLFLOW_TRACKING_URI"], run_id=run_id)
    if known != run_id:
        logger.log_hyperparams(dict(values))
    status = {True: "FINISHED", False: "FAILED"}
    return Tracker(TITLES["mlflow"], logger, lambda done: client.set_terminated(run_id, status[done])), run_id


def _wandb_mode() -> str:
    return os.environ.get("WANDB_MODE", "offline")


def _start_wandb(options: Any, values: Mapping[str, Any], known: str | None) -> tuple[Tracker, str]:
    import wandb
    from lightning.pytorch.loggers import WandbLogger

    folder = RunDirectory(options.out).logs
    folder.mkdir(parents=True, exist_ok=True)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        name=_run_name(options),
        id=known,
        resume="allow",
        dir=folder,
        mode=_wandb_mode(),  # type: ignore[arg-type]
        config=dict(values),
        reinit="create_new",
        settings=wandb.Settings(**WANDB_SETTINGS),  # type: ignore[arg-type]
    )
    logger = WandbLogger(experiment=run)
    return Tracker(TITLES["wandb"], logger, lambda done: run.finish(exit_code=0 if done else 1)), str(run.id)


def _read(path: Path) -> dict[str, str]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _first_line(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return text if len(text) <= 150 else text[:149] + "…"
