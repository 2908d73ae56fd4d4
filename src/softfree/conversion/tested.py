"""What a conversion does to the ranking of test images."""

from __future__ import annotations

import math

import numpy as np

from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import Source
from softfree.data.dataset import SampleDataset, choose_cache
from softfree.data.table import Table
from softfree.evaluation.metric_specs import quantities
from softfree.evaluation.scores import Scores
from softfree.inference.forward import infer
from softfree.inference.options import InferenceOptions
from softfree.models import VisionTransformer
from softfree_runtime.core.outputs import probabilities


def auroc_on_test(
    networks: dict[str, VisionTransformer], table: Table, origin: Source, options: ConvertOptions
) -> dict[str, float]:
    """Measure the AUROC (mean over classes) of each network on the test rows; empty without test rows."""
    rows = table.where("test")
    if not len(rows.frame):
        return {}
    cache = choose_cache("auto", len(rows.frame), origin.preprocessing)
    dataset = SampleDataset(rows.files, None, origin.preprocessing, frames=rows.frames, cache=cache)
    asked = InferenceOptions(batch_size=options.batch_size, progress=options.progress)
    found = {}
    for name, network in networks.items():
        logits = infer(network, dataset, len(table.task.classes), asked)
        read = ~np.isnan(logits.values).any(axis=1)
        scores = Scores(
            table.task,
            probabilities(logits.values[read], table.task),
            np.asarray(rows.targets)[read],
            rows.frame["patient"].to_numpy()[read],
        )
        found[name] = float(quantities(scores)["auroc"].value)
    return {name: area for name, area in found.items() if not math.isnan(area)}
