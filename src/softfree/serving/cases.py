"""The cases of the reading room, and the export of readings; what imports pandas and torch runs in another process."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softfree.serving.records import RenderResult
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from softfree.data.table import Table
    from softfree.inference.run import Run

FEW = 20
"""A column of the table with up to so many different values can be filtered by."""
_OWN = {"path", "patient_id", "split", "frame", "mpp", "file", "patient", "row", "view", "time", "case_id", "fold"}
_SETS = ("set", "abstain", "unusual", "distance", "disagreement")


def load_cases(model: Path, table: Path) -> dict[str, Any]:
    """Read the test and out-of-fold cases of a run or study with their predictions, without names of patients.

    Args:
        model: The run or study.
        table: The table that it was trained on.

    Returns:
        ``classes``, ``task``, ``columns`` (values of each column to filter by), ``labels`` (columns with the labels),
        ``study`` and ``cases``, each with the number of its row, files, truth, prediction and other columns.

    Raises:
        UserError: Another table, a run without predictions, or one that predicts no classes.
    """
    from softfree.inference.run import Run
    from softfree.reporting.scoring import own_table

    run = Run.load(model)
    if run.parts or not run.task.by_class:
        kind = "several targets" if run.parts else "numbers"
        raise UserError(f"--cases {table}: the reading room is for classes and findings, and {model} predicts {kind}")
    found = own_table(run, table, how=f"softfree serve {model} --cases TABLE")
    frame = _predictions(run, table)
    sources = found.sources_by_row()
    columns = _columns(run, found)
    by_row = found.frame.set_index("row")
    cases = []
    for record in frame.to_dict("records"):
        prediction = {str(name): cell for name, cell in record.items()}
        row = int(prediction["row"])
        if row in sources:
            cells = {name: _text(by_row.at[row, name]) for name in columns}
            cases.append(_case(run, prediction, sources[row]) | {"columns": cells})
    if not cases:
        raise UserError(f"--cases {table}: {model} has no predictions of test or out-of-fold rows of this table")
    options = run.config["options"]
    return {
        "classes": list(run.task.classes),
        "task": run.task.kind,
        "labels": list(options["labels"] or [options["label"]]),
        "columns": columns,
        "study": bool(run.members),
        "digest": found.digest,
        "thresholds": dict(run.calibration.thresholds),
        "coverage": None if run.calibration.sets is None else run.calibration.sets.coverage,
        "notice": run.notice,
        "cases": cases,
    }


def _predictions(run: Run, table: Path) -> pd.DataFrame:
    """Return the rows that the model was not trained on: of a study also its fixed test rows."""
    import pandas as pd

    from softfree.inference.run_directory import RunDirectory

    folders = [run.directory, RunDirectory(run.directory.test)] if run.members else [run.directory]
    frames = [folder.read_predictions() for folder in folders if folder.predictions.is_file()]
    if not frames:
        raise UserError(f"--cases {table}: {run.folder} has no predictions.csv; its training did not finish")
    frame = pd.concat(frames, ignore_index=True).drop_duplicates("row", keep="last")
    if not run.members and (frame["split"] == "test").any():
        frame = frame[frame["split"] == "test"]  # thresholds were chosen on the validation rows
    return frame.astype(object).where(frame.notna(), None)


def _columns(run: Run, table: Table) -> dict[str, list[str]]:
    """Return the columns with few values, such as sites, and these values; numbers and labels are left out."""
    import pandas as pd

    options = run.config["options"]
    taken = _OWN | set(options["labels"] or [options["label"]])
    found = {}
    for name in table.frame:
        if name in taken or pd.api.types.is_float_dtype(table.frame[name]):
            continue
        values = sorted({_text(value) for value in table.frame[name]})
        if 2 <= len(values) <= FEW:
            found[str(name)] = values
    return found


def _text(value: Any) -> str:
    import pandas as pd

    return "" if value is None or pd.isna(value) else str(value)


def _case(run: Run, prediction: Mapping[str, Any], source: Any) -> dict[str, Any]:
    from softfree_runtime.sources.sample_source import Case, CaseFile, files_of

    task, (origin, frame) = run.task, source
    files = files_of(origin)
    first = files[0]
    truth = _truth(prediction, task)
    p = {name: prediction.get(f"p_{name}") for name in task.classes}
    predicted = prediction.get("predicted") or ""
    known = prediction["status"] == "ok"
    return {
        "row": int(prediction["row"]),
        "patient": int(prediction["patient"]),
        "split": "out of fold" if run.members and prediction["split"] != "test" else str(prediction["split"]),
        "files": [file.path for file in files],
        "views": [file.view if isinstance(file, CaseFile) else "" for file in files] if len(files) > 1 else [],
        "frame": first.frame if isinstance(first, CaseFile) else frame,
        "mpp": first.mpp,
        "variables": dict(origin.variables) if isinstance(origin, Case) else {},
        "status": prediction["status"],
        "reason": prediction.get("reason") or "",
        "truth": truth,
        "p": p,
        "predicted": predicted,
        "wrong": known and _is_wrong(truth, predicted, task),
        "error": _error(truth, p) if known else 1.0,
        "confidence": _confidence(p, predicted, task) if known else 0.0,
        **{name: prediction.get(name) for name in (*_SETS, *(f"set_{name}" for name in task.classes))
           if prediction.get(name) is not None},
    }  # fmt: skip


def _truth(prediction: Mapping[str, Any], task: Any) -> Any:
    """Return the class; of findings 1, 0 or None for each."""
    if task.exclusive:
        return task.classes[int(prediction["target"])]
    return {name: None if (value := prediction[f"target_{name}"]) is None else int(value) for name in task.classes}


def _is_wrong(truth: Any, predicted: str, task: Any) -> bool:
    if task.exclusive:
        return bool(predicted != truth)
    called = predicted.split("; ")
    return any(value is not None and bool(value) != (name in called) for name, value in truth.items())


def _error(truth: Any, p: Mapping[str, Any]) -> float:
    """Return how far the probabilities are from the truth, from 0 to 1."""
    if isinstance(truth, str):
        return 1.0 - float(p[truth])
    return max((abs(value - float(p[name])) for name, value in truth.items() if value is not None), default=0.0)


def _confidence(p: Mapping[str, Any], predicted: str, task: Any) -> float:
    """Return the probability of the answer; of findings that of the least certain one."""
    if task.exclusive:
        return float(p[predicted]) if predicted in p else 0.0
    return min(max(float(value), 1 - float(value)) for value in p.values())


def export_table(
    paths: Sequence[Path], *, labels: Sequence[str], readings: Sequence[Mapping[str, Any]]
) -> RenderResult:
    """Return the table with the labels that the readers gave, as CSV; a task of a worker.

    A label is replaced where more readers gave this new one than any other, the old one included. The columns
    ``reading``, ``reading_label``, ``reading_note``, ``read_by`` and ``read_at`` say what was decided.

    Args:
        paths: The table.
        labels: Its columns with the labels.
        readings: The last reading of each reader and case: ``row``, ``reader``, ``decision``, ``label``, ``note`` and
            ``at``.
    """
    from softfree.data.table_file import read_table_file

    (path,) = paths
    table = read_table_file(path, {"path", "patient_id", "split", "frame", "case_id", *labels})
    frame = table.frame.astype(object).where(table.frame.notna(), "")
    by_row: dict[int, list[Mapping[str, Any]]] = {}
    for reading in readings:
        by_row.setdefault(int(reading["row"]), []).append(reading)
    for name in ("reading", "reading_label", "reading_note", "read_by", "read_at"):
        frame[name] = ""
    for row, given in by_row.items():
        if row not in frame.index:
            continue
        rows = [row]
        if "case_id" in frame and (case := frame.at[row, "case_id"]):
            rows = list(frame.index[frame["case_id"] == case])
        decision, label = decided(given)
        for name, value in _cells(labels, label).items():
            frame.loc[rows, name] = value
        told = [reading["label"] for reading in given if reading["label"] is not None]
        frame.loc[rows, "reading"] = decision
        frame.loc[rows, "reading_label"] = "; ".join(dict.fromkeys(_shown(label) for label in told))
        frame.loc[rows, "reading_note"] = "; ".join(harmless(str(one["note"])) for one in given if one["note"])
        frame.loc[rows, "read_by"] = "; ".join(harmless(str(one["reader"])) for one in given)
        frame.loc[rows, "read_at"] = max(str(one["at"]) for one in given)
    return RenderResult(frame.to_csv(index=False).encode(), "text/csv; charset=utf-8")


def decided(readings: Iterable[Mapping[str, Any]]) -> tuple[str, Any]:
    """Return what the readers decided about a case together, and the new label or None.

    Each reader has a vote: for the old label, for a new one, or against the old one without a new one. If two of these
    have equally many, the label stays.
    """
    votes = Counter(
        (reading["decision"], json.dumps(reading["label"], sort_keys=True) if reading["decision"] == "relabel" else "")
        for reading in readings
    )
    (first, most), *others = votes.most_common()
    if others and others[0][1] == most:
        return "readers disagree", None
    decision, label = first
    return decision, json.loads(label) if label else None


def _cells(labels: Sequence[str], label: Any) -> dict[str, Any]:
    if label is None:
        return {}
    if isinstance(label, dict):
        return {name: "" if value is None else int(value) for name, value in label.items()}
    return {labels[0]: label}


def _shown(label: Any) -> str:
    if isinstance(label, dict):
        return ", ".join(f"{name}={'?' if value is None else value}" for name, value in label.items())
    return str(label)


def harmless(text: str) -> str:
    """Return a text that no spreadsheet takes for a formula."""
    return f"'{text}" if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text


def loaded(model: Path, table: Path) -> dict[str, Any] | UserError:
    """Call :func:`load_cases` in a process of its own, and return its error for the other process."""
    try:
        return load_cases(model, table)
    except UserError as error:
        return UserError(str(error))


def without_files(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case without what only the server may know."""
    return {name: value for name, value in case.items() if name not in ("files", "variables", "mpp", "frame")}
