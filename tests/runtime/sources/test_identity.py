import pytest

from softfree_runtime.sources.identity import identify_patients, one_slip_apart, patient_key, same_labels


@pytest.mark.parametrize(
    ("one", "other"),
    [("0001", "1"), ("12.0", "12"), ("P 007", "p 7"), ("IM-0133", "im-133"), ("a\u00a0b", "A  b"), ("+5", "5")],
)
def test_forms_of_one_id(one, other):
    assert patient_key(one) == patient_key(other) != ""


@pytest.mark.parametrize(
    ("one", "other"),
    [("1", "10"), ("1.5", "15"), ("1.5", "1.05"), ("a0b", "ab"), ("a01b", "a1b"), ("1.2.01", "1.2.1"), ("p1a", "p1b")],
)
def test_ids_of_two_patients(one, other):
    assert patient_key(one) != patient_key(other)


@pytest.mark.parametrize(
    "word", ["nan", "N/A", "n.a.", "<NA>", "UNKNOWN", "anon", "De-Identified", "--", "?", "XXX", "-1"]
)
def test_words_that_name_nobody(word):
    assert patient_key(word) == ""


def test_zeros_are_an_id_unless_they_are_nearly_all_rows():
    assert identify_patients({"0": 3, "1": 3, "2": 2}).keys["0"] == "0"
    assert identify_patients({"000": 30, "1": 3, "2": 2}).nobody == {"000"}
    assert identify_patients({"000": 4, "1": 1}).nobody == set()


def test_forms_are_listed():
    identified = identify_patients({"01": 1, "1": 2, "2": 1})
    assert identified.joined == {"01", "1"}
    assert identified.keys["01"] == identified.keys["1"] != identified.keys["2"]


@pytest.mark.parametrize("labels", [["ER-", "ER"], ["1-2", "12"], ["AA", "Aa"], ["T", "t", "x"], ["1", "yes", "2"]])
def test_labels_of_two_classes(labels):
    assert same_labels(labels) is None


@pytest.mark.parametrize(
    "labels", [["T", "t", "F"], ["1", "+1"], ["viral pneumonia", "Viral_Pneumonia"], ["0", "1", "no"]]
)
def test_labels_of_one_class(labels):
    assert same_labels(labels) is not None


@pytest.mark.parametrize(
    ("one", "other"),
    [("pneumonia", "pnuemonia"), ("Pneumonia", "neumonia"), ("tumor", "tumour"), ("no tumor", "no_tumar")],
)
def test_labels_one_slip_apart(one, other):
    assert one_slip_apart(one, other)
    assert one_slip_apart(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("typical", "atypical"),
        ("stage II", "stage III"),
        ("grade1", "grade2"),
        ("type A", "type B"),
        ("hypoplasia", "hyperplasia"),
        ("left lung", "right lung"),
        ("benign", "benign"),
        ("mass", "mask"),
    ],
)
def test_labels_of_two_words(one, other):
    assert not one_slip_apart(one, other)
    assert not one_slip_apart(other, one)
