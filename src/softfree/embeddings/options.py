"""Options of the nearest cases and of regressions on frozen features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Search = Literal["auto", "exact", "approximate"]


@dataclass(kw_only=True)
class SimilarOptions:
    """Nearest cases.

    Attributes:
        index: Folder that softfree features has written with the same run or encoder. The index is built there once,
            at the first use.
        count: Number of nearest cases.
        search: 'exact' compares with all, 'approximate' follows a graph (HNSW), which finds nearly all of the nearest
            in milliseconds; 'auto' is exact below 100,000 images.
        build: Build the index anew; without IMAGES, do no more.
        columns: Further columns of the inputs' table to show, such as '[age, patient]'; patients are numbers, and left
            out without this. One that is called like a column of the answer, such as distance, is shown as
            inputs.distance.
        weights: Weights of a timm model: a safetensors file.
        frame: Frame of multi-frame files, counted from 0; default: the first.
        image_root: Folder that the paths of tables start from and that must contain all files; default: each table's
            folder.
        csv: CSV file to write, with a row for each case found.
        html: HTML file to write.
        show_images: Show thumbnails in the HTML file, which then holds images of patients.
        progress: Show progress bars.
    """

    index: Path
    count: int = 10
    search: Search = "auto"
    build: bool = False
    columns: list[str] | None = None
    weights: Path | None = None
    frame: int | None = None
    image_root: Path | None = None
    csv: Path | None = None
    html: Path | None = None
    show_images: bool = False
    progress: bool = True


@dataclass(kw_only=True)
class ProbeOptions:
    """Probe of frozen features.

    Attributes:
        method: 'logistic' regression (of a number ridge regression), or 'knn', nearest neighbors by cosine distance.
        encoder: The run that made the features: rows that it was trained on are left out, or the scores would be
            optimistic. Encoders without labels need none.
        label: Column with the class of each image, or with its number (--task).
        labels: Several 0/1 columns instead, one per finding (empty cell = unknown), e.g. '[effusion, nodule]'.
        positive: Positive class of a two-class task; default: the last in alphabetical order.
        task: 'ordinal' if the classes of --label have an order, 'regression' if it holds numbers; default: classes
            without an order, or findings.
        classes_in_order: All classes of an ordinal task from the lowest to the highest; default: whole numbers by
            their value.
        image_root: Folder that relative paths start from and that must contain all files; default: the table's folder.
        folds: Number of folds that patients are drawn into; a column fold of the table is used instead.
        folds_by: Column to leave out by its values, such as site.
        seed: Seed of the folds and of the bootstrap.
        num_bootstrap: Number of bootstrap resamples.
        out: Folder for predictions.csv, metrics.json and report.html.
    """

    method: Literal["logistic", "knn"] = "logistic"
    encoder: Path | None = None
    label: str = "label"
    labels: list[str] | None = None
    positive: str | None = None
    task: Literal["ordinal", "regression"] | None = None
    classes_in_order: list[str] | None = None
    image_root: Path | None = None
    folds: int = 5
    folds_by: str | None = None
    seed: int = 0
    num_bootstrap: int = 2000
    out: Path = Path("probe")
