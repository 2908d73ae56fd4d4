"""The files of a run directory; only this module knows their names and formats."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import yaml
from safetensors.torch import save_file

from softfree_runtime.core.conformal import ConformalSets, check_sets
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.files import replacing, write_atomically
from softfree_runtime.core.scale import Scale, check_scale
from softfree_runtime.core.survival import Survival, check_survival
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import check_fields, shown

if TYPE_CHECKING:
    from torch import Tensor

    from softfree.core.options import TableOptions
    from softfree.data.split_file import RunSplit

COPY_AGAIN = "copy the run again"


@dataclass(frozen=True)
class Calibration:
    """Temperature, thresholds and minima for calibrated probabilities, labels and sets, chosen on validation.

    Attributes:
        temperature: Divides the logits.
        thresholds: Probability from which a class counts as present, for each scored class; a multiclass image is
            labeled with its most probable class regardless.
        sets: Minimum probabilities of the classes in conformal sets; None in runs of earlier versions, and of numbers.
        scale: Of a regression: from outputs to numbers; else None.
        survival: Of survival: the horizons, and of a Cox model its baseline; else None.
    """

    temperature: float = 1.0
    thresholds: dict[str, float] = field(default_factory=dict)
    sets: ConformalSets | None = None
    scale: Scale | None = None
    survival: Survival | None = None


class RunDirectory:
    """Paths, readers and writers of the files of a run.

    ::

        config.yaml            all options, the classes, the preprocessing, the model's arguments, the versions
        model.safetensors      the weights
        calibration.json       temperature, thresholds and minima of conformal sets, chosen on validation
        phantoms.json          logits of three phantoms, to see whether another machine gives the same
        distribution.safetensors  mean and covariance of the training samples' features, for unusual samples
        digests.json           SHA-256 of the files that determine predictions, to detect damage and changes
        split.csv              the split of each row, with hashed patient names
        seen.json              hashes of the files and patients that the run was trained on
        baselines.safetensors  logistic regressions on the size and on a small copy of the training samples
        predictions.csv        one row per validation and test image: row numbers of the table, no names
        metrics.json           metrics with intervals
        report.html            the same as a page
        logs/                  CSV and TensorBoard logs, and cost.json: time, memory and work of training
        checkpoints/           the state of training, for --resume
        test/                  of a study: metrics and report of its ensemble on the fixed test rows, if there are any

    A run of several targets has ``targets/NAME/``, a run directory for each of them without weights of its own.
    A study has ``suspects.csv``, labels that are probably wrong.
    ``near_duplicates.csv`` has pairs of nearly identical images of different splits or folds, if there are any.
    ``softfree report`` adds ``documents/``, the model card and the sheets for a publication.
    ``softfree report --readings`` adds ``reader_study.json``, the numbers of a reader study.
    ``softfree evaluate --out`` writes predictions, metrics and report under the same names.

    Args:
        root: The folder; it need not exist yet.
    """

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.config = self.root / "config.yaml"
        self.weights = self.root / "model.safetensors"
        self.calibration = self.root / "calibration.json"
        self.phantoms = self.root / "phantoms.json"
        self.distribution = self.root / "distribution.safetensors"
        self.digests = self.root / "digests.json"
        self.split = self.root / "split.csv"
        self.seen = self.root / "seen.json"
        self.baselines = self.root / "baselines.safetensors"
        self.predictions = self.root / "predictions.csv"
        self.metrics = self.root / "metrics.json"
        self.report = self.root / "report.html"
        self.logs = self.root / "logs"
        self.cost = self.logs / "cost.json"
        self.checkpoints = self.root / "checkpoints"
        self.lock = self.root / ".lock"
        self.test = self.root / "test"
        self.documents = self.root / "documents"
        self.reader_study = self.root / "reader_study.json"
        self.suspects = self.root / "suspects.csv"
        self.near_duplicates = self.root / "near_duplicates.csv"

    def target(self, name: str) -> Path:
        """Return the run directory of one of several targets."""
        return self.root / "targets" / name

    def is_target(self) -> bool:
        """Whether this is the run directory of one of several targets, whose weights are in the whole run's."""
        return self.config.is_file() and self.root.parent.name == "targets" and not self.weights.is_file()

    def is_run(self) -> bool:
        """Whether the folder has a configuration, which a run writes at its start."""
        return self.config.is_file()

    def is_finished(self) -> bool:
        """Whether training has written all its results.

        The digests are the last of them; runs of versions that recorded no phantoms may have none.
        """
        results = (self.weights, self.predictions, self.metrics, self.report)
        return all(path.is_file() for path in results) and (self.digests.is_file() or not self.phantoms.is_file())

    def is_unused(self) -> bool:
        """Whether a new run may start here: in an empty folder, or one whose run stopped within its first epoch."""
        if not self.root.exists():
            return True
        if not self.root.is_dir() or any(self.checkpoints.glob("*.ckpt")):
            return False
        return {*self.root.iterdir()} <= {self.lock, self.config, self.split, self.logs, self.checkpoints}

    def begin(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml`` of a new run, without the logs of one that stopped here within its first epoch."""
        if self.logs.exists():
            shutil.rmtree(self.logs)
        self.write_config(config)

    def read_config(self) -> dict[str, Any]:
        """Read ``config.yaml``.

        Raises:
            UserError: There is none, it is damaged, or it is not a run's.
        """
        path = self.config
        if not path.is_file():
            raise UserError(
                f"{self.root} is not a run directory: it has no {path.name}; expected a folder made by softfree train"
            )
        try:
            config = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise _unreadable(path, error) from None
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise UserError(f"{path} cannot be read as YAML ({str(error).splitlines()[0]}); {COPY_AGAIN}") from None
        if not isinstance(config, dict) or not {"task", "preprocessing", "model", "options"} <= config.keys():
            raise UserError(
                f"{path} is not a softfree configuration: task, preprocessing, model or options are missing"
            )
        return config

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write ``config.yaml``."""
        write_atomically(self.config, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))

    def write_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Write ``model.safetensors``."""
        with replacing(self.weights) as temporary:
            save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)

    def read_calibration(self, task: Task | None = None) -> Calibration:
        """Read ``calibration.json``; without one, the temperature is 1 and there are no thresholds.

        Args:
            task: Checks that each threshold belongs to one of its classes.

        Raises:
            UserError: The temperature is not above 0, or a threshold or minimum is not a probability of a class.
        """
        path = self.calibration
        if not path.is_file():
            return Calibration()
        content = _read_json(path)
        sets = check_sets(path, content.pop("sets", None), task, COPY_AGAIN)
        scale = check_scale(path, content.pop("scale", None), COPY_AGAIN)
        if task is not None and task.numeric and scale is None:
            raise UserError(f"{path} has no scale, which a regression needs; {COPY_AGAIN}")
        survival = check_survival(path, content.pop("survival", None), task, COPY_AGAIN)
        fields = check_fields(path, "calibration", content, Calibration)
        temperature, thresholds = fields.get("temperature", 1.0), fields.get("thresholds", {})
        if temperature <= 0:
            raise UserError(f"{path}: temperature is {temperature}; expected a number above 0; {COPY_AGAIN}")
        for name, threshold in thresholds.items():
            if not 0 <= threshold <= 1:
                raise UserError(
                    f"{path}: the threshold of {shown(name)} is {threshold}; expected a probability, 0 to 1"
                )
            if task is not None and name not in task.classes:
                raise UserError(
                    f"{path}: there is a threshold of {shown(name)}; expected one of {', '.join(task.classes)}"
                )
        values = {name: float(value) for name, value in thresholds.items()}
        return Calibration(float(temperature), values, sets, scale, survival)

    def write_calibration(self, calibration: Calibration) -> None:
        """Write ``calibration.json``, and its digest if the run has digests."""
        write_atomically(self.calibration, json.dumps(asdict(calibration), indent=2))
        if self.digests.is_file():
            self.write_digests()

    def read_phantoms(self) -> dict[str, Any]:
        """Read ``phantoms.json``."""
        return _read_json(self.phantoms)

    def write_phantoms(self, record: Mapping[str, Any]) -> None:
        """Write ``phantoms.json``."""
        write_atomically(self.phantoms, json.dumps(record, indent=2))

    def write_near_duplicates(self, pairs: pd.DataFrame) -> None:
        """Write ``near_duplicates.csv``."""
        with replacing(self.near_duplicates) as temporary:
            pairs.to_csv(temporary, index=False)

    def write_suspects(self, suspects: pd.DataFrame) -> None:
        """Write ``suspects.csv``."""
        with replacing(self.suspects) as temporary:
            suspects.to_csv(temporary, index=False)

    def read_near_duplicates(self) -> pd.DataFrame | None:
        """Read ``near_duplicates.csv``; None if there were no such pairs."""
        return pd.read_csv(self.near_duplicates) if self.near_duplicates.is_file() else None

    def write_digests(self) -> None:
        """Write ``digests.json``, the last step of training."""
        names = ("config", "weights", "calibration", "distribution", "phantoms", "predictions", "split")
        files = [getattr(self, name) for name in names]
        digests = {path.name: _digest(path) for path in files if path.is_file()}
        write_atomically(self.digests, json.dumps(digests, indent=2))

    def is_unchanged(self, path: Path) -> bool:
        """Whether a file is the one that training wrote; true if no digest was recorded."""
        digest = self._read_digests().get(path.name)
        return digest is None or (path.is_file() and _digest(path) == digest)

    def warn_of_changes(self) -> None:
        """Warn about settings that were edited after training: results follow the edited file."""
        for path in (self.config, self.calibration):
            if not self.is_unchanged(path):
                print(f"softfree: {path} was changed after training; the changed file is used", file=sys.stderr)

    def weights_digest(self) -> str:
        """SHA-256 of the weights."""
        return _digest(self.weights)

    def read_split(self) -> RunSplit:
        """Read the split that the run was trained with."""
        from softfree.data.split_file import read_split

        config = self.read_config()
        is_whole = config["options"].get("fold") is not None or "members" in config
        return read_split(self.split, config["table"]["sha256"], config["table"]["split"] if is_whole else None)

    def drawn_split(self) -> RunSplit | None:
        """Read the split that was drawn for the run's own table; None if the table has a split column."""
        return self.read_split() if self.read_config().get("table", {}).get("split") else None

    def trained_rows(self, keys: Sequence[str], *, held_out: bool = False) -> int:
        """Count the rows that the run was trained on, by the keys of their patients; 0 if that is not recorded.

        Args:
            keys: Keys of the patients.
            held_out: Count validation rows, too: each of a cross-validation is a training row of other members.
        """
        if not self.split.is_file():
            return 0
        splits = self.read_split().splits_of(keys)
        return splits.count("train") + (splits.count("val") if held_out else 0)

    def read_predictions(self) -> pd.DataFrame:
        """Read ``predictions.csv``."""
        return pd.read_csv(self.predictions, keep_default_na=False, na_values=[""])  # NA may be a class or a fold

    def read_metrics(self) -> dict[str, Any]:
        """Read ``metrics.json``: ``split``, ``metrics`` and other results."""
        return _read_json(self.metrics)

    def read_cost(self) -> dict[str, Any]:
        """Read time, memory and work of training; empty if they were not recorded."""
        return _read_json(self.cost) if self.cost.is_file() else {}

    def write_cost(self, cost: Mapping[str, Any]) -> None:
        """Write ``logs/cost.json``."""
        write_atomically(self.cost, json.dumps(cost, indent=2))

    def read_history(self) -> pd.DataFrame | None:
        """Read loss and AUROC of each epoch; earlier versions have a file for each session."""
        sessions = []
        for path in sorted(self.logs.glob("csv/version_*/metrics.csv"), key=lambda path: int(path.parent.name[8:])):
            try:
                sessions.append(pd.read_csv(path, float_precision="round_trip").groupby("epoch", as_index=False).last())
            except (pd.errors.EmptyDataError, KeyError):  # stopped before its first epoch ended
                continue
        return pd.concat(sessions).groupby("epoch", as_index=False).last() if sessions else None

    def write_history(self, history: pd.DataFrame) -> None:
        """Write the curves of a training, one row for each epoch."""
        path = self.logs / "csv" / "version_0" / "metrics.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            history.to_csv(temporary, index=False)

    def _read_digests(self) -> dict[str, Any]:
        return _read_json(self.digests) if self.digests.is_file() else {}


def known_split(options: TableOptions) -> RunSplit | None:
    """Read the split to use instead of drawing one: a fold's, or another run's; None if the options name neither."""
    from softfree.data.folds import split_of_fold

    if options.fold_file is not None and options.fold is not None:
        return split_of_fold(options.fold_file, options.fold, options.repeat)
    return None if options.split_from is None else RunDirectory(options.split_from).read_split()


def check_fold(options: TableOptions) -> None:
    """Refuse a fold without its file, a file without a fold, and a second split."""
    if options.fold is not None and options.fold_file is None:
        raise UserError("--fold needs --fold-file")
    if options.fold_file is not None and options.fold is None:
        raise UserError("--fold-file needs --fold")
    if options.fold_file is not None and options.split_from is not None:
        raise UserError("--fold-file and --split-from both define the split: use only one of them")


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} cannot be read as JSON ({str(error)[:150]}); {COPY_AGAIN}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} does not contain a JSON object; {COPY_AGAIN}")
    return content


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}); {COPY_AGAIN}")
