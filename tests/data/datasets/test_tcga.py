import pytest

from softfree_runtime.core.errors import UserError

PATIENTS = [f"TCGA-{'AB' if number % 2 else 'CD'}-{number:04}" for number in range(12)]
COLUMNS = "case_submitter_id,gender,age_at_index,primary_diagnosis,ajcc_pathologic_stage"


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
