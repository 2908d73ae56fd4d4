"""Results survive the end of a process at any moment, and a later start goes on after them."""

from pathlib import Path

from softfree_lab.bench.journal import Journal


def test_a_later_start_knows_what_is_done_and_what_has_begun(tmp_path: Path) -> None:
    first = Journal(tmp_path / "results.jsonl")
    first.put({"method": "a", "size": 1}, "ok", ms=2.5)
    first.begin({"method": "b", "size": 1})
    second = Journal(tmp_path / "results.jsonl")
    assert {"size": 1, "method": "a"} in second
    assert {"method": "b", "size": 1} not in second
    assert second.attempts({"method": "b", "size": 1}) == 1
    assert list(second.results(size=1)) == [{"method": "a", "size": 1, "status": "ok", "ms": 2.5}]
    assert not list(second.results(size=2))


def test_a_line_that_was_cut_off_costs_only_itself(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    Journal(path).put({"method": "a"}, "ok")
    with open(path, "a") as file:
        file.write('{"case": {"method": "b"}, "stat')
    Journal(path).put({"method": "c"}, "ok")
    assert [row["method"] for row in Journal(path).results()] == ["a", "c"]


def test_the_last_result_of_a_case_counts(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "results.jsonl")
    for status in ("time over", "ok"):
        journal.put({"section": "a"}, status)
    assert [row["status"] for row in Journal(journal.path).results()] == ["ok"]
    assert [row["status"] for row in journal.results()] == ["ok"]
