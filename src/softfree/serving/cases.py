"""The cases of the reading room; what imports pandas and torch runs in another process."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from softfree.data.table import Table
    from softfree.inference.run import Run
    from softfree.inference.run_directory import RunDirectory
    from softfree_runtime.core.task import Task

FEW = 20
"""A column of the table with up to so many different values can be filtered by."""
_OWN = {"path", "patient_id", "split", "frame", "mpp", "file", "patient", "row", "view", "time", "case_id", "fold"}
_KEPT = ("predicted", "set", "abstain", "value", "low", "high", "disagreement")
"""Columns of a prediction that the page shows, besides those of the classes."""


def load_cases(model: Path, table: Path) -> dict[str, Any]:
    """Read the test and out-of-fold cases of a run or study with their predictions, without names of patients.

    Args:
        model: The run or study.
        table: The table that it was trained on.

    Returns:
        ``targets``, ``columns`` (values of each column to filter by), ``study``, ``variables`` (clinical ones of the
        model), ``left_out`` (targets that cannot be read) and ``cases``. A target has ``name`` (empty if it is the
        only one), ``task``, ``classes``, ``labels`` (columns with the labels), ``thresholds`` and ``coverage``. A case
        has the number of its row, its files, other columns, and for each target an answer: ``truth`` and ``row``, the
        prediction; each None if it is not known.

    Raises:
        UserError: Another table, a run without predictions, or one that predicts survival alone.
    """
    from softfree.inference.run import Run
    from softfree.reporting.scoring import own_table

    run = Run.load(model)
    held_out = held_out_answers(run, f"--cases {table}")
    found = own_table(run, table, how=f"softfree serve {model} --cases TABLE")
    sources = found.sources_by_row()
    columns = _columns({label for target in held_out["targets"] for label in target["labels"]}, found)
    by_row = found.frame.set_index("row")
    cases = [
        case
        | _source(sources[case["row"]])
        | {"columns": {name: _text(by_row.at[case["row"], name]) for name in columns}}
        for case in held_out["cases"]
        if case["row"] in sources
    ]
    if not cases:
        raise UserError(f"--cases {table}: {model} has no predictions of test or out-of-fold rows of this table")
    return held_out | {"columns": columns, "study": bool(run.members), "digest": found.digest, "cases": cases}


def held_out_answers(run: Run, option: str) -> dict[str, Any]:
    """Read what is known of the test and out-of-fold cases without their files.

    Args:
        run: The run or study.
        option: The option that asks for them, for messages.

    Returns:
        ``targets``, ``left_out``, ``variables``, ``notice`` and ``cases``, as :func:`load_cases` returns them, without
        files and columns of the table.

    Raises:
        UserError: The run has no predictions, or predicts survival alone.
    """
    parts = run.parts or {"": run}
    readable = {name: part for name, part in parts.items() if not part.task.timed}
    if not readable:
        raise UserError(
            f"{option}: {run.folder} predicts survival, which the reading room does not support: no reader can see in"
            " an image when an event comes; expected classes, grades, findings or numbers"
        )
    targets = [_target(name, part) for name, part in readable.items()]
    records = _predictions(run, option).to_dict("records")
    cases = [_case(run, readable, {str(name): cell for name, cell in record.items()}) for record in records]
    _rank(cases, [target["name"] for target in targets if target["task"] == "regression"])
    return {
        "targets": targets,
        "left_out": [name for name in parts if name not in readable],
        "variables": list(run.config["options"]["variables"] or []),
        "notice": run.notice,
        "cases": cases,
    }


def _target(name: str, run: Run) -> dict[str, Any]:
    options, sets = run.config["options"], run.calibration.sets
    return {
        "name": name,
        "task": run.task.kind,
        "classes": list(run.task.classes),
        "labels": list(options["labels"] or [options["label"]]),
        "thresholds": dict(run.calibration.thresholds),
        "coverage": None if sets is None else sets.coverage,
    }


def _predictions(run: Run, option: str) -> pd.DataFrame:
    """Return the rows that the model was not trained on: of a study also its fixed test rows."""
    import pandas as pd

    from softfree.inference.run_directory import RunDirectory
    from softfree.study.targets import join_predictions

    if run.parts:
        frame = join_predictions({name: _predictions(part, option) for name, part in run.parts.items()})
        return frame.astype(object).where(frame.notna(), None)
    folders = [run.directory, RunDirectory(run.directory.test)] if run.members else [run.directory]
    frames = [_read(folder) for folder in folders if folder.predictions.is_file()]
    if not frames:
        raise UserError(f"{option}: {run.folder} has no predictions.csv; its training did not finish")
    frame = pd.concat(frames, ignore_index=True).drop_duplicates("row", keep="last")
    if not run.members and (frame["split"] == "test").any():
        frame = frame[frame["split"] == "test"]  # thresholds were chosen on the validation rows
    return frame.astype(object).where(frame.notna(), None)


def _read(folder: RunDirectory) -> pd.DataFrame:
    """Read predictions, in which a class may be called 2 or NA."""
    import pandas as pd

    frame = folder.read_predictions()
    if "predicted" in frame:
        frame["predicted"] = pd.read_csv(
            folder.predictions, usecols=["predicted"], dtype=str, keep_default_na=False
        )["predicted"]  # fmt: skip
    return frame


def _columns(labels: set[str], table: Table) -> dict[str, list[str]]:
    """Return the columns with few values, such as sites, and these values; numbers and labels are left out."""
    import pandas as pd

    found = {}
    for name in table.frame:
        if name in _OWN | labels or pd.api.types.is_float_dtype(table.frame[name]):
            continue
        values = sorted({_text(value) for value in table.frame[name]})
        if 2 <= len(values) <= FEW:
            found[str(name)] = values
    return found


def _text(value: Any) -> str:
    import pandas as pd

    return "" if value is None or pd.isna(value) else str(value)


def _case(run: Run, targets: Mapping[str, Run], cells: Mapping[str, Any]) -> dict[str, Any]:
    known = cells["status"] == "ok"
    answers = {name: _answer(part.task, _own(cells, name), known) for name, part in targets.items()}
    sure = [answer["confidence"] for answer in answers.values() if answer["confidence"] is not None]
    unusual = [cells[name] for name in cells if name.rpartition(".")[2] == "unusual" and cells[name] is not None]
    return {
        "row": int(cells["row"]),
        "patient": int(cells["patient"]),
        "split": "out of fold" if run.members and cells["split"] != "test" else str(cells["split"]),
        "status": cells["status"],
        "reason": cells.get("reason") or "",
        "answers": answers,
        "wrong": any(answer["wrong"] for answer in answers.values()),
        "confidence": min(sure) if sure else None,
        "abstain": any((answer["row"] or {}).get("abstain") for answer in answers.values()),
        "unusual": any(unusual) if unusual else None,
        "distance": cells.get("distance"),
    }


def _source(source: Any) -> dict[str, Any]:
    """Return the files of a case and how to read them."""
    from softfree_runtime.sources.sample_source import Case, CaseFile, files_of

    origin, frame = source
    files = files_of(origin)
    first = files[0]
    return {
        "files": [file.path for file in files],
        "views": [file.view if isinstance(file, CaseFile) else "" for file in files] if len(files) > 1 else [],
        "frame": first.frame if isinstance(first, CaseFile) else frame,
        "mpp": first.mpp,
        "variables": dict(origin.variables) if isinstance(origin, Case) else {},
    }


def _own(cells: Mapping[str, Any], target: str) -> dict[str, Any]:
    """Return the cells of one target under the names of a run of one target."""
    if not target:
        return dict(cells)
    prefix = f"{target}."
    return {name.removeprefix(prefix): cell for name, cell in cells.items() if name.startswith(prefix)}


def _answer(task: Task, cells: Mapping[str, Any], readable: bool) -> dict[str, Any]:
    """Return label and prediction of one target; ``error`` is how far apart they are, from 0 to 1 but for numbers."""
    truth = _truth(cells, task)
    names = [*_KEPT, *(f"{kind}_{name}" for kind in ("p", "set", "threshold") for name in task.classes)]
    row = {name: cells[name] for name in names if cells.get(name) is not None}
    if not readable or not ("value" in row or all(f"p_{name}" in row for name in task.classes)):
        return {"truth": truth, "row": None, "wrong": False, "error": 0.0 if readable else 1.0, "confidence": None}
    row.setdefault("predicted", "")
    return {
        "truth": truth,
        "row": row,
        "wrong": truth is not None and _is_wrong(truth, row, task),
        "error": 0.0 if truth is None else _error(truth, row),
        "confidence": _confidence(row, task),
    }


def _truth(cells: Mapping[str, Any], task: Task) -> Any:
    """Return the class, or the number; of findings 1, 0 or None for each; None if it is not known."""
    if task.kind == "multilabel":
        states = {name: cells.get(f"target_{name}") for name in task.classes}
        known = {name: None if value is None else int(value) for name, value in states.items()}
        return known if any(value is not None for value in known.values()) else None
    target = cells.get("target")
    if target is None:
        return None
    return float(target) if task.numeric else task.classes[int(target)]


def _is_wrong(truth: Any, row: Mapping[str, Any], task: Task) -> bool:
    """Whether the answer is another than the label; of a number, whether the label lies outside its interval."""
    if task.numeric:
        return "low" in row and not row["low"] <= truth <= row["high"]
    if task.exclusive:
        return bool(row["predicted"] != truth)
    called = row["predicted"].split("; ")
    return any(value is not None and bool(value) != (name in called) for name, value in truth.items())


def _error(truth: Any, row: Mapping[str, Any]) -> float:
    """Return how far the probabilities are from the truth, from 0 to 1, or how far a number is."""
    if isinstance(truth, float):
        return abs(float(row["value"]) - truth)
    if isinstance(truth, str):
        return 1.0 - float(row[f"p_{truth}"])
    return max(
        (abs(value - float(row[f"p_{name}"])) for name, value in truth.items() if value is not None), default=0.0
    )


def _confidence(row: Mapping[str, Any], task: Task) -> float | None:
    """Return the probability of the answer; of findings that of the least certain one; None for numbers."""
    if task.numeric:
        return None
    if task.exclusive:
        return float(row.get(f"p_{row['predicted']}", 0.0))
    return min(max(float(row[f"p_{name}"]), 1 - float(row[f"p_{name}"])) for name in task.classes)


def _rank(cases: list[dict[str, Any]], numbers: list[str]) -> None:
    """Give each case its largest error; those of numbers are divided by the largest of all, to lie from 0 to 1."""
    for name in numbers:
        answers = [case["answers"][name] for case in cases if case["answers"][name]["row"] is not None]
        largest = max((answer["error"] for answer in answers), default=0.0)
        for answer in answers:
            answer["error"] /= largest or 1.0
    for case in cases:
        case["error"] = max(answer["error"] for answer in case["answers"].values())


def loaded(model: Path, table: Path) -> dict[str, Any] | UserError:
    """Call :func:`load_cases` in a process of its own, and return its error for the other process."""
    try:
        return load_cases(model, table)
    except UserError as error:
        return UserError(str(error))


def without_files(case: Mapping[str, Any]) -> dict[str, Any]:
    """Return a case without what only the server may know."""
    return {name: value for name, value in case.items() if name not in ("files", "variables", "mpp", "frame")}
