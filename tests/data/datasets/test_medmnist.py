import nibabel
import numpy as np
import pytest
from PIL import Image

from softfree_runtime.core.errors import UserError


def write(path, shape, labels, counts=(6, 4, 4)):
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in zip(("train", "val", "test"), counts, strict=True):
        arrays[f"{split}_images"] = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        arrays[f"{split}_labels"] = labels(count)
    np.savez_compressed(path, **arrays)
    return arrays


def two(count):
    return (np.arange(count, dtype=np.uint8) % 2)[:, None]


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_images(tmp_path, prepared, shape):
    arrays = write(tmp_path / "pneumoniamnist_64.npz", shape, two)
    done, read = prepared("medmnist", tmp_path)
    assert done.rows == {"train": 6, "val": 4, "test": 4}
    assert read.task.classes == ("normal", "pneumonia")
    row = read.frame.set_index("path").loc["pneumoniamnist_64/val/3.png"]
    assert row["label"] == "pneumonia"
    assert np.array_equal(np.asarray(Image.open(row["file"])), arrays["val_images"][3])
    assert "CC BY 4.0" in done.notes[0]


def test_findings(tmp_path, prepared):
    def fourteen(count):
        return (np.arange(count * 14, dtype=np.uint8) % 3 % 2).reshape(count, 14)

    arrays = write(tmp_path / "chestmnist.npz", (28, 28), fourteen)
    done, read = prepared("medmnist", tmp_path / "chestmnist.npz")
    assert done.table == tmp_path / "chestmnist.csv"
    assert done.findings[:2] == ("atelectasis", "cardiomegaly")
    assert np.array_equal(read.where("test").targets, arrays["test_labels"].astype(np.float32))


def test_volumes(tmp_path, prepared):
    arrays = write(tmp_path / "vesselmnist3d.npz", (10, 12, 14), two)
    done, read = prepared("medmnist", tmp_path)
    path = read.frame.set_index("path").loc["vesselmnist3d/test/1.nii.gz", "file"]
    volume = nibabel.load(path)
    assert np.array_equal(np.asarray(volume.dataobj).transpose(2, 1, 0), arrays["test_images"][1])
    assert read.task.classes == ("aneurysm", "vessel")
    assert "1 mm" in done.notes[1]
    assert not list(tmp_path.rglob(".*part*"))


def test_classes_without_known_names_are_numbers(tmp_path, prepared):
    write(tmp_path / "mymnist.npz", (28, 28), two)
    assert prepared("medmnist", tmp_path)[1].task.classes == ("0", "1")


def test_a_broken_file(tmp_path, prepared):
    write(tmp_path / "mymnist.npz", (28, 28), two)
    whole = (tmp_path / "mymnist.npz").read_bytes()
    (tmp_path / "mymnist.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="is missing, damaged or in another layout"):
        prepared("medmnist", tmp_path)
    assert not (tmp_path / "softfree.csv").exists()


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("test_images", None, "array test_images is missing, .*no item named 'test_images.npy'"),
        ("test_labels", None, "array test_labels is missing, "),
        ("val_images", np.zeros((4, 28, 28), np.uint8, order="F"), "array val_images .* in Fortran order"),
        ("val_images", np.zeros((4, 28, 28)), r"val has images \(4, 28, 28\) of float64 .*expected uint8"),
        ("val_images", np.zeros((3, 28, 28), np.uint8), r"val has images \(3, 28, 28\) .* labels \(4, 1\)"),
        ("val_labels", np.zeros(4, np.uint8), r"labels \(4,\) of uint8; expected .* \(n, K\)"),
        ("val_labels", np.zeros((4, 1)), r"labels \(4, 1\) of float64"),
    ],
)
def test_arrays_of_another_layout(tmp_path, prepared, name, array, message):
    arrays = write(tmp_path / "mymnist.npz", (28, 28), two) | {name: array}
    np.savez(tmp_path / "mymnist.npz", **{key: value for key, value in arrays.items() if value is not None})
    with pytest.raises(UserError, match=message):
        prepared("medmnist", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mymnist.npz"], "nothing was written"


def test_an_empty_split(tmp_path, prepared):
    write(tmp_path / "mymnist.npz", (28, 28), two, counts=(6, 0, 4))
    with pytest.raises(UserError, match=r"val has images \(0, 28, 28\) of uint8 and labels \(0, 1\) of uint8"):
        prepared("medmnist", tmp_path)


def test_which_file(tmp_path, prepared):
    for name in ("a.npz", "b.npz"):
        write(tmp_path / name, (28, 28), two)
    with pytest.raises(UserError, match=r"expected one .npz of MedMNIST .*, found a.npz, b.npz"):
        prepared("medmnist", tmp_path)
