"""Results of a measurement as they come, one JSON line each, so that a later start goes on where one has ended."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

BEGUN = "begun"
ATTEMPTS = 2  # of a case whose process ended in its middle, perhaps for another reason

Case = Mapping[str, Any]


class Journal:
    """A file of results, each with the case that it belongs to.

    A case is a mapping of plain values; a line is ``{"case": {...}, "status": "ok", ...}``. That a case has begun is
    written, too, so that one that ends its process is not begun for ever.

    Args:
        path: The file; what it holds already is read, except for a last line that was cut off.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._begun: Counter[str] = Counter()
        self._done: dict[str, int] = {}
        for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:  # the process was killed while it wrote
                continue
            self._take(row)

    def __contains__(self, case: Case) -> bool:
        return _key(case) in self._done

    def attempts(self, case: Case) -> int:
        """Return how often a case has begun without a result."""
        return self._begun[_key(case)]

    def begin(self, case: Case) -> None:
        """Write that a case begins."""
        self._write({"case": dict(case), "status": BEGUN})

    def put(self, case: Case, status: str, **values: Any) -> None:
        """Write the result of a case."""
        self._write({"case": dict(case), "status": status, **values})

    def results(self, **wanted: Any) -> Iterator[dict[str, Any]]:
        """Yield each result as one flat mapping, for cases with these values."""
        for row in self.rows:
            if row["status"] != BEGUN and all(row["case"].get(name) == value for name, value in wanted.items()):
                yield {**row["case"], **{name: value for name, value in row.items() if name != "case"}}

    def _write(self, row: dict[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            if file.tell() and not _ends_a_line(self.path):
                file.write("\n")
            file.write(json.dumps(row) + "\n")
        self._take(row)

    def _take(self, row: dict[str, Any]) -> None:
        key = _key(row["case"])
        if row["status"] == BEGUN:
            self._begun[key] += 1
            return
        if key in self._done:  # measured again: the last one counts
            self.rows[self._done[key]] = row
            return
        self._done[key] = len(self.rows)
        self.rows.append(row)


def _key(case: Case) -> str:
    return json.dumps(dict(case), sort_keys=True)


def _ends_a_line(path: Path) -> bool:
    with open(path, "rb") as file:
        file.seek(-1, 2)
        return file.read() == b"\n"
