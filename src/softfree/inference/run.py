"""A trained classifier, loaded from its run directory and ready to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from softfree.inference.run_directory import COPY_AGAIN, Calibration, RunDirectory
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.targets import Targets, check_tasks
from softfree_runtime.core.task import Task
from softfree_runtime.core.validation import check_fields, mismatch, shown

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from torch import Tensor, nn

    from softfree.core.options import Precision, StreamOptions
    from softfree.data.modalities.base import Preprocessing
    from softfree.data.modalities.image import ImagePreprocessing
    from softfree.inference.unusual import TrainingDistribution


PART_OF = "part_of"
"""Entry in the configuration of one of several targets: the folder of the whole run, and the SHA-256 of its weights."""


@dataclass(frozen=True)
class Run:
    """A trained classifier.

    Attributes:
        folder: The run directory.
        config: The contents of ``config.yaml``.
        calibration: Temperature and thresholds.
    """

    folder: Path
    config: dict[str, Any]
    calibration: Calibration = field(default_factory=Calibration)

    @classmethod
    def load(cls, folder: str | Path) -> Run:
        """Open a run directory.

        Raises:
            UserError: It is not one, or its training did not finish.
        """
        directory = RunDirectory(folder)
        config = directory.read_config()
        if not directory.weights.is_file() and not {"members", PART_OF} & config.keys():
            raise UserError(
                f"{folder} has no {directory.weights.name}: training did not finish; resume it with: softfree train"
                f" --resume {folder}"
            )
        check_config(directory.config, config)
        run = cls(directory.root, config)
        directory.warn_of_changes()
        return replace(run, calibration=directory.read_calibration(run.task))

    @property
    def directory(self) -> RunDirectory:
        """The files of the run."""
        return RunDirectory(self.folder)

    @property
    def task(self) -> Task:
        """What is predicted."""
        return check_tasks(self.directory.config, self.config["task"])

    @cached_property
    def parts(self) -> dict[str, Run]:
        """A run for each of several targets, whose model has the outputs of that target; none for a single task.

        Raises:
            UserError: The folder of a target is missing or damaged.
        """
        names = self.task.classes if isinstance(self.task, Targets) else ()
        return {name: Run.load(self.directory.target(name)) for name in names}

    @property
    def model_name(self) -> str:
        """The named model, such as ``seqnorm_vit_nano_patch16``."""
        return str(self.config["model"]["name"])

    @property
    def table_path(self) -> Path:
        """Path of the training table at training time."""
        return Path(self.config["options"]["table"] or "table.csv")

    @property
    def table_digest(self) -> str | None:
        """SHA-256 of the training table, if it is recorded."""
        return self.config.get("table", {}).get("sha256")

    @property
    def notice(self) -> str | None:
        """A sentence at the top of all results, such as that the images are synthetic."""
        return self.config.get("notice")

    @cached_property
    def preprocessing(self) -> Preprocessing:
        """Maps the sample of a table row to the model's input."""
        from softfree.data.modalities.registry import preprocessing_from_config

        return preprocessing_from_config(self.config["preprocessing"])

    @property
    def image_preprocessing(self) -> ImagePreprocessing:
        """The preprocessing of a run on images.

        Raises:
            UserError: The run was trained on samples of another kind.
        """
        from softfree.data.modalities.image import ImagePreprocessing

        preprocessing = self.preprocessing
        if not isinstance(preprocessing, ImagePreprocessing):
            raise UserError(
                f"{self.folder} was trained on samples of kind {preprocessing.kind}; this needs a run on images"
            )
        return preprocessing

    @cached_property
    def members(self) -> tuple[Run, ...]:
        """The runs of an ensemble, such as the folds of a study, with its temperatures; none for a single run.

        Raises:
            UserError: A member is missing, not finished, was changed, or has other classes or another preprocessing.
        """
        runs = []
        for member in self.config.get("members", []):
            folder = self.folder / member["folder"]
            if "temperature" not in member:
                raise UserError(f"{self.directory.config}: a member has no temperature; make the study again")
            if not (RunDirectory(folder).weights.is_file() or RunDirectory(folder).is_target()):
                raise UserError(f"{self.folder} is an ensemble, but its member {folder} is missing; {COPY_AGAIN}")
            run = Run.load(folder)
            if run.weights_digest() != member["sha256"]:
                raise UserError(f"{folder} is not the member that {self.folder} was made of (its weights differ)")
            for section in ("task", "preprocessing"):
                if run.config[section] != self.config[section]:
                    raise UserError(f"{folder} has another {section} than {self.folder}, whose member it is")
            runs.append(replace(run, calibration=replace(run.calibration, temperature=member["temperature"])))
        return tuple(runs)

    @cached_property
    def whole(self) -> Run | None:
        """The run of several targets that this is one of; None for other runs.

        Raises:
            UserError: It is missing, or has other weights.
        """
        if (part_of := self.config.get(PART_OF)) is None:
            return None
        run = Run.load(self.folder / part_of["folder"])
        if run.directory.weights_digest() != part_of["sha256"]:
            raise UserError(f"{self.folder} is not a target of {run.folder} (its weights differ); {COPY_AGAIN}")
        return run

    def weights_digest(self) -> str:
        """SHA-256 of the weights."""
        return (self.whole or self).directory.weights_digest()

    def identity(self) -> str:
        """SHA-256 that recognizes the run in what was made from it: of its weights, or of all its members'."""
        if not self.members:
            return self.weights_digest()
        return sha256("".join(member.weights_digest() for member in self.members).encode()).hexdigest()

    @cached_property
    def distributions(self) -> tuple[TrainingDistribution, ...]:
        """Where the training samples lie, for each member or the run itself; none if that was not recorded.

        Raises:
            UserError: The file is damaged or not the one that training wrote.
        """
        from softfree.inference.unusual import TrainingDistribution

        distributions = []
        for run in self.members or (self,):
            directory = (run.whole or run).directory
            path = directory.distribution
            if not path.is_file():
                return ()  # an earlier version, or a model without tokens
            if not directory.is_unchanged(path):
                raise UserError(f"{path} is not the file that training wrote (its SHA-256 differs); {COPY_AGAIN}")
            distributions.append(TrainingDistribution.read(path))
        return tuple(distributions)

    @cached_property
    def model(self) -> nn.Module:
        """The model in evaluation mode, with its weights, on the CPU; for an ensemble, all its members'."""
        if self.members:
            from softfree.inference.ensemble import Ensemble

            return Ensemble([member.model for member in self.members], *self._scales()).eval()
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        from softfree.models.registry import build_model

        directory = (self.whole or self).directory
        path = directory.weights
        if not directory.is_unchanged(path):
            raise UserError(f"{path} is not the file that training wrote (its SHA-256 differs); {COPY_AGAIN}")
        try:
            model = build_model(self.config)
        except UserError as error:
            raise UserError(f"{self.directory.config}: model: {error}") from None
        except (TypeError, ValueError, RuntimeError, ArithmeticError, AttributeError, LookupError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0][:150]
            raise UserError(f"{self.directory.config}: model cannot be built ({reason}); {COPY_AGAIN}") from None
        try:
            weights = load_file(path)
            if self.whole is not None and isinstance(self.whole.task, Targets):
                weights = rows_of_head(weights, self.whole.task.output_slices()[self.folder.name])
            model.load_state_dict(weights)
        except (SafetensorError, RuntimeError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(
                f"{path} does not contain the weights that config.yaml describes ({reason}); {COPY_AGAIN}"
            ) from None
        return model.eval()

    def _scales(self) -> tuple[list[Any], list[Any] | None]:
        """Return temperature and shift of each member of an ensemble, relative to its own; of several targets arrays.

        The shift is what to add to the member's output for one offset (regression) or center (Cox) of all.
        """
        if self.parts:
            return self._scales_of_targets()
        own = self.calibration
        temperatures = [member.calibration.temperature / own.temperature for member in self.members]
        if own.survival is not None and not self.task.cuts:
            centers = [member.calibration.survival for member in self.members]
            return temperatures, [-survival.center for survival in centers if survival is not None]
        if own.scale is None:
            return temperatures, None
        offsets = [member.calibration.scale.offset for member in self.members if member.calibration.scale is not None]
        return temperatures, [(offset - own.scale.offset) * own.temperature for offset in offsets]

    def _scales_of_targets(self) -> tuple[list[Any], list[Any]]:
        """Join temperatures and shifts (K,) of each member over the outputs of all targets."""
        import numpy as np

        temperatures, shifts = [], []
        for part in self.parts.values():
            own, moved = part._scales()
            count = len(part.task.outputs)
            temperatures.append(np.repeat(np.array(own)[:, None], count, axis=1))  # (M, K of the target)
            shifts.append(np.repeat(np.array(moved or [0.0] * len(own))[:, None], count, axis=1))
        return list(np.hstack(temperatures)), list(np.hstack(shifts))

    def predict(
        self,
        inputs: str | Path | np.ndarray | Sequence[str | Path | np.ndarray],
        *,
        frame: int | None = None,
        image_root: str | Path | None = None,
        batch_size: int = 16,
        num_workers: int = 0,
        precision: Precision = "fp32",
        progress: bool = False,
        tta: int = 1,
        stream: StreamOptions | None = None,
    ) -> pd.DataFrame:
        """Predict probabilities for files, folders, tables or arrays.

        Args:
            inputs: Paths, or arrays (H, W) or (H, W, C), which are treated like a TIFF with the same values.
            frame: Frame of multi-frame files, counted from 0; default: the first.
            image_root: Folder that the paths in tables start from and must stay in; default: each table's folder.
            batch_size: Images per batch; only images of equal shape share one.
            num_workers: Number of processes that read files.
            precision: Arithmetic of matrix products: "fp32", "bf16" or "fp16".
            progress: Show a progress bar.
            tta: Number of views of each sample, itself and augmented copies, whose logits are averaged.
            stream: When and where to stream samples larger than memory; default: automatically, in main memory.

        Returns:
            One row per input: ``path``, ``status`` (``ok`` or the kind of error), ``reason``, ``p_<class>``
            (calibrated), ``raw_<class>`` (before calibration) and ``predicted``; ``set`` (the plausible classes, for
            findings ``set_<finding>``) and ``abstain``. Of a regression instead ``value``, ``low`` and ``high``; of
            survival ``risk`` (higher for an earlier event) and ``survival_<horizon>``. Then ``distance`` from the
            training samples and ``unusual``, whether it is above 1. Runs of earlier versions lack the last ones.

        Raises:
            UserError: Inputs or options that no prediction can be made with.
        """
        from softfree.core.choices import checked
        from softfree.inference.options import InferenceOptions
        from softfree.inference.predict import predict

        streaming = stream.streaming if stream else {}
        options = InferenceOptions(
            batch_size=batch_size, num_workers=num_workers, precision=precision, progress=progress, tta=tta, **streaming
        )
        return predict(self, inputs, checked(options), frame=frame, image_root=image_root)

    def with_calibration(self, calibration: Calibration) -> Run:
        """Store a new calibration; return the run with it."""
        self.directory.write_calibration(calibration)
        return replace(self, calibration=calibration)


def rows_of_head(weights: dict[str, Tensor], outputs: slice) -> dict[str, Tensor]:
    """Return the weights of a model with only some outputs of its last layer."""
    return {name: value[outputs] if name.startswith("head.") else value for name, value in weights.items()}


def check_config(path: Path, config: dict[str, Any]) -> None:
    """Validate a configuration, and fill in missing options.

    Raises:
        UserError: Names the field that is missing, unknown or of the wrong type.
    """
    from softfree.core.options import TrainOptions
    from softfree.data.modalities.registry import KINDS, MODALITIES

    task = check_tasks(path, config["task"])
    preprocessing = config["preprocessing"]
    kind = preprocessing.get("kind", "image") if isinstance(preprocessing, dict) else None
    if kind not in KINDS:
        raise UserError(f"{path}: preprocessing.kind is {shown(kind)}; expected {' or '.join(KINDS)}")
    settings = {name: value for name, value in preprocessing.items() if name != "kind"}
    check_fields(path, "preprocessing", settings, MODALITIES[kind].preprocessing_class())
    model = config["model"]
    if not isinstance(model, dict) or not isinstance(model.get("name"), str):
        raise UserError(f"{path}: model.name is missing; expected a name of softfree models")
    outputs = len(task.outputs)
    if model.get("num_classes") != outputs:
        each = "outputs" if isinstance(task, Targets) else "cuts between ordered classes" if task.ordered else "classes"
        raise UserError(f"{path}: model.num_classes is {shown(model.get('num_classes'))} for {outputs} {each}")
    _check_model(path, model)
    for name, value in _sample_arguments(path, config).items():
        if name in model and name in ("in_chans", "in_features") and model[name] != value:
            raise UserError(f"{path}: model.{name} is {shown(model[name])}; the preprocessing gives {value}")
    options = check_fields(path, "options", config["options"], TrainOptions, whole=False)
    config["options"] = _default_options() | config["options"] | options


def _default_options() -> dict[str, Any]:
    from softfree.core.options import TrainOptions

    options = fields(TrainOptions)
    defaults = {option.name: option.default for option in options if option.default is not MISSING}
    defaults |= {option.name: option.default_factory() for option in options if callable(option.default_factory)}
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in defaults.items()}
    return plain | {"table": None}


def _check_model(path: Path, model: dict[str, Any]) -> None:
    """Refuse arguments of the wrong type; the model itself refuses unknown ones."""
    from timm.models import is_model, model_entrypoint

    import softfree.models  # noqa: F401  registers the names

    if not is_model(model["name"]) or not hasattr(model_entrypoint(model["name"]), "model_class"):
        return
    hints = get_type_hints(model_entrypoint(model["name"]).model_class.__init__)  # type: ignore[attr-defined]
    for name, value in model.items():
        if name in hints and (expected := mismatch(value, hints[name])):
            raise UserError(f"{path}: model.{name} is {shown(value)}; expected {expected}")


def _sample_arguments(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Return the model arguments that follow from the preprocessing; UserError for impossible values."""
    from softfree.data.modalities.registry import preprocessing_from_config
    from softfree_runtime.metadata import ABOVE_ZERO

    for name, value in config["preprocessing"].items():
        sizes = value if isinstance(value, list) else [value]
        if name in ABOVE_ZERO and any(size is not None and size <= 0 for size in sizes):
            raise UserError(f"{path}: preprocessing.{name} is {shown(value)}; expected numbers above 0")
    try:
        return preprocessing_from_config(config["preprocessing"]).model_arguments()
    except UserError as error:
        raise UserError(f"{path}: preprocessing: {error}") from None
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{path}: preprocessing cannot be used ({str(error)[:150]}); {COPY_AGAIN}") from None
