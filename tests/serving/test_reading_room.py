"""The reading room: cases without names, decisions that are kept, exports that train takes, and a reader study."""

import asyncio
import csv
import io
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.serving.inline import Serving, serving

from softfree.data.table import read_table
from softfree.inference.run import Run
from softfree.serving.cases import load_cases
from softfree.serving.errors import Invalid
from softfree.serving.options import ServeOptions
from softfree.serving.reading_report import report
from softfree.serving.relabeling import decided, export_table, harmless, in_words
from softfree.serving.room import Opening, Room
from softfree_runtime.core.errors import UserError


def run_steps(steps: Coroutine[Any, Any, None]) -> None:
    asyncio.run(steps)


@pytest.fixture(scope="module")
def table(run: Run) -> Path:
    (found,) = (run.folder.parent / "data").glob("*.csv")
    return found


@pytest.fixture(scope="module")
def content(run: Run, table: Path) -> dict[str, Any]:
    return load_cases(run.folder, table)


def room(content: dict[str, Any], table: Path, *, blinded: bool = False) -> Room:
    return Room("small", table, blinded, content, "key")


async def read(server: Serving, row: int, reader: str = "Ann", **given: Any) -> Any:
    response = await server.client.post(f"/v1/cases/{row}/readings", params={"reader": reader}, json=given)
    assert response.status_code == 201, response.text
    return response.json()


def test_all_test_cases_are_listed_with_errors_first(
    run: Run, table: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    frame = run.directory.read_predictions()
    expected = frame[frame["split"] == "test"]

    async def steps() -> None:
        async with serving(run.folder, tmp_path) as server:
            assert (await server.client.get("/v1/cases")).status_code == 404
            server.service.room = room(content, table)
            found = (await server.client.get("/v1/cases", params={"limit": 200})).json()
            assert found["total"] == len(expected) == len(found["cases"])
            assert {case["row"] for case in found["cases"]} == set(expected["row"])
            wrong = [case["wrong"] for case in found["cases"]]
            assert wrong == sorted(wrong, reverse=True)
            for case in found["cases"]:
                own = expected[expected["row"] == case["row"]].iloc[0]
                answer = case["answers"][""]
                assert answer["truth"] == run.task.classes[int(own["target"])]
                assert answer["row"]["p_high"] == pytest.approx(own["p_high"])
                assert case["wrong"] == (own["predicted"] != answer["truth"])
            assert str(table.parent) not in json.dumps(found)  # no path leaves the server
            by_confidence = (await server.client.get("/v1/cases?sort=confidence")).json()["cases"]
            sure = [case["confidence"] for case in by_confidence]
            assert sure == sorted(sure)
            errors = (await server.client.get("/v1/cases?show=errors")).json()
            assert errors["found"] == sum(wrong)
            thumbnail = await server.client.get(f"/v1/cases/{found['cases'][0]['row']}/thumbnail.jpg")
            assert thumbnail.content.startswith(b"\xff\xd8")
            assert (await server.client.get("/v1/cases/9999")).status_code == 404
            assert (await server.client.get("/v1/cases?column=age")).status_code == 400

    run_steps(steps())


def test_decisions_are_kept_and_train_takes_the_export(
    run: Run, table: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    first, second = (case["row"] for case in content["cases"][:2])
    before = read_table(table, label="label").frame.set_index("row")["label"]
    other = next(name for name in run.task.classes if name != before[first])

    async def steps() -> None:
        async with serving(run.folder, tmp_path) as server:
            server.service.room = room(content, table)
            await read(server, first, decision="agree")
            case = await read(server, first, decision="relabel", label=other, note="=a formula", seconds=12.5)
            assert case["readings"]["review"]["label"] == other
            assert case["done"]
            await read(server, second, reader="Ben", decision="agree")
            refused = await server.client.post(
                f"/v1/cases/{first}/readings", json={"decision": "relabel", "label": "no such class"}
            )
            assert (refused.status_code, refused.json()["status"]) == (400, "invalid")
            log = list(csv.DictReader(io.StringIO((await server.client.get("/v1/readings.csv?form=log")).text)))
            assert [one["decision"] for one in log] == ["agree", "relabel", "agree"]
            assert (log[1]["note"], log[1]["seconds"], log[2]["reader"]) == ("'=a formula", "12.5", "Ben")
            exported = await server.client.get("/v1/readings.csv")
            assert "attachment" in exported.headers["content-disposition"]
            new = table.with_name("readings_table.csv")
            new.write_bytes(exported.content)
            read_again = read_table(new, label="label", classes=run.task.classes)
            after = read_again.frame.set_index("row")["label"]
            assert after[first] == other
            assert after.drop(first).tolist() == before.drop(first).tolist()
            assert read_again.frame.set_index("row")["reading"][second] == "agree"
            unread = (await server.client.get("/v1/cases?show=unread&reader=Ann&limit=200")).json()
            assert first not in {case["row"] for case in unread["cases"]}
            assert unread["done"] == 1
            numbers = (await server.client.get("/v1/readings/report")).json()
            assert [one["relabel"] for one in numbers["targets"][0]["readers"]] == [1, 0]

    run_steps(steps())


def test_blinded_the_model_is_hidden_until_the_reader_has_decided(
    run: Run, table: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    row = content["cases"][0]["row"]

    async def steps() -> None:
        async with serving(run.folder, tmp_path, blinded=True) as server:
            server.service.room = room(content, table, blinded=True)
            listed = (await server.client.get("/v1/cases?reader=Ann&limit=200")).json()["cases"]
            other = (await server.client.get("/v1/cases?reader=Ben&limit=200")).json()["cases"]
            assert [case["row"] for case in listed] != [case["row"] for case in other]  # each has an order
            told = json.dumps(listed) + (await server.client.get(f"/v1/cases/{row}?reader=Ann")).text
            for name in ("truth", "predicted", "answers", "error", "confidence", "distance", "abstain"):
                assert name not in told
            assert (await server.client.get("/v1/cases?show=errors&reader=Ann")).status_code == 403
            assert (await server.client.get(f"/v1/cases/{row}/map?reader=Ann")).status_code == 403
            assert (await server.client.post(f"/v1/cases/{row}/map?reader=Ann")).status_code == 403
            agree = await server.client.post(f"/v1/cases/{row}/readings", json={"decision": "agree"})
            assert agree.status_code == 400
            uncovered = await read(server, row, decision="label", label="high", confidence=0.4, seconds=20)
            assert uncovered["answers"][""]["row"]["predicted"] in run.task.classes
            assert not uncovered["done"]
            assert "truth" not in json.dumps(uncovered)
            hidden = (await server.client.get(f"/v1/cases/{row}?reader=Ben")).json()
            assert "answers" not in hidden
            both = await read(server, row, decision="label", label="low", confidence=0.9, seconds=5)
            assert both["done"]
            assert both["readings"]["alone"]["label"] == "high"
            assert both["readings"]["with_model"]["label"] == "low"
            again = await read(server, row, decision="label", label="high", confidence=0.9)
            assert again["readings"]["alone"]["confidence"] == 0.4  # what was decided alone cannot be changed
            made = await server.client.post(f"/v1/cases/{row}/map?reader=Ann")
            assert made.status_code == 202
            await server.service.wait(server.service.room.jobs[row], 30)
            assert (await server.client.get(f"/v1/cases/{row}/map?reader=Ann")).json()["state"] == "done"
            assert (await server.client.get(f"/v1/cases/{row}/map.png?reader=Ann")).status_code == 200
            assert (await server.client.get(f"/v1/cases/{row}/map.png?reader=Ben")).status_code == 404
            assert Path(content["cases"][0]["files"][0]).is_file()  # the server had a link to it

    run_steps(steps())


def test_blinded_no_column_gives_the_label_away(content: dict[str, Any], table: Path) -> None:
    cases = [case | {"columns": {"subtype": "x", "sex": "f"}} for case in content["cases"]]
    given = content | {"columns": {"subtype": ["x", "y"], "sex": ["f", "m"]}, "variables": ["sex"], "cases": cases}
    for blinded, shown in ((False, {"subtype": "x", "sex": "f"}), (True, {"sex": "f"})):
        here = room(given, table, blinded=blinded)
        assert here.told(cases[0], [])["columns"] == shown
        assert set(here.about()["columns"]) == set(shown)


def test_nobody_reads_in_the_name_of_another_with_a_token(
    run: Run, table: Path, content: dict[str, Any], tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("ann 0123456789abcdef0123\n")
    tokens.chmod(0o600)
    row = content["cases"][0]["row"]

    async def steps() -> None:
        headers = {"Authorization": "Bearer 0123456789abcdef0123"}
        async with serving(run.folder, tmp_path, headers=headers, token_file=tokens) as server:
            server.service.room = room(content, table)
            case = await read(server, row, reader="Ben", decision="agree")
            assert case["readings"]["review"]["reader"] == "ann"

    run_steps(steps())


def test_readers_vote_on_labels() -> None:
    def vote(*given: tuple[str, Any]) -> tuple[str, Any]:
        return decided([{"decision": decision, "label": label} for decision, label in given])

    assert vote(("agree", None)) == ("agree", None)
    assert vote(("disagree", None)) == ("disagree", None)
    assert vote(("relabel", "a"), ("relabel", "a"), ("agree", None)) == ("relabel", "a")
    assert vote(("relabel", "a"), ("agree", None)) == ("readers disagree", None)
    assert vote(("relabel", {"x": 1, "y": None}), ("relabel", {"y": None, "x": 1})) == ("relabel", {"x": 1, "y": None})
    assert harmless("-1") == "'-1"
    assert harmless("none") == "none"


def test_findings_and_all_images_of_a_case_are_relabeled(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("path,case_id,x,y\na.png,1,0,1\nb.png,1,0,1\nc.png,2,1,\n")
    reading = {"row": 0, "reader": "Ann", "decision": "relabel", "label": {"x": 1, "y": None}, "note": "", "at": "2026"}
    body = export_table([table], targets=[{"name": "", "labels": ["x", "y"]}], readings=[reading]).body.decode()
    rows = list(csv.DictReader(io.StringIO(body)))
    assert [(row["x"], row["y"]) for row in rows] == [("1", ""), ("1", ""), ("1", "")]
    assert [row["reading"] for row in rows] == ["relabel", "relabel", ""]


SEVERAL: list[dict[str, Any]] = [
    {"name": "finding", "task": "binary", "classes": ["no", "yes"], "labels": ["finding"]},
    {"name": "age", "task": "regression", "classes": ["years"], "labels": ["years"]},
]


def several(count: int = 40) -> dict[str, Any]:
    """A room with two targets, of which the second is not known for every fourth case."""
    rng = np.random.default_rng(0)
    cases = []
    for row in range(count):
        truth, age = ("no", "yes")[row % 2], float(rng.integers(20, 80))
        p = float(np.clip((truth == "yes") * 0.4 + rng.random() * 0.6, 0, 1))
        finding = {"truth": truth, "row": {"p_no": 1 - p, "p_yes": p, "predicted": "yes" if p > 0.5 else "no"}}
        years = {"truth": None if row % 4 == 3 else age, "row": {"value": age + 5}}
        cases.append({"row": row, "patient": row, "status": "ok", "answers": {"finding": finding, "age": years}})
    return {"targets": SEVERAL, "blinded": True, "notice": None, "model": "m", "cases": cases, "columns": {},
            "variables": []}  # fmt: skip


def twice(about: dict[str, Any], reader: str, better: float) -> list[dict[str, Any]]:
    """Readings of all cases: the finding right and the age off by 10 years alone, and by less with the model."""
    readings = []
    for case in about["cases"]:
        age = case["answers"]["age"]["truth"] or 50.0
        for phase, off in (("alone", 10), ("with_model", better)):
            label = {"finding": case["answers"]["finding"]["truth"], "age": age + off}
            readings.append({"row": case["row"], "reader": reader, "phase": phase, "decision": "label", "label": label,
                             "confidence": 0.8, "note": "", "seconds": 10.0, "at": 0.0})  # fmt: skip
    return readings


def test_a_study_of_several_targets_has_numbers_for_each() -> None:
    about = several()
    readings = [*twice(about, "Ann", 4), *twice(about, "Ben", 6)]
    found = json.loads(report([], readings=readings, room=about, form="json").body)
    finding, age = found["targets"]
    assert (finding["target"], finding["metric"], finding["cases"]) == ("finding", "auroc", 40)
    assert [reader["alone"]["value"] for reader in finding["readers"]] == [1, 1]
    assert (age["target"], age["metric"], age["cases"]) == ("age", "mae", 30)  # of the others it is not known
    assert [reader["with_model"]["value"] for reader in age["readers"]] == pytest.approx([4, 6])
    assert age["mean"]["difference"]["value"] == pytest.approx(-5)
    assert age["model"]["value"] == pytest.approx(5)
    page = report([], readings=readings, room=about, form="html").body.decode()
    assert "Reader study: age" in page
    assert "Mean of 2" in page
    assert b"No case" in report([], readings=[], room=about, form="html").body


def test_labels_of_several_targets_are_checked_and_exported_one_by_one(tmp_path: Path) -> None:
    about = several()
    here = Room("m", tmp_path / "t.csv", False, about, "key")
    assert here.checked({"age": 40}, needed=True) == {"age": 40.0}
    for wrong, words in (
        ({"age": "old"}, "expected a number"),
        ({"age": True}, "expected a number"),
        ({"age": float("nan")}, "expected a number"),
        ({"finding": "perhaps"}, "one of no, yes"),
        ({"other": 1}, "for finding, age"),
        ("yes", "for finding, age"),
    ):
        with pytest.raises(Invalid, match=words):
            here.checked(wrong, needed=True)
    with pytest.raises(Invalid, match="for each of finding, age"):
        Room("m", tmp_path / "t.csv", True, about, "key").checked({"age": 40.0}, needed=True)

    table = tmp_path / "t.csv"
    table.write_text("path,finding,years\na.png,no,30\nb.png,yes,40\n")
    common: dict[str, Any] = {"row": 0, "note": "", "at": "2026"}
    readings = [
        common | {"reader": "Ann", "decision": "relabel", "label": {"age": 31.5}},
        common | {"reader": "Ben", "decision": "relabel", "label": {"age": 31.5, "finding": "yes"}},
        common | {"reader": "Cid", "decision": "agree", "label": None},
    ]
    body = export_table([table], targets=SEVERAL, readings=readings).body.decode()
    first, second = csv.DictReader(io.StringIO(body))
    assert (first["finding"], first["years"], first["reading"]) == ("no", "31.5", "relabel")
    assert first["reading_label"] == "age=31.5; age=31.5, finding=yes"
    assert (second["finding"], second["years"], second["reading"]) == ("yes", "40", "")
    assert [in_words(label) for label in (30.0, -1.25, "a", {"x": {"y": None}})] == ["30", "-1.25", "a", "x=y=?"]


def test_tables_and_options_that_do_not_fit_are_refused(run: Run, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match="is not the table that"):
        load_cases(run.folder, other)
    with pytest.raises(UserError, match="--blinded needs --cases"):
        Opening(ServeOptions(blinded=True), {})
    with pytest.raises(UserError, match="cases of one run or study; there is none"):
        Opening(ServeOptions(cases=table), {"file": tmp_path / "model.onnx"})
    assert Opening(ServeOptions(), {}).room({}) is None
