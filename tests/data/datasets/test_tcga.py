import shlex

import pandas as pd
import pytest

from softfree.cli.commands import COMMANDS
from softfree.cli.parser import Parser
from softfree.data.datasets.options import PrepareOptions
from softfree.data.datasets.registry import prepare_set
from softfree.data.table import read_table
from softfree_runtime.core.errors import UserError

PATIENTS = [f"TCGA-{'AB' if number % 2 else 'CD'}-{number:04}" for number in range(12)]
COLUMNS = "case_submitter_id,gender,age_at_index,primary_diagnosis,ajcc_pathologic_stage"
TIMES = "vital_status,days_to_death,days_to_last_follow_up"


@pytest.fixture
def rows():
    kinds = ["ductal", "lobular"]
    # As in the portal's table, a patient has a row for each treatment.
    return [(name, "female", "60", kinds[n // 2 % 2], "'--") for n, name in enumerate(PATIENTS) for _ in range(2)]


@pytest.fixture
def root(tmp_path, rows, image, table):
    table(tmp_path / "clinical.tsv", COLUMNS, rows)
    for number, name in enumerate(PATIENTS):
        for slide in (1, 2):
            image(tmp_path / f"uuid{number}{slide}" / f"{name}-01Z-00-DX{slide}.0A1B2C3D.svs")
    return tmp_path


def test_slides_of_a_patient_stay_together(root, prepared):
    done, read = prepared("tcga", root, label="primary_diagnosis")
    assert read.task.classes == ("ductal", "lobular")
    assert (len(read.frame), done.patients) == (24, 12)
    assert (read.frame.groupby("patient_id")["split"].nunique() == 1).all()
    one = read.frame[read.frame["patient_id"] == "TCGA-AB-0003"].iloc[0]
    assert (one["label"], one["site"], one["sex"], str(one["age"])) == ("lobular", "AB", "female", "60")
    assert (one["slide_type"], int(one["sample_type"])) == ("DX", 1)
    assert done.cases is None
    assert "time_to_event" not in read.frame  # the table has no vital status


def test_slides_of_a_patient_as_a_case(root, prepared):
    done, read = prepared("tcga", root, label="primary_diagnosis", case="patient")
    assert done.cases == 12
    assert (read.frame["case_id"] == read.frame["patient_id"]).all()
    encode, train = done.command.split(" && ")
    assert encode == f"softfree features {root}/softfree.csv --encoder pixels --out {root}/features"
    assert train == f"softfree train {root}/features/table.csv --model seqnorm_bag_tiny"


@pytest.fixture
def times(rows):
    """Vital status and days, by patient: two rows each, as in the table of the portal."""
    known = {
        0: [("Dead", "100", "'--"), ("Dead", "'--", "90")],
        1: [("Alive", "'--", "50"), ("Alive", "'--", "700")],
        2: [("Dead", "'--", "80")] * 2,  # a death without a day is not a censored observation
        3: [("Not Reported", "'--", "80")] * 2,
        4: [("Alive", "'--", "-3")] * 2,
        5: [("Alive", "'--", "80"), ("Dead", "95", "80")],
        6: [("Alive", "'--", "0")] * 2,
        7: [("Dead", "100", "'--"), ("Dead", "120", "'--")],
    }
    per_patient = [pair for number in range(12) for pair in known.get(number, [("Alive", "'--", "365")] * 2)]
    return [(*row, *added) for row, added in zip(rows, per_patient, strict=True)]


@pytest.mark.parametrize(
    "names",
    [TIMES, "demographic.vital_status,demographic.days_to_death,diagnoses.days_to_last_follow_up"],
)
def test_survival(root, times, table, prepared, names):
    table(root / "clinical.tsv", f"{COLUMNS},{names}", times)
    done, read = prepared("tcga", root, label="primary_diagnosis")
    found = read.frame.drop_duplicates("patient_id").set_index("patient_id").loc[PATIENTS[:9]]
    pairs = list(zip(found["time_to_event"].fillna(-1), found["event"].fillna(-1), strict=True))
    none = (-1, -1)
    assert pairs == [(100, 1), (700, 0), none, none, none, none, (0, 0), none, (365, 0)]
    assert "5 of 12 patients have no usable time: time_to_event and event are empty" in done.notes


def test_vital_status_as_label_stratifies_by_event(root, times, table, prepared):
    table(root / "clinical.tsv", f"{COLUMNS},{TIMES}", [row for row in times if row[5] != "Not Reported"])
    done, read = prepared("tcga", root, label="vital_status")
    assert read.task.classes == ("Alive", "Dead")
    assert set(read.frame["event"].dropna()) == {0, 1}
    reasons = {reason for _, reason in done.left_out}
    assert reasons == {"patient not in the clinical table", "several values of 'vital_status'"}


def test_the_command_for_survival_reads_what_was_prepared(root, times, table):
    # Two more patients, of two rows each, have died, so that each split gets one.
    died = [(*row[:5], "Dead", str(300 + n // 2), "'--") if n // 2 in (8, 9) else row for n, row in enumerate(times)]
    table(root / "clinical.tsv", f"{COLUMNS},{TIMES}", died)
    done = prepare_set("tcga", root, PrepareOptions(label="time_to_event", progress=False))
    parser = Parser(prog="softfree train", print_config=None)
    COMMANDS["Train"]["train"].arguments(parser)
    parsed = parser.parse_args(shlex.split(done.command)[2:])
    options = {name: getattr(parsed, name) for name in ("task", "label", "event")}
    assert options == {"task": "survival", "label": "time_to_event", "event": "event"}
    assert parsed.mpp == 8
    frame = pd.read_csv(done.table)
    used = frame[frame["split"] != "extra"]
    assert used["time_to_event"].notna().all()
    assert frame.loc[frame["split"] == "extra", "time_to_event"].isna().all()
    events = used.drop_duplicates("patient_id").groupby("split")["event"].sum()
    assert (events >= 1).all()
    assert set(events.index) == {"train", "val", "test"}
    read = read_table(done.table, **options)
    assert read.targets.shape == (len(used), 2)


def test_survival_needs_its_columns(root):
    with pytest.raises(UserError, match="--label time_to_event needs the columns vital_status or"):
        prepare_set("tcga", root, PrepareOptions(label="time_to_event", progress=False))


def test_a_table_of_the_older_format(root, times, table, prepared):
    names = (
        f"{COLUMNS.replace('case_submitter_id', 'bcr_patient_barcode')},vital_status,death_days_to,last_contact_days_to"
    )
    heading = tuple(f"CDE_ID:{number}" for number in range(8))
    table(root / "clinical.tsv", names, [heading, *times])
    _, read = prepared("tcga", root, label="primary_diagnosis")
    assert read.frame.set_index("patient_id").loc[PATIENTS[1], "time_to_event"].tolist() == [700, 700]


def test_slides_that_give_no_row(root, rows, image, table, prepared):
    image(root / "TCGA-ZZ-9999-01Z-00-DX1.00.svs")
    rows[0] = (*rows[0][:3], "lobular", rows[0][4])
    table(root / "clinical.tsv", COLUMNS, rows)
    done, _ = prepared("tcga", root, label="primary_diagnosis")
    assert {reason for _, reason in done.left_out} == {
        "patient not in the clinical table",
        "several values of 'primary_diagnosis'",
    }
    assert len(done.left_out) == 3


def test_a_table_of_cbioportal(root, rows, table, prepared):
    (root / "clinical.tsv").unlink()
    lines = [f"{row[0]}\t{row[3]}" for row in rows[::2]]
    (root / "data_clinical_patient.txt").write_text(
        "#Patient\tSubtype #1\n#STRING\tSTRING\nPATIENT_ID\tSUBTYPE\n" + "\n".join(lines)
    )
    _, read = prepared("tcga", root, label="SUBTYPE")
    assert len(read.frame) == 24


def test_unknown_words_are_no_label(root, prepared):
    with pytest.raises(UserError, match="none of 24 rows has a label to learn"):
        prepared("tcga", root, label="ajcc_pathologic_stage")


def test_which_table(root, rows, table, prepared):
    (root / "clinical.tsv").rename(root / "my_clinical.tsv")
    table(root / "other_clinical.tsv", COLUMNS, rows)
    with pytest.raises(UserError, match=r"expected one clinical table.*my_clinical.tsv, other_clinical.tsv"):
        prepared("tcga", root, label="primary_diagnosis")
