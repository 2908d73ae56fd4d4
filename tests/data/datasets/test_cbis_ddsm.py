import pytest

from softfree_runtime.core.errors import UserError

MASS = (
    "patient_id,breast_density,left or right breast,image view,abnormality id,abnormality type,mass shape,mass margins,"
    "assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
CALC = (
    "patient_id,breast density,left or right breast,image view,abnormality id,abnormality type,calc type,"
    "calc distribution,assessment,pathology,subtlety,image file path,cropped image file path,ROI mask file path"
)
BENIGN, MALIGNANT = "BENIGN_WITHOUT_CALLBACK", "MALIGNANT"


def row(part, patient, side, view, pathology, assessment=4, density=3, number=1):
    """A row of the official tables; ``part`` is Mass-Training, Calc-Test and so on."""
    subject = f"{part}_P_{patient:05}_{side}_{view}"
    study = f"1.3.6.1.4.1.9590.100.1.2.{len(part)}{patient:05}{len(side)}{len(view)}111"
    series = f"{study}22222"
    path = f"{subject}/{study}/{series}/000000.dcm"
    crop = f"{subject}_{number}/{study}9/{series}9/000000.dcm"
    kind = "mass" if part.startswith("Mass") else "calcification"
    return (f"P_{patient:05}", density, side, view, number, kind, "OVAL", "N/A", assessment, pathology, 4, path, crop,
            f"{crop}\n")  # the official cells end in a line break  # fmt: skip


def place(root, official):
    """The file of an image as the NBIA Data Retriever names it."""
    subject, study, series, _ = official.split("/")
    study = f"07-20-2016-DDSM-NA-{study[-5:]}"
    return root / "CBIS-DDSM" / subject / study / f"1.000000-full mammogram images-{series[-5:]}" / "1-1.dcm"


@pytest.fixture
def rows():
    views = [(number, side, view) for number in range(1, 25) for side, view in (("LEFT", "CC"), ("LEFT", "MLO"))]
    truth = {number: (BENIGN, MALIGNANT)[number % 2] for number in range(1, 40)}
    train = [row("Mass-Training", number, side, view, truth[number]) for number, side, view in views]
    test = [row("Mass-Test", number + 30, side, view, truth[number]) for number, side, view in views[:8]]
    return {
        ("mass", "train"): train,
        ("mass", "test"): test,
        ("calc", "train"): [row("Calc-Training", 60, "RIGHT", "CC", BENIGN)],
        ("calc", "test"): [row("Calc-Test", 70, "RIGHT", "MLO", MALIGNANT)],
    }


@pytest.fixture
def write(tmp_path, image, table):
    def all_of(rows, files=True):
        for (kind, part), listed in rows.items():
            table(tmp_path / f"{kind}_case_description_{part}_set.csv", MASS if kind == "mass" else CALC, listed)
            for one in listed if files else ():
                image(place(tmp_path, one[11]))
        return tmp_path

    return all_of


def test_a_case_is_a_breast(rows, write, image, prepared):
    root = write(rows)
    image(root / "CBIS-DDSM/Mass-Training_P_00001_LEFT_CC_1/a/1.000000-cropped images-1/1-1.dcm")
    done, read = prepared("cbis-ddsm", root)
    assert (len(read.frame), done.cases, done.patients) == (58, 30, 30)
    assert done.rows["test"] == 9
    assert not done.left_out
    assert read.task.classes == ("benign", "malignant")
    case = read.frame[read.frame["case_id"] == "P_00001_LEFT"]
    assert case["view"].tolist() == ["L-CC", "L-MLO"]
    assert case["label"].tolist() == ["malignant"] * 2
    assert case[["density", "birads"]].to_numpy().tolist() == [[3, 4]] * 2
    assert case["path"].iloc[0].startswith("CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/07-20-2016-DDSM-NA-")
    assert set(read.frame.loc[read.frame["patient_id"] == "P_00070", "split"]) == {"test"}


def test_a_breast_is_malignant_if_one_abnormality_is(rows, write, prepared):
    rows["mass", "train"] += [
        row("Mass-Training", 50, "LEFT", "CC", BENIGN, assessment=2, density=1),
        row("Mass-Training", 50, "LEFT", "MLO", BENIGN, assessment=2, density=2),
        row("Mass-Training", 50, "LEFT", "MLO", MALIGNANT, assessment=5, density=0, number=2),
        row("Mass-Training", 50, "RIGHT", "CC", BENIGN, assessment=0),
        row("Mass-Training", 50, "RIGHT", "CC", BENIGN, assessment=3, number=2),
    ]
    root = write(rows)
    _, read = prepared("cbis-ddsm", root)
    left = read.frame[read.frame["case_id"] == "P_00050_LEFT"]
    assert left[["view", "label", "density", "birads"]].to_numpy().tolist() == [
        ["L-CC", "malignant", 2, 5],
        ["L-MLO", "malignant", 2, 5],
    ]
    right = read.frame[read.frame["case_id"] == "P_00050_RIGHT"]
    assert right["label"].tolist() == ["benign"]
    assert right["birads"].isna().all()  # one assessment is incomplete
    done, read = prepared("cbis-ddsm", root, case="image")
    assert done.cases is None
    images = read.frame[read.frame["patient_id"] == "P_00050"].set_index("view")
    assert images["label"].to_dict() == {"L-CC": "benign", "L-MLO": "malignant", "R-CC": "benign"}
    done, read = prepared("cbis-ddsm", root, case="exam")
    assert done.cases == done.patients
    assert set(read.frame.loc[read.frame["case_id"] == "P_00050", "label"]) == {"malignant"}


def test_a_mammogram_listed_for_mass_and_calcifications_is_one_row(rows, write, prepared):
    rows["calc", "train"].append(row("Calc-Training", 2, "LEFT", "CC", MALIGNANT))
    root = write(rows)
    _, read = prepared("cbis-ddsm", root)
    case = read.frame[read.frame["case_id"] == "P_00002_LEFT"].set_index("view")
    assert case["abnormality"].to_dict() == {"L-CC": "mass and calcification", "L-MLO": "mass"}
    assert set(case["label"]) == {"malignant"}
    assert case.loc["L-CC", "path"].startswith("CBIS-DDSM/Mass-Training_P_00002_LEFT_CC/")
    place(root, rows["mass", "train"][2][11]).unlink()  # then the copy of the other part is taken
    _, read = prepared("cbis-ddsm", root)
    case = read.frame[read.frame["case_id"] == "P_00002_LEFT"].set_index("view")
    assert case.loc["L-CC", "path"].startswith("CBIS-DDSM/Calc-Training_P_00002_LEFT_CC/")


def test_a_patient_in_training_and_test(rows, write, prepared):
    rows["calc", "test"].append(row("Calc-Test", 3, "LEFT", "CC", BENIGN))  # its masses are in training
    rows["mass", "train"].append(row("Mass-Training", 3, "RIGHT", "CC", BENIGN))
    done, read = prepared("cbis-ddsm", write(rows))
    assert set(read.frame.loc[read.frame["case_id"] == "P_00003_LEFT", "split"]) == {"test"}
    assert set(read.frame.loc[read.frame["case_id"] == "P_00003_LEFT", "label"]) == {"malignant"}
    assert "P_00003_RIGHT" not in set(read.frame["case_id"])
    assert done.rows["extra"] == 1
    assert "1 of 30 patients, so that 1 images have the split 'extra'" in done.notes[0]
    assert not prepared("cbis-ddsm", write(rows), case="exam")[0].rows.get("extra")


def test_files_that_are_missing_or_unclear(rows, write, image, prepared):
    root = write(rows)
    missing, twice, other = (rows["mass", "train"][number][11] for number in (0, 2, 4))
    place(root, missing).unlink()
    image(place(root, twice).with_name("1-2.dcm"))
    image(place(root, other).parents[1] / "1.000000-ROI mask images-00000" / "1-1.dcm")
    done, read = prepared("cbis-ddsm", root)
    assert done.left_out == ((twice.split("/")[0], "several images"), (missing, "no such file"))
    assert place(root, other).relative_to(root).as_posix() in set(read.frame["path"])


def test_a_manifest_folder_and_the_classic_layout(rows, write, image, prepared):
    root = write(rows, files=False)
    for listed in rows.values():
        for one in listed:
            image(root / "manifest-1" / "CBIS-DDSM" / one[11])
    done, read = prepared("cbis-ddsm", root)
    assert not done.left_out
    assert read.frame["path"].str.startswith("manifest-1/CBIS-DDSM/").all()


@pytest.mark.parametrize(
    ("place_of", "value"),
    [(0, "Mass_1"), (2, "BOTH"), (3, "ML"), (9, "UNKNOWN"), (9, None), (11, "000000.dcm")],
)
def test_a_value_that_is_not_official(rows, write, prepared, place_of, value):
    first = rows["mass", "train"][0]
    rows["mass", "train"][0] = (*first[:place_of], value, *first[place_of + 1 :])
    root = write({**rows}, files=False)
    with pytest.raises(UserError, match=rf"1 of 48 cells of .* \(first: '{value or ''}'\)"):
        prepared("cbis-ddsm", root)


def test_another_header_and_a_missing_table(rows, write, table, prepared):
    root = write(rows)
    table(root / "calc_case_description_test_set.csv", CALC.replace("breast density", "tissue"), rows["calc", "test"])
    with pytest.raises(UserError, match="no column 'breast_density'"):
        prepared("cbis-ddsm", root)
    table(root / "calc_case_description_test_set.csv", CALC.replace("pathology", "result"), rows["calc", "test"])
    with pytest.raises(UserError, match="no column 'pathology'"):
        prepared("cbis-ddsm", root)
    (root / "calc_case_description_test_set.csv").unlink()
    with pytest.raises(UserError, match=r"no calc_case_description_test_set.csv; it comes with the official download"):
        prepared("cbis-ddsm", root)
