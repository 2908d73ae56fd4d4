import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from softfree.evaluation.calibration import choose_thresholds, fit_temperature
from softfree.evaluation.comparison import compare
from softfree.evaluation.formatting import write_metrics
from softfree.evaluation.metrics import measure
from softfree.evaluation.plots.style import short
from softfree.evaluation.report import Compared, Counts, Report, Thumbnail, render, write_report
from softfree.evaluation.scores import Scores
from softfree.evaluation.subgroups import by_group
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.task import Task

ODD = ("<script>alert('x')</script>", "a$b_{^}", "肺炎", 'Ünïcode & "quotes"', "x" * 200)
PNG = b"\x89PNG\r\n\x1a\n" + b"0" * 20
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags close and collects text, tags and what is loaded from elsewhere."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.tags: list[str] = []
        self.text: list[str] = []
        self.links: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [str(value) for name, value in attrs if name in ("src", "href", "xlink:href", "data", "action")]
        self.links = [link for link in self.links if not link.startswith("#")]  # within the page
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.stack:
            self.text.append(data)


def scores(task: Task, n: int = 120, seed: int = 0, images: int = 1) -> Scores:
    rng = np.random.default_rng(seed)
    k = len(task.classes)
    y = rng.integers(0, k, n)
    logits = rng.normal(size=(n, k)) + 1.5 * np.eye(k)[y]
    targets = y if task.exclusive else np.where(rng.random((n, k)) < 0.1, np.nan, np.eye(k)[y])
    return Scores(task, probabilities(logits, task), targets, np.arange(n) // images)


def report(known: Scores, **more: object) -> Report:
    thresholds = choose_thresholds(known)
    metrics = measure(known, thresholds, num_bootstrap=50)
    row = Counts("test", len(known), 60, dict.fromkeys(known.task.classes, 3))
    return Report(
        title="A report", notice="These images are phantoms.", task=known.task, data=[row], data_notes=["Split <b>"],
        cost={"Parameters": "1.2 M"}, metrics=metrics, scores=known, thresholds=thresholds,
        command="softfree train --x <y>", versions={"softfree": "0.1.0"}, **more)  # type: ignore[arg-type] # fmt: skip


TASKS = [
    Task("binary", ("well", ODD[0])),
    Task("multiclass", ODD),
    Task("multiclass", tuple(f"kind {i}" for i in range(40))),
    Task("multilabel", ODD[:3]),
    Task("multilabel", tuple(f"finding {i}" for i in range(14))),
]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.kind}-{len(task.classes)}")
def test_every_kind_of_task(task: Task) -> None:
    known = scores(task, 240)
    text = render(report(known))
    page = Page(text)
    assert "script" not in page.tags
    assert not page.links  # nothing is loaded from elsewhere
    assert not re.search(r"url\((?!#)|@import|https?://(?!www\.w3\.org)", text)
    words = " ".join("".join(page.text).split())
    for name in task.classes[1 if task.kind == "binary" else 0 :]:
        assert short(name, 40) in words
    assert page.tags.count("svg") == (5 if task.kind == "binary" else 4)
    assert f"{measure(known, None, num_bootstrap=2)['auroc'].value:.3f}" in words


def test_counts_of_classes_stand_beside_those_of_samples_and_patients() -> None:
    known = scores(Task("binary", ("patients", "split")))
    table = render(report(known)).partition("<h2>Data</h2>")[2].partition("</table>")[0]
    words = re.findall(r">(\w+)</t[hd]>", table)
    assert words == ["split", "samples", "patients", "patients", "split", "test", "120", "60", "3", "3"]


def test_a_finding_has_the_thresholds_of_all_folds() -> None:
    task = Task("multilabel", ("a", "b"))
    own = {"a": np.repeat([0.25, 0.375], 60), "b": np.full(120, 0.5)}
    found = replace(scores(task), thresholds=own)
    words = " ".join("".join(Page(render(report(found))).text).split())
    assert "0.250 to 0.375" in words
    assert "0.500 to" not in words


def test_everything_at_once(tmp_path: Path) -> None:
    task = Task("binary", ("well", "ill"))
    known = scores(task, images=2)
    mixed = 0.9 * known.probabilities + 0.1 * scores(task, seed=1).probabilities
    other = Scores(task, mixed, known.targets, known.patients)
    sites = pd.Series(["<i>A</i>", "B"] * 60)
    history = pd.DataFrame({"epoch": [1, 2], "train_loss": [0.7, 0.5], "val_loss": [0.7, 0.6], "val_auroc": [0.7, 0.8]})
    against = compare(known, other, margin=0.1, num_bootstrap=50, names=("This", "<u>that</u>"))
    full = report(
        known,
        history=history,
        comparisons=[Compared("<u>that</u>", measure(other, None, num_bootstrap=50)["auroc"], against)],
        subgroups={"<site>": by_group(known, sites, num_bootstrap=50)},
        images=[Thumbnail(PNG, 'called "ill"')],
        maps=[Thumbnail(PNG, "<map>")],
    )
    path = tmp_path / "report.html"
    write_report(path, full)
    assert os.listdir(tmp_path) == ["report.html"]
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    words = " ".join("".join(page.text).split())
    for expected in (
        "These images are phantoms.", "This is not inferior to <u>that</u>", "<i>A</i>", "<site>", "60patients",
        "AUROC, patients ignored", "softfree train --x <y>", "Split <b>", "small group", "1.2 M", "<map>",
    ):  # fmt: skip
        assert expected in words
    assert not {"i", "b", "u", "map", "site"} & set(page.tags)
    assert page.tags.count("svg") == 8
    assert len(page.links) == 2
    assert all(link.startswith("data:image/png;base64,") for link in page.links)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("task", TASKS[:2] + TASKS[3:4], ids=lambda task: task.kind)
def test_degenerate_scores(task: Task) -> None:
    known = scores(task, 60)
    holes = known.probabilities.copy()
    holes[3] = np.nan
    strange = [known.subset(np.arange(0)), Scores(task, holes, known.targets, known.patients)]
    if task.kind == "binary":
        one_class = Scores(task, known.probabilities, np.zeros_like(known.targets), known.patients)
        strange += [known.subset(np.arange(1)), one_class]
    for samples in strange:
        Page(render(report(samples)))


def thumbnail(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("L", (64, 64))  # lets the JPEG decoder leave out what is not needed
        return np.asarray(image.convert("L").resize((16, 16))).ravel()


def test_real_images(shared_data: Path, tmp_path: Path) -> None:
    """Logistic regression on 16 x 16 pixels tells most pneumonias from healthy chests; patients repeat."""
    folder = shared_data / "chest_xray"
    table = pd.read_csv(folder / "manifest.csv")
    table = table[table["split"].isin(["train", "val", "test"])].reset_index(drop=True)
    pixels = np.stack([thumbnail(folder / path) for path in table["path"]])
    task = Task("binary", ("NORMAL", "PNEUMONIA"))
    targets, patients = (table["label"] == "PNEUMONIA").astype(int).to_numpy(), pd.factorize(table["patient_id"])[0]
    rows = {split: (table["split"] == split).to_numpy() for split in ("train", "val", "test")}
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=1000))
    half = model.fit(pixels[rows["train"]], targets[rows["train"]]).decision_function(pixels) / 2
    logits = np.stack([-half, half], 1)
    temperature = fit_temperature(logits[rows["val"]], targets[rows["val"]], task)
    p = probabilities(logits, task, temperature)
    val, test = (Scores(task, p[rows[s]], targets[rows[s]], patients[rows[s]]) for s in ("val", "test"))
    thresholds = choose_thresholds(val)
    metrics = measure(test, thresholds)
    assert metrics["auroc"].value > 0.85
    assert metrics["auroc"].low > 0.7
    assert "41 patients" in metrics["auroc"].method
    assert metrics["balanced_accuracy"].value > 0.7
    write_metrics(tmp_path / "metrics.json", metrics)
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["auroc"]["n"] == rows["test"].sum()
    Page(render(report(test)))
