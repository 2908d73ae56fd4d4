import pytest

from softfree_runtime.core.errors import UserError


@pytest.fixture
def root(tmp_path, image):
    for label in ("normal", "tumor"):
        for number in range(1, 8):
            image(tmp_path / "training" / label / f"{label}_{number:03}.tif")
    for number in (1, 2):
        image(tmp_path / "testing" / "images" / f"test_{number:03}.tif")
    (tmp_path / "testing" / "reference.csv").write_text("test_001,Tumor,IDC,Macro\ntest_002,Normal,None,None\n")
    return tmp_path


def test_official_test_slides(root, prepared):
    done, read = prepared("camelyon16", root)
    assert read.task.classes == ("normal", "tumor")
    frame = read.frame.set_index("path")
    assert frame.loc["testing/images/test_001.tif", ["label", "split", "metastasis"]].tolist() == [
        "tumor",
        "test",
        "macro",
    ]
    assert frame.loc["training/normal/normal_003.tif", "label"] == "normal"
    assert done.rows["test"] == 2
    assert frame[frame["split"] == "val"]["label"].nunique() == 2


def test_another_reference(root, prepared):
    (root / "testing" / "reference.csv").write_text("test_001,1\n")
    with pytest.raises(UserError, match="expected rows such as test_001,Tumor"):
        prepared("camelyon16", root)


def test_no_slides(tmp_path, prepared):
    with pytest.raises(UserError, match=r"no training/normal/normal_001\.tif"):
        prepared("camelyon16", tmp_path)
