import json
import shlex
from pathlib import Path

import pytest

from softfree.cli.commands import COMMANDS
from softfree.cli.parser import Parser
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.registry import SETS, prepare_set
from softfree_runtime.core.errors import UserError


@pytest.fixture
def root(tmp_path, image, table):
    rows = [(f"id{number:03}", number % 2) for number in range(20)]
    table(tmp_path / "set" / "train.csv", "id_code,diagnosis", rows)
    for name, _ in rows:
        image(tmp_path / "set" / "train_images" / f"{name}.png")
    return tmp_path / "set"


def run(*arguments):
    verb = COMMANDS["Start"]["prepare"]
    parser = Parser(prog="softfree prepare", print_config=None)
    verb.arguments(parser)
    return verb.run(parser.parse_args(list(map(str, arguments))))


def test_missing_images_are_counted_and_named(root, prepared):
    before = prepared("aptos2019", root)[1].frame.set_index("path")["split"]
    for number in (1, 2, 5, 9):
        (root / "train_images" / f"id{number:03}.png").unlink()
    done, read = prepared("aptos2019", root)
    assert len(read.frame) == 16
    assert done.warning() == (
        "4 of 20 rows left out: train_images/id001.png (no such file), train_images/id002.png (no such file),"
        " train_images/id005.png (no such file) and 1 more"
    )
    after = read.frame.set_index("path")["split"]
    assert after.equals(before[after.index])  # a longer download does not move images between splits


def test_more_than_half_missing(root, prepared):
    for number in range(11):
        (root / "train_images" / f"id{number:03}.png").unlink()
    with pytest.raises(UserError, match=r"11 of 20 rows would be left out: train_images/id000.png"):
        prepared("aptos2019", root)
    assert not (root / "softfree.csv").exists()


def test_a_class_of_one_patient_belongs_to_no_task(root, prepared):
    path = root / "train.csv"
    path.write_text(path.read_text().replace("id000,0", "id000,4"))
    done, read = prepared("aptos2019", root)
    assert done.rows["extra"] == 1
    assert "class '4' has 1 patient, too few for 3 splits" in done.notes[1]
    assert read.task.classes == ("0", "1")


def test_options_that_do_not_apply(root):
    with pytest.raises(UserError, match="--label does not apply to aptos2019"):
        prepare_set("aptos2019", root, PrepareOptions(label="x"))
    with pytest.raises(UserError, match="--uncertain does not apply to aptos2019"):
        prepare_set("aptos2019", root, PrepareOptions(uncertain="positive"))


def test_cases_that_a_set_does_not_have(root):
    with pytest.raises(UserError, match="--case breast does not apply to aptos2019; remove it"):
        prepare_set("aptos2019", root, PrepareOptions(case="breast"))
    with pytest.raises(UserError, match="--case exam does not apply to chexpert; choose one of study, image"):
        prepare_set("chexpert", root, PrepareOptions(case="exam"))


def test_unknown_set_and_folder(tmp_path):
    with pytest.raises(UserError, match="Unknown data set 'chexprt': did you mean chexpert"):
        prepare_set("chexprt", tmp_path)
    with pytest.raises(UserError, match="no such folder; obtain aptos2019 from https"):
        prepare_set("aptos2019", tmp_path / "nowhere")


def test_command_line(root, tmp_path, capsys):
    (root / "train_images" / "id003.png").unlink()
    out = tmp_path / "elsewhere" / "table.csv"
    assert not run("aptos2019", root, "--out", out)
    shown = capsys.readouterr()
    assert f"softfree train {out} --image-root {root} --task ordinal --preset photo" in shown.out
    assert "softfree: warning: 1 of 20 rows left out: train_images/id003.png (no such file)" in shown.err
    assert out.is_file()


def test_command_line_as_json(root, capsys):
    run("aptos2019", root, "--json")
    shown = json.loads(capsys.readouterr().out)
    assert sum(shown["rows"].values()) == 20
    assert shown["table"] == str(root / "softfree.csv")


@pytest.mark.parametrize("name", SETS)
def test_the_options_to_train_with_exist_and_are_documented(name):
    parser = Parser(prog="softfree train", print_config=None)
    COMMANDS["Train"]["train"].arguments(parser)
    arguments = ["table.csv", *shlex.split(SETS[name].train)]
    assert parser.parse_args(arguments).table == "table.csv"
    page = (Path(__file__).parents[3] / "docs" / "reference" / "datasets.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f"| `{name}`"))
    assert SETS[name].source in row
    assert row.endswith(f"| `{SETS[name].train}` |")


def test_the_command_for_findings_is_read_as_it_is_printed(tmp_path, image, table):
    findings = ["Nodule/Mass", "Pleural effusion", "No finding"]
    columns = f"image_id,rad_id,{','.join(findings)}"
    rows = [(f"i{n}", "R1", n % 2, n // 2 % 2, n // 4 % 2) for n in range(16)]
    root = tmp_path / "a set"
    table(root / "annotations" / "image_labels_train.csv", columns, rows)
    table(root / "annotations" / "image_labels_test.csv", columns, [("t", "R1", 1, 1, 0)])
    for path in [*(f"train/{row[0]}" for row in rows), "test/t"]:
        image(root / f"{path}.dicom")
    done = prepare_set("vindr-cxr", root, PrepareOptions(progress=False))
    words = shlex.split(done.command)
    parser = Parser(prog="softfree train", print_config=None)
    COMMANDS["Train"]["train"].arguments(parser)
    parsed = parser.parse_args(words[2:])
    assert parsed.labels == findings
    assert Path(parsed.table) == done.table


def test_list(capsys):
    run("--list")
    shown = capsys.readouterr().out
    assert all(f"{name}: " in shown and one.source in shown and one.terms in shown for name, one in SETS.items())


def test_name_and_root_are_needed(root):
    with pytest.raises(UserError, match="needs NAME and ROOT"):
        run("aptos2019")
