import io
import json

import numpy as np
import pytest
import tifffile
from PIL import Image
from rich.console import Console

from softfree.data.audit.audit import audit
from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError


def printed(found):
    stream = io.StringIO()
    found.print(Console(file=stream, width=120, highlight=False))
    return stream.getvalue()


@pytest.fixture
def made(tmp_path):
    """A table with one of every fault: rows 0 to 39 are sound."""
    rng = np.random.default_rng(0)
    rows = []
    for number in range(40):
        Image.fromarray(rng.integers(0, 256, (16, 20), dtype=np.uint8)).save(tmp_path / f"{number}.png")
        split = ("train", "train", "val", "test")[number // 2 % 4]
        rows.append((f"{number}.png", ("no", "yes")[number % 2], f"Name{number // 2}", split))
    (tmp_path / "copy.png").write_bytes((tmp_path / "0.png").read_bytes())
    Image.open(tmp_path / "3.png").save(tmp_path / "other.bmp")
    Image.new("L", (20, 16), 5).save(tmp_path / "blank.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "1.png").read_bytes()[:90])
    rows += [
        ("copy.png", "no", "Someone", "test"),
        ("other.bmp", "no", "Other", "train"),
        ("blank.png", "no", "Name0", "train"),
        ("cut.png", "yes", "Else", "train"),
        ("gone.png", "yes", "Name1", "test"),
        ("", "", "", ""),
        ("apart.png", "no", "X", "extra"),
    ]
    path = tmp_path / "table.csv"
    path.write_text("path,label,patient_id,split\n" + "\n".join(",".join(row) for row in rows) + "\n")
    return path


@pytest.mark.parametrize("num_workers", [0, 2])
def test_every_fault_is_found(made, num_workers):
    report = audit(read_table(made, strict_patients=False), num_workers=num_workers, progress=False)
    assert (report.images, report.readable, report.patients) == (45, 43, 23)
    by_kind = {problem.kind: problem for problem in report.problems}
    assert by_kind["unreadable"].rows == (43, 44)
    assert by_kind["duplicate_across_splits"].rows == (0, 40)
    assert by_kind["duplicate_other_label"].rows == (3, 41)
    assert by_kind["patient_across_splits"].rows == (2, 3, 44)
    assert by_kind["blank"].rows == (42,)
    assert set(by_kind) == {
        "unreadable",
        "duplicate_across_splits",
        "duplicate_other_label",
        "patient_across_splits",
        "blank",
    }
    assert (report.errors, report.warnings) == (4, 1)
    assert report.left_out == {"split is extra": 1}
    assert report.counts["test"] == {"no": 6, "yes": 6}
    assert report.sizes["width"] == (20, 20, 20)
    assert report.kinds == {"8-bit gray": {"no": 23, "yes": 20}}


def test_nothing_names_a_patient(made):
    report = audit(read_table(made, strict_patients=False), progress=False)
    text = printed(report) + json.dumps(report.to_dict(), allow_nan=False)
    assert "Name" not in text
    assert "Someone" not in text
    assert "gone.png" in text


def test_errors_are_printed_first_and_counted(made):
    text = printed(audit(read_table(made, strict_patients=False), progress=False))
    assert text.index("error: ") < text.index("warning: ")
    assert text.rstrip().endswith("4 errors, 1 warning")
    assert "1 row left out: split is extra" in text


def test_json_holds_everything(made):
    report = audit(read_table(made, strict_patients=False), progress=False)
    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert (content["errors"], content["warnings"]) == (4, 1)
    assert content["task"] == {"kind": "binary", "classes": ["no", "yes"]}
    assert {problem["kind"] for problem in content["problems"]} == {problem.kind for problem in report.problems}


def test_a_sound_table_has_no_problems(small_table):
    report = audit(read_table(small_table), progress=False)
    assert report.problems == ()
    assert printed(report).rstrip().endswith("0 errors, 0 warnings")


def test_a_table_of_nothing_but_broken_files(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("path,label,split\na.png,x,train\nb.png,y,train\n")
    with pytest.raises(UserError, match=r"none of the 2 images can be read; the first: .*a.png: no such file"):
        audit(read_table(path), progress=False)


def test_markup_in_names_is_not_obeyed(tmp_path):
    path = tmp_path / "t.csv"
    Image.new("L", (8, 8)).save(tmp_path / "ok.png")
    path.write_text("path,label,split\n[red]a[/red].png,x,train\nok.png,[bold]y,train\n")
    text = printed(audit(read_table(path), progress=False))
    assert "[red]a[/red].png: no such file" in text
    assert "[bold]y" in text


def test_the_real_radiographs_hide_a_confound(shared_data):
    report = audit(read_table(shared_data / "chest_xray" / "manifest.csv"), num_workers=2, progress=False)
    assert (report.errors, report.readable) == (0, 240)
    flagged = {confound.feature: confound for confound in report.confounds if confound.flagged}
    assert {"width", "height", "pixel count"} <= set(flagged)
    assert all(flagged[name].direction == "smaller" for name in ("width", "height", "pixel count"))
    assert "PNEUMONIA can be recognized without looking at the images" in printed(report)
    assert "all 14 images stored as 8-bit RGB (gray) are PNEUMONIA" in printed(report)


def test_real_cells_have_no_patients(shared_data):
    table = read_table(shared_data / "blood_cells" / "manifest.csv").where("test")
    report = audit(table, num_workers=2, progress=False)
    assert report.patients is None
    assert "no_patients" in {problem.kind for problem in report.problems}


def test_what_readers_corrected_is_grouped_counted_and_an_error_where_strict(tmp_path):
    rows = ["path,label"]
    for number in range(8):
        name = f"{number}.tif"
        shape = np.random.default_rng(number).integers(0, 255, (16, 20), dtype=np.uint8)
        resolution = (100, 200) if number < 3 else (100, 100)  # pixels of unequal sides
        tifffile.imwrite(tmp_path / name, shape, photometric="minisblack", resolution=resolution, resolutionunit=3)
        rows.append(f"{name},{'ab'[number % 2]}")
    (tmp_path / "table.csv").write_text("\n".join(rows) + "\n")
    table = read_table(tmp_path / "table.csv")
    for strict in (False, True):
        report = audit(table, progress=False, strict=strict)
        (corrected,) = (problem for problem in report.problems if problem.kind == "corrected")
        assert corrected.severity == ("error" if strict else "warning")
        assert corrected.message.startswith("3 samples: ")
        assert corrected.rows == (0, 1, 2)
        assert corrected.details == ("0.tif", "1.tif", "2.tif")
        assert corrected.message in printed(report)
