from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from softfree.data.splits import split_patients
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}


def exclusive(labels_of_patients, images):
    """Targets, patient numbers and keys for patients of one class each."""
    patients = np.repeat(np.arange(len(images)), images)
    targets = np.repeat(np.array(labels_of_patients), images)
    return targets, patients, [f"patient {number}" for number in patients]


def task_of(count):
    return Task("binary" if count == 2 else "multiclass", tuple("abcdefgh"[:count]))


@st.composite
def tables(draw):
    classes = draw(st.integers(2, 5))
    per_class = draw(st.lists(st.integers(3, 25), min_size=classes, max_size=classes))
    labels = np.repeat(np.arange(classes), per_class)
    images = draw(st.lists(st.integers(1, 6), min_size=len(labels), max_size=len(labels)))
    return classes, labels, images, draw(st.integers(0, 1000))


@settings(max_examples=60, deadline=None)
@given(tables())
def test_patients_stay_whole_and_classes_are_spread(drawn):
    classes, labels, images, seed = drawn
    targets, patients, keys = exclusive(labels, images)
    split = split_patients(task_of(classes), targets, patients, keys, FRACTIONS, seed)
    assert all(len(set(split[patients == number])) == 1 for number in range(len(images)))
    for number in range(classes):
        own = split[targets == number]
        assert set(own) == set(FRACTIONS)
        for name, part in FRACTIONS.items():
            assert len(set(patients[(targets == number) & (split == name)])) >= max(
                1, int(part / 2 * (labels == number).sum())
            )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(40, 120))
def test_findings_are_spread_both_ways(seed, count):
    rng = np.random.default_rng(seed)
    targets = (rng.random((count, 3)) < (0.5, 0.3, 0.2)).astype(np.float32)
    targets[rng.random((count, 3)) < 0.1] = np.nan
    patients = np.sort(rng.integers(0, count // 2, count))
    patients = np.unique(patients, return_inverse=True)[1]
    keys = [f"patient {number}" for number in patients]
    try:
        split = split_patients(Task("multilabel", ("x", "y", "z")), targets, patients, keys, FRACTIONS, seed)
    except UserError:
        having = [len(set(patients[targets[:, column] == 1])) for column in range(3)]
        assert min(having) < 8  # refused only for want of patients
        return
    assert all(len(set(split[patients == number])) == 1 for number in set(patients))
    for name in FRACTIONS:
        assert (targets[split == name] == 1).any(axis=0).all()


@settings(max_examples=30, deadline=None)
@given(tables(), st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(drawn, random):
    classes, labels, images, seed = drawn
    targets, patients, keys = exclusive(labels, images)
    before = split_patients(task_of(classes), targets, patients, keys, FRACTIONS, seed)
    order = list(range(len(targets)))
    random.shuffle(order)
    # Patients are numbered by first appearance, as a table does.
    numbers = {old: new for new, old in enumerate(dict.fromkeys(patients[order]))}
    renumbered = np.array([numbers[old] for old in patients[order]])
    after = split_patients(task_of(classes), targets[order], renumbered, [keys[n] for n in order], FRACTIONS, seed)
    np.testing.assert_array_equal(after, before[order])


def test_seeds_decide():
    targets, patients, keys = exclusive(np.arange(60) % 2, [1] * 60)
    splits = [split_patients(task_of(2), targets, patients, keys, FRACTIONS, seed) for seed in (0, 0, 1)]
    np.testing.assert_array_equal(splits[0], splits[1])
    assert (splits[0] != splits[2]).any()


def test_fractions_are_those_of_a_lottery():
    counts = Counter()
    for seed in range(50):
        targets, patients, keys = exclusive(np.arange(200) % 2, [1] * 200)
        split = split_patients(task_of(2), targets, patients, keys, FRACTIONS, seed)
        counts.update(split)
        for name, part in FRACTIONS.items():
            assert abs((split == name).sum() - 200 * part) < 4 * np.sqrt(200 * part * (1 - part))
    for name, part in FRACTIONS.items():
        assert counts[name] / 10_000 == pytest.approx(part, abs=0.02)


def moved(before, after, keys_before, keys_after):
    """How many patients are in another split."""
    now = dict(zip(keys_after, after, strict=True))
    return sum(now[key] != split for key, split in dict(zip(keys_before, before, strict=True)).items() if key in now)


@pytest.mark.parametrize("seed", range(5))
def test_nobody_moves_when_the_table_changes(seed):
    images = [1, 2, 1, 3] * 60
    labels = np.arange(240) % 3 % 2
    targets, patients, keys = exclusive(labels, images)
    before = split_patients(task_of(2), targets, patients, keys, FRACTIONS, seed)
    for changed in range(0, len(targets), 7):  # one label each
        flipped = targets.copy()
        flipped[changed] = 1 - flipped[changed]
        assert moved(before, split_patients(task_of(2), flipped, patients, keys, FRACTIONS, seed), keys, keys) == 0
    for labels_now, images_now in ((labels[:216], images[:216]), (np.tile(labels, 2)[:264], (images * 2)[:264])):
        targets_now, patients_now, keys_now = exclusive(labels_now, images_now)
        after = split_patients(task_of(2), targets_now, patients_now, keys_now, FRACTIONS, seed)
        assert moved(before, after, keys, keys_now) == 0
    other = {"train": 0.5, "val": 0.3, "test": 0.2}
    after = split_patients(task_of(2), targets, patients, keys, other, seed)
    np.testing.assert_array_equal(after == "test", before == "test")


def test_a_rare_class_moves_the_fewest():
    """Where a class of three patients would be in one split only, two of them move and nobody else."""
    counts = Counter()
    for seed in range(20):
        targets, patients, keys = exclusive([0] * 60 + [1] * 3, [1] * 63)
        alone = split_patients(task_of(2), np.zeros_like(targets), patients, keys, FRACTIONS, seed)
        split = split_patients(task_of(2), targets, patients, keys, FRACTIONS, seed)
        assert set(split[60:]) == set(FRACTIONS)
        np.testing.assert_array_equal(split[:60], alone[:60])
        assert (split[60:] != alone[60:]).sum() == 3 - len(set(alone[60:]))
        counts[len(set(alone[60:]))] += 1
    assert len(counts) > 1


def test_known_patients_stay_where_they_were():
    targets, patients, keys = exclusive(np.arange(80) % 2, [1] * 80)
    before = split_patients(task_of(2), targets, patients, keys, FRACTIONS, 0)
    known = [split if number < 60 else "" for number, split in enumerate(before)]
    after = split_patients(task_of(2), targets, patients, keys, FRACTIONS, 1, known)
    np.testing.assert_array_equal(after[:60], before[:60])
    np.testing.assert_array_equal(after[60:], split_patients(task_of(2), targets, patients, keys, FRACTIONS, 1)[60:])


def test_three_patients_are_enough_and_two_are_not():
    targets, patients, keys = exclusive([0] * 20 + [1] * 3, [1] * 23)
    split = split_patients(task_of(2), targets, patients, keys, FRACTIONS, 0)
    assert set(split[targets == 1]) == set(FRACTIONS)
    targets, patients, keys = exclusive([0] * 20 + [1] * 2, [1] * 20 + [5] * 2)
    with pytest.raises(UserError, match="class 'b' has 2 patients, too few for 3 splits"):
        split_patients(task_of(2), targets, patients, keys, FRACTIONS, 0)


@pytest.mark.parametrize(
    ("train", "val", "test", "expected"),
    [(0, 0, 1, {"test"}), (0.8, 0, 0.2, {"train", "test"}), (1 - 0.8 - 0.2, 0.8, 0.2, {"val", "test"})],
)
def test_a_fraction_of_zero_gets_nothing(train, val, test, expected):
    targets, patients, keys = exclusive(np.arange(20) % 2, [1] * 20)
    split = split_patients(task_of(2), targets, patients, keys, {"train": train, "val": val, "test": test}, 0)
    assert set(split) == expected


@pytest.mark.parametrize("train", [-0.2, 1.4])
def test_fractions_out_of_range(train):
    targets, patients, keys = exclusive([0, 1], [1, 1])
    with pytest.raises(UserError, match="expected fractions from 0 to 1"):
        split_patients(task_of(2), targets, patients, keys, {"train": train, "test": 1 - train}, 0)
