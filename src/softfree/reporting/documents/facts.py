"""What a run knows about itself, in sentences by topic. No sentence names a patient, a file or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from softfree.attention import attention_name
from softfree.data.audit.checks import counted
from softfree.data.modalities.registry import MODALITIES
from softfree.evaluation.comparison import TITLES
from softfree.evaluation.metrics import main_metric
from softfree.inference.run import PART_OF, Run
from softfree.inference.run_directory import RunDirectory
from softfree.models.registry import build_model
from softfree.reporting.documents.evaluated import (
    Evaluated,
    capitalized,
    in_a_sentence,
    listed,
    read_external,
    with_interval,
)
from softfree_runtime.core.numbers import number_names
from softfree_runtime.preprocessing.case import variables_of

CAUTION = "For research; not a medical device."
SPLITS = {"train": "training", "val": "validation", "test": "test"}
LOSSES = {
    "multilabel": "binary cross-entropy of each finding",
    "ordinal": "cross-entropy of a continuation-ratio model of the ordered classes (CORN)",
}
IN_TEXT = (
    *("auroc", "quadratic_kappa", "mae", "r2", "balanced_accuracy", "sensitivity", "specificity", "brier"),
    *("c_index", "integrated_brier"),
)
"""Metrics that sentences name."""


class Facts:
    """The facts of a run or study; each method returns sentences, none if the run does not know.

    Args:
        run: The run, or the ensemble of a study.
        external: Folders of evaluations on other tables, as ``softfree evaluate --out`` writes them.
    """

    def __init__(self, run: Run, external: Sequence[Path] = ()) -> None:
        self.run, self.task, self.options = run, run.task, run.config["options"]
        self.table: Mapping[str, Any] = run.config.get("table", {})
        self.is_study = bool(run.config.get("members"))
        self.evaluations = [*self._own_evaluations(), *(read_external(folder, run) for folder in external)]

    @property
    def kind(self) -> str:
        """What the samples are, in plural."""
        return MODALITIES[self.run.preprocessing.kind].plural

    @property
    def title(self) -> str:
        """What was done, as a title."""
        how = "cross-validation" if self.is_study else "internal evaluation"
        if self.task.numeric:
            return f"Development and {how} of a deep-learning regression of {self._classes} from {self.kind}"
        if self.task.timed:
            return f"Development and {how} of a deep-learning survival model of {self._classes} from {self.kind}"
        return f"Development and {how} of a deep-learning classifier of {self.kind}: {self._classes}"

    def proposed_title(self) -> list[str]:
        """Propose a title."""
        return [f"{self.title}."]

    def design(self) -> list[str]:
        """State what kind of study this is."""
        how = "by cross-validation" if self.is_study else "on a held-out split"
        external = sum(evaluation.is_external for evaluation in self.evaluations)
        also = f", and externally on {external} data set{'s' * (external > 1)}" if external else ""
        model = "regression" if self.task.numeric else "survival" if self.task.timed else "classification"
        return [f"A {model} model was developed and evaluated internally {how}{also}."]

    def outcome(self) -> list[str]:
        """State what is predicted."""
        if self.task.numeric:
            return [f"The model predicts a number, {self._classes}."]
        if self.task.timed:
            return [f"The model predicts the time to an event, {self._classes}, of which some samples are censored."]
        if self.task.kind == "multilabel":
            return [f"The model predicts for each finding whether it is present: {self._classes}."]
        if self.task.ordered:
            order = ", ".join(self.task.classes)
            return [f"The model assigns one of {len(self.task.classes)} ordered classes, from the lowest: {order}."]
        return [f"The model assigns one of {len(self.task.classes)} mutually exclusive classes: {self._classes}."]

    def predictors(self) -> list[str]:
        """State what the model sees."""
        variables = variables_of(self.run.preprocessing)
        if variables:
            return [f"The {self.kind}, and beside them the variables {listed(variables, 'and')}."]
        return [f"Only the {self.kind} themselves; no other variables."]

    def data(self) -> list[str]:
        """Count samples, patients and classes."""
        if "rows" not in self.table:
            return []
        patients = self.table.get("patients")
        of = f" of {patients:,} patients" if patients else ""
        counts = [count["classes"] for count in self.table.get("counts", {}).values()]
        totals = [f"{sum(count[name] for count in counts):,} {name}" for name in self.task.classes]
        by_class = f" ({', '.join(totals)})" if counts and self.task.by_class else ""
        return [f"The data set has {self.table['rows']:,} {self.kind}{of}{by_class}."]

    def splits(self) -> list[str]:
        """Say how samples were divided."""
        made = self.table.get("split") or "as given by the table"
        if self.options.get("split_from"):
            made = "as in an earlier run"
        names = {"val": "cross-validation", "test": "fixed test rows"} if self.is_study else SPLITS
        parts = {names[split]: count for split, count in self.table.get("counts", {}).items() if count["samples"]}
        sentences = [f"Split: {made}."]
        if parts:
            sentences.append(capitalized("; ".join(f"{name}: {self._counted(part)}" for name, part in parts.items())))
        if self.is_study:
            sentences.append("Each held-out sample was predicted by a model that was not trained on its fold.")
        return sentences

    def disjoint(self) -> list[str]:
        """Say at which level the parts are disjoint."""
        if "patients" not in self.table:
            return []
        if self.table["patients"] is None:
            return ["Patients are not known: samples were divided one by one."]
        return ["All samples of a patient are in the same part."]

    def missing(self) -> list[str]:
        """Say what was left out."""
        counts = {"training and validation": self.table.get("unreadable")}
        counts |= {evaluation.name: evaluation.results.get("unreadable") for evaluation in self.evaluations}
        known = {name: count for name, count in counts.items() if count is not None}
        sentences = [
            f"Left out because they could not be read, {name}: {count:,} {self.kind}."
            for name, count in known.items()
            if count
        ]
        if known and not sentences:
            sentences.append(f"All {self.kind} could be read.")
        if self.task.kind == "multilabel":
            sentences.append("Unknown labels are left out of the loss and of the metrics, finding by finding.")
        return sentences

    def preprocessing(self) -> list[str]:
        """Describe the deterministic steps from file to tensor."""
        return self.run.preprocessing.in_words()

    def augmentation(self) -> list[str]:
        """Describe the random changes in training."""
        words = self.run.config.get("augmentation")
        return [f"Training samples were augmented: {words}." if words else "Training samples were not augmented."]

    def model(self) -> list[str]:
        """Describe the architecture."""
        name, shape, cost = self.run.model_name, self._shape, self.run.directory.read_cost()
        sentences = [f"The model is {name}{f', a {shape}' if shape else ''}."]
        if cost:
            members = f" in {len(self.run.config['members'])} members" if self.is_study else ""
            work = "" if cost["multiply_adds"] is None else f" and {cost['multiply_adds'] / 1e9:.3g} G multiply-adds"
            size = " x ".join(map(str, cost["shape"]))
            sentences.append(
                f"It has {cost['parameters'] / 1e6:.3g} M parameters{members}{work} at an input of {size}."
            )
        each = "cut between two classes" if self.task.ordered else "class"
        last = "the number" if self.task.numeric else f"a logit for each {each}"
        if self.task.timed:
            last = f"the hazard of each of {len(self.task.cuts)} time intervals" if self.task.cuts else "a log hazard"
        if pool := self.run.config["model"].get("pool"):
            sentences.append(f"Tokens are pooled ({pool}), and a linear layer gives {last}.")
        return sentences

    def initialization(self) -> list[str]:
        """Say what the weights were before training."""
        weights = self.options["weights"]
        if weights and self.is_study and Path(weights).parent.name == "pretrained":
            sentences = ["Each model was pretrained without labels on the images of its own training folds."]
        elif weights:
            name = "a local file" if Path(weights).is_absolute() else weights
            sentences = [f"Weights were initialized from pretrained ones ({name})."]
        else:
            sentences = ["Weights were initialized at random, without pretraining."]
        if self.options["teacher"]:
            share, temperature = self.options["teacher_weight"], self.options["teacher_temperature"]
            sentences.append(f"It was distilled from a trained model (weight {share:g}, temperature {temperature:g}).")
        return sentences

    def training(self) -> list[str]:
        """Describe the recipe."""
        o = self.options
        loss = LOSSES.get(self.task.kind, "cross-entropy")
        if self.task.numeric:
            loss = f"{o['loss'] or 'huber'} loss of the standardized target"
        if self.task.timed:
            loss = "likelihood of the hazards" if self.task.cuts else "Cox partial likelihood of the samples of a batch"
        extras = {
            "label smoothing {:g}": o["label_smoothing"],
            "mixup {:g}": o["mixup"],
            "CutMix {:g}": o["cutmix"],
            "stochastic depth {:g}": o["drop_path"],
            "gradient norm clipped to {:g}": o["grad_clip"],
            "layer-wise decay of the learning rate {:g}": None if o["layer_decay"] == 1 else o["layer_decay"],
            "moving average of the weights with decay {:g}": o["ema"],
        }
        further = "".join(f"; {text.format(value)}" for text, value in extras.items() if value)
        samples, warmup = o["batch_size"] * o["grad_accum"], 100 * o["warmup_fraction"]
        return [
            f"It was trained for {counted(o['epochs'], 'epoch')} with AdamW on the {loss}, {samples} samples per step:"
            f" learning rate {o['lr']:g} after a linear warmup over {warmup:g} % of the steps, then cosine decay to 0;"
            f" weight decay {o['weight_decay']:g}{further}.",
            *self._joint_training(),
            f"Training used {o['precision']} arithmetic and seed {o['seed']}.",
        ]

    def _joint_training(self) -> list[str]:
        """Say with which other targets the model was trained."""
        weights = self._weights_of_targets()
        if not weights:
            return []
        each = ", ".join(f"{name} {weight:g}" for name, weight in weights.items())
        return [
            f"One model was trained on {len(weights)} targets together, and its loss is the sum of theirs over the"
            f" samples in which each is known, with the weights {each}."
        ]

    def _weights_of_targets(self) -> dict[str, float]:
        """Return the weights of the targets that were trained together; empty for a run of one."""
        config = (self.run.members or (self.run,))[0].config
        return dict(config.get(PART_OF, {}).get("weights", {}))

    def imbalance(self) -> list[str]:
        """Say what was done about rare classes."""
        if not self.task.by_class:
            return []
        if self.options["class_weights"]:
            return ["The loss weighted classes inversely to their frequency; probabilities were calibrated afterwards."]
        return ["Classes were not weighted or resampled."]

    def selection(self) -> list[str]:
        """Say which weights were kept."""
        patience = self.options["patience"]
        if patience is None:
            return ["The weights of the last epoch were kept: no epoch was chosen by its result."]
        best = "least validation error" if self.task.numeric else f"best validation {TITLES[main_metric(self.task)]}"
        if self._weights_of_targets():
            best = "best mean score of its targets on validation"
        return [f"The epoch with the {best} was kept; training stopped {patience} epochs after it."]

    def ensemble(self) -> list[str]:
        """Say how several models are combined."""
        if not self.is_study:
            return ["The final model is a single one."]
        count = len(self.run.config["members"])
        mean = "the mean of their numbers" if self.task.numeric else "the mean of their logits, each calibrated"
        mean = "the mean of their outputs" if self.task.timed else mean
        return [f"The final model is an ensemble of {count}: {mean}."]

    def output(self) -> list[str]:
        """Say what the model returns, and where thresholds come from."""
        if (scale := self.run.calibration.scale) is not None:
            rows = "held-out" if self.is_study else "validation"
            interval = (
                "There are no prediction intervals, for want of patients."
                if scale.half_width is None
                else f"Prediction intervals of {scale.coverage * 100:g} % reach {scale.half_width:.4g} to either side,"
                f" a conformal quantile of the absolute errors on {rows} samples."
            )
            return ["The output is a number in the unit of the table.", interval]
        if (survival := self.run.calibration.survival) is not None:
            at = listed(number_names(survival.horizons), "and")
            risk = "The output is a risk, higher for an earlier event"
            return [f"{risk}, and the probability to be free of the event at {at}."]
        kind = "for each finding" if self.task.kind == "multilabel" else "for each class, adding up to 1"
        chosen = "the other folds" if self.is_study else "validation samples"
        fitted = (
            "one temperature fitted on the held-out samples of all folds"
            if self.is_study
            else ("a temperature fitted on validation samples")
        )
        sentences = [f"The output is a probability {kind}, calibrated by {fitted}."]
        thresholds = self.run.calibration.thresholds
        if self.task.ordered:
            sentences.append("The predicted class is the median of these probabilities.")
        elif not self.task.by_threshold:
            sentences.append("The predicted class is the most probable.")
        elif thresholds:
            values = "; ".join(f"{name} from {value:.3f}" for name, value in thresholds.items())
            sentences.append(f"Thresholds have the largest Youden index on {chosen}; of the final model: {values}.")
        if self.run.calibration.sets is not None:
            sentences.append(f"Conformal sets name the plausible classes, by {chosen}.")
        return sentences

    def metrics(self) -> list[str]:
        """Name what was measured."""
        names = dict.fromkeys(name.partition("/")[0] for evaluation in self.evaluations for name in evaluation.metrics)
        if not names:
            return []
        if self.task.numeric:
            names_listed = listed([in_a_sentence(name) for name in names], "and")
            return [capitalized(f"metrics: {names_listed}"), "Figures: true against predicted, Bland-Altman plot."]
        if self.task.timed:
            names_listed = listed([in_a_sentence(name) for name in names], "and")
            figures = "Figures: Kaplan-Meier curves by risk with a log-rank test, predicted against observed survival."
            return [capitalized(f"metrics: {names_listed}"), figures]
        curves = ["ROC", "precision-recall", "reliability"] + ["decision"] * self.task.by_threshold
        names_listed = listed([in_a_sentence(name) for name in names], "and")
        return [capitalized(f"metrics: {names_listed}"), f"Figures: {listed(curves, 'and')} curves."]

    def uncertainty(self) -> list[str]:
        """Say how intervals were computed."""
        main = main_metric(self.task)
        methods = {
            evaluation.name: evaluation.metrics[main]["method"].rpartition("; ")[2]
            for evaluation in self.evaluations
            if main in evaluation.metrics
        }
        return [f"95 % intervals, {name}: {method}." for name, method in methods.items() if method]

    def results(self) -> list[str]:
        """State the main results with their intervals, a sentence for each set of samples."""
        return [self._result(evaluation) for evaluation in self.evaluations]

    def internal(self) -> list[str]:
        """State the results on the run's own table."""
        return [self._result(evaluation) for evaluation in self.evaluations if not evaluation.is_external]

    def external(self) -> list[str]:
        """State the results on other tables."""
        return [self._result(evaluation) for evaluation in self.evaluations if evaluation.is_external]

    def coverage(self) -> list[str]:
        """State how often conformal sets contain the truth."""
        return [sentence for evaluation in self.evaluations for sentence in evaluation.coverage()]

    def baselines(self) -> list[str]:
        """Compare with simpler models on the same samples."""
        return [sentence for evaluation in self.evaluations for sentence in evaluation.baselines()]

    def warnings(self) -> list[str]:
        """State what speaks against the results."""
        sentences = [warning for evaluation in self.evaluations for warning in evaluation.warnings()]
        if copies := self.table.get("copies"):
            sentences.append(capitalized(copies))
        if self.table.get("patients", 0) is None:
            sentences.append("Without patient ids it is unknown whether a patient is in more than one part.")
        if not any(evaluation.is_external for evaluation in self.evaluations):
            sentences.append("The model was not evaluated on data of another source.")
        return sentences

    def software(self) -> list[str]:
        """Name the libraries and their versions."""
        versions = self.run.config.get("versions", {})
        named = ", ".join(f"{name} {version}" for name, version in versions.items())
        return [f"Software: {named}."] if versions else []

    def license(self) -> list[str]:
        """State the license of the code."""
        return ["softfree is open source (Apache-2.0)."]

    def cost(self) -> list[str]:
        """State time, memory and machine of training."""
        cost = self.run.directory.read_cost()
        if not cost:
            return []
        time = f"{cost['seconds']:,.0f} s{' since it was resumed' if cost['resumed'] else ''}"
        return [f"Training took {time} and {cost['peak_bytes'] / 2**30:.2f} GiB ({cost['machine']})."]

    def privacy(self) -> list[str]:
        """State what the run stores about patients."""
        return ["The run stores no names and no ids of patients, only keyed hashes."]

    def poor_input(self) -> list[str]:
        """State what happens to files that cannot be read."""
        return ["Files that cannot be read get a reason and no prediction; the quality of others is not judged."]

    def handling(self) -> list[str]:
        """State what a user has to do with the input."""
        return [f"The model takes {self.kind} as they are; nothing is marked by hand."]

    def table_identity(self) -> list[str]:
        """Identify the table without revealing it."""
        return [f"SHA-256 of the table: {self.run.table_digest}."] if self.run.table_digest else []

    def weights_identity(self) -> list[str]:
        """Identify the weights."""
        digests = {Path(member["folder"]).name: member["sha256"] for member in self.run.config.get("members", [])}
        if self.run.directory.weights.is_file():
            digests["the model"] = self.run.directory.weights_digest()
        return [f"SHA-256 of the weights of {name}: {digest}." for name, digest in digests.items()]

    @property
    def _classes(self) -> str:
        return listed(self.task.classes, "and" if self.task.kind == "multilabel" else "or")

    @cached_property
    def _shape(self) -> str:
        """Describe depth, width and attention of the model; empty for architectures without blocks."""
        with torch.device("meta"):
            model: Any = build_model(self.run.config)
        if not (hasattr(model, "blocks") and hasattr(model, "embed_dim")):
            return ""
        block, patch = model.blocks[0], getattr(model, "patch_size", None)
        sides = (patch, patch) if isinstance(patch, int) else patch
        patches = "" if sides is None else f", patches of {' x '.join(map(str, sides))}"
        return (
            f"transformer with {attention_name(block.attn)} attention, {counted(len(model.blocks), 'block')} of width"
            f" {model.embed_dim} with {block.attn.num_heads} heads{patches}"
        )

    def _counted(self, part: Mapping[str, Any]) -> str:
        """Return the numbers of samples, patients and classes of a part."""
        patients = f" of {part['patients']:,} patients" if self.table.get("patients") else ""
        classes = ", ".join(f"{number:,} {name}" for name, number in part["classes"].items())
        counted_classes = f" ({classes})" if self.task.by_class else ""
        return f"{part['samples']:,} {self.kind}{patients}{counted_classes}"

    def _result(self, evaluation: Evaluated) -> str:
        """State the main results on one set of samples."""
        shown = [
            f"{in_a_sentence(name)} {with_interval(metric)}"
            for name, metric in evaluation.metrics.items()
            if name.partition("/")[0] in IN_TEXT
        ]
        return capitalized(f"{evaluation.name}, {self.samples(evaluation)}: {'; '.join(shown)}")

    def samples(self, evaluation: Evaluated) -> str:
        """Return the numbers of samples and patients of an evaluation."""
        of = f" of {evaluation.results['patients']:,} patients" if self.table.get("patients") else ""
        return f"{evaluation.results['n']:,} {self.kind}{of}"

    def _own_evaluations(self) -> Iterator[Evaluated]:
        directory = self.run.directory
        if directory.metrics.is_file():
            results = directory.read_metrics()
            name = "cross-validation" if self.is_study else f"{SPLITS.get(results.get('split', ''), 'evaluated')} split"
            yield Evaluated(name, False, results)
        test = RunDirectory(directory.test)
        if test.metrics.is_file():
            yield Evaluated("fixed test rows", False, test.read_metrics())
