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
from sklearn.metrics import roc_auc_score
from tests.serving.inline import Serving, serving

from softfree.data.table import read_table
from softfree.inference.run import Run
from softfree.serving.cases import decided, export_table, harmless, load_cases
from softfree.serving.options import ServeOptions
from softfree.serving.reading_report import report
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
                assert case["truth"] == run.task.classes[int(own["target"])]
                assert case["p"]["high"] == pytest.approx(own["p_high"])
                assert case["wrong"] == (own["predicted"] != case["truth"])
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
            assert [one["relabel"] for one in numbers["readers"]] == [1, 0]

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
            for name in ("truth", "predicted", '"p"', "error", "confidence", "distance", "abstain"):
                assert name not in told
            assert (await server.client.get("/v1/cases?show=errors&reader=Ann")).status_code == 403
            assert (await server.client.get(f"/v1/cases/{row}/map?reader=Ann")).status_code == 403
            assert (await server.client.post(f"/v1/cases/{row}/map?reader=Ann")).status_code == 403
            agree = await server.client.post(f"/v1/cases/{row}/readings", json={"decision": "agree"})
            assert agree.status_code == 400
            uncovered = await read(server, row, decision="label", label="high", confidence=0.4, seconds=20)
            assert uncovered["predicted"] in run.task.classes
            assert not uncovered["done"]
            assert "truth" not in uncovered
            hidden = (await server.client.get(f"/v1/cases/{row}?reader=Ben")).json()
            assert "predicted" not in hidden
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
    body = export_table([table], labels=["x", "y"], readings=[reading]).body.decode()
    rows = list(csv.DictReader(io.StringIO(body)))
    assert [(row["x"], row["y"]) for row in rows] == [("1", ""), ("1", ""), ("1", "")]
    assert [row["reading"] for row in rows] == ["relabel", "relabel", ""]


def study(seed: int = 0, count: int = 60) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Two readers of whom the second has not read everything; patients have two cases each."""
    rng = np.random.default_rng(seed)
    cases = [
        {"row": row, "patient": row // 2, "truth": ("no", "yes")[int(rng.random() < 0.5)], "status": "ok"}
        for row in range(count)
    ]
    for case in cases:
        p = float(np.clip((case["truth"] == "yes") * 0.4 + rng.random() * 0.6, 0, 1))
        case["p"] = {"no": 1 - p, "yes": p}
    readings = []
    for reader, part in (("Ann", cases), ("Ben", cases[:50])):
        for case in part:
            for phase, right in (("alone", 0.7), ("with_model", 0.9)):
                label = case["truth"] if rng.random() < right else {"no": "yes", "yes": "no"}[case["truth"]]
                readings.append({"row": case["row"], "reader": reader, "phase": phase, "decision": "label",
                                 "label": label, "confidence": float(rng.random()), "note": "",
                                 "seconds": float(rng.exponential(20)), "at": 0.0})  # fmt: skip
    about = {"task": "binary", "classes": ["no", "yes"], "blinded": True, "notice": None, "model": "m", "cases": cases}
    return readings, about


def test_a_reader_study_has_the_aurocs_of_its_readers() -> None:
    readings, about = study()
    found = json.loads(report([], readings=readings, room=about, form="json").body)
    truth = {case["row"]: case["truth"] == "yes" for case in about["cases"]}
    for reader in found["readers"]:
        own = [one for one in readings if one["reader"] == reader["reader"]]
        for phase in ("alone", "with_model"):
            of_phase = [one for one in own if one["phase"] == phase]
            score = [0.5 + (one["confidence"] / 2) * (1 if one["label"] == "yes" else -1) for one in of_phase]
            expected = roc_auc_score([truth[one["row"]] for one in of_phase], score)
            number = reader[phase]
            assert number["value"] == pytest.approx(expected)
            assert number["low"] < number["value"] < number["high"]
        assert reader["difference"]["value"] == pytest.approx(reader["with_model"]["value"] - reader["alone"]["value"])
        labels = [[one["label"] for one in own if one["phase"] == phase] for phase in ("alone", "with_model")]
        changed = [before != after for before, after in zip(*labels, strict=True)]
        assert reader["changed"]["value"] == pytest.approx(np.mean(changed))
        assert reader["to_right"] + reader["to_wrong"] == sum(changed)
        times = [one["seconds"] for one in own if one["phase"] == "alone"]
        assert reader["seconds_alone"]["value"] == pytest.approx(np.mean(times))
    mean = np.mean([reader["alone"]["value"] for reader in found["readers"]])
    assert found["mean"]["alone"]["value"] == pytest.approx(mean)
    model = roc_auc_score(
        [truth[case["row"]] for case in about["cases"]], [case["p"]["yes"] for case in about["cases"]]
    )
    assert found["model"]["value"] == pytest.approx(model)
    assert (found["cases"], found["patients"]) == (60, 30)
    page = report([], readings=readings, room=about, form="html").body.decode()
    assert "Ann" in page
    assert f"{found['readers'][0]['alone']['value']:.3f}" in page


def test_a_study_of_one_class_or_of_nothing_has_no_auroc_and_says_so() -> None:
    readings, about = study()
    row = about["cases"][12]["row"]
    alone = [one for one in readings if one["row"] == row and one["reader"] == "Ann"]
    found = json.loads(report([], readings=alone, room=about, form="json").body)
    assert found["readers"][0]["alone"]["value"] is None
    assert "one of the classes" in found["readers"][0]["alone"]["reason"]
    assert found["mean"] is None
    nothing = json.loads(report([], readings=alone[:1], room=about, form="json").body)
    assert nothing["readers"] == []
    assert b"No case" in report([], readings=[], room=about, form="html").body


def test_tables_and_options_that_do_not_fit_are_refused(run: Run, table: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("\n".join(table.read_text().splitlines()[:-1]))
    with pytest.raises(UserError, match="is not the table that"):
        load_cases(run.folder, other)
    with pytest.raises(UserError, match="--blinded needs --cases"):
        Opening(ServeOptions(blinded=True), {})
    with pytest.raises(UserError, match="serve the run or study"):
        Opening(ServeOptions(cases=table), {"file": tmp_path / "model.onnx"})
    assert Opening(ServeOptions(), {}).room({}) is None
