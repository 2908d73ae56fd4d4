import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image
from tests.corpus.series_cases import SLICES, write_series
from torch.utils.data import DataLoader

from softfree.data import dataset as module
from softfree.data.dataset import EpochSampler, SampleDataset, choose_cache
from softfree.data.modalities import image as transforms
from softfree.data.modalities.bag import BagPreprocessing
from softfree.data.modalities.feature_files import write_features
from softfree.data.modalities.image import ImageAugmentation, ImagePreprocessing
from softfree.data.modalities.volume import VolumePreprocessing
from softfree_runtime.core.errors import ReadError, UserError
from softfree_runtime.sources.sample_source import Case, CaseFile, SourceFile

PREPROCESSING = ImagePreprocessing.create("radiograph", 32, "pad")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    paths = []
    for number in range(6):
        path = tmp_path / f"{number}.png"
        Image.fromarray(np.random.default_rng(number).integers(0, 255, (20, 30), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def test_items_are_the_prepared_images_with_their_targets(files):
    dataset = SampleDataset(files, np.arange(6), PREPROCESSING)
    sample = dataset[4]
    assert sample["image"].shape == (1, 32, 32)
    assert sample["target"] == 4
    assert sample["index"] == 4


@pytest.mark.parametrize("cache", ["none", "memory", "folder"])
def test_caches_change_nothing_and_spare_reading(files, tmp_path, cache, monkeypatch):
    plain = [SampleDataset(files, None, PREPROCESSING)[i]["image"] for i in range(6)]
    where = str(tmp_path / "cache") if cache == "folder" else cache
    dataset = SampleDataset(files, None, PREPROCESSING, cache=where)
    assert dataset.read_all("Reading", threads=2, progress=False) == {}
    reads = []
    original = transforms.read_image
    monkeypatch.setattr(transforms, "read_image", lambda *a, **k: (reads.append(a), original(*a, **k))[1])
    for index in range(6):
        assert torch.equal(dataset[index]["image"], plain[index])
    assert len(reads) == (6 if cache == "none" else 0)


def test_samples_without_augmentation_come_from_the_same_cache(files, monkeypatch):
    augmentation = ImageAugmentation(PREPROCESSING)
    targets = np.arange(6)
    dataset = SampleDataset(files, targets, PREPROCESSING, augmentation=augmentation, cache="memory")
    dataset.read_all("Reading", progress=False)
    plain = [SampleDataset(files, None, PREPROCESSING)[i]["image"] for i in (4, 1)]
    monkeypatch.setattr(transforms, "read_image", lambda *a, **k: pytest.fail("the cache has it"))
    subset = dataset.without_augmentation([4, 1])
    assert len(subset) == 2
    for number, index in enumerate((4, 1)):
        assert torch.equal(subset[number]["image"], plain[number])
        assert subset[number]["target"] == index
        assert subset.name(number) == files[index]
    assert not torch.equal(dataset[4]["image"], plain[0]), "the dataset itself is still augmented"


def test_a_cache_folder_notices_a_changed_file_and_other_preprocessing(files, tmp_path):
    where = str(tmp_path / "cache")
    before = SampleDataset(files, None, PREPROCESSING, cache=where)[0]["image"]
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30).astype(np.uint8)).save(files[0])
    after = SampleDataset(files, None, PREPROCESSING, cache=where)[0]["image"]
    assert not torch.equal(before, after)
    smaller = ImagePreprocessing.create("radiograph", 16, "pad")
    assert SampleDataset(files, None, smaller, cache=where)[0]["image"].shape == (1, 16, 16)


def test_a_cache_folder_is_not_believed_once_the_source_of_the_readers_has_changed(files, tmp_path, monkeypatch):
    where = str(tmp_path / "cache")
    SampleDataset(files, None, PREPROCESSING, cache=where)[0]
    monkeypatch.setattr("softfree.data.dataset._source_digest", lambda: "another")
    SampleDataset(files, None, PREPROCESSING, cache=where)[0]
    assert len(list((tmp_path / "cache").glob("*.pt"))) == 2


def test_a_cache_that_cannot_be_made_is_one_line(files, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--cache"):
        SampleDataset(files, None, PREPROCESSING, cache=str(tmp_path / "file" / "below"))


def test_bad_files_are_found_with_their_reasons(files):
    Path(files[1]).write_bytes(b"")
    Path(files[3]).unlink()
    dataset = SampleDataset(files, None, PREPROCESSING, cache="memory")
    failed = dataset.read_all("Reading", progress=False)
    assert {index: error.status for index, error in failed.items()} == {1: "empty", 3: "missing"}
    with pytest.raises(ReadError):
        dataset[1]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_augmented_batches_do_not_depend_on_the_number_of_workers(files, num_workers):
    def epoch(number: int) -> torch.Tensor:
        dataset = SampleDataset(
            files, None, PREPROCESSING, augmentation=ImageAugmentation(PREPROCESSING), cache="memory"
        )
        sampler = EpochSampler(range(6), seed=1)
        sampler.set_epoch(number)
        return torch.cat([b["image"] for b in DataLoader(dataset, 2, sampler=sampler, num_workers=num_workers)])

    alone = SampleDataset(files, None, PREPROCESSING, augmentation=ImageAugmentation(PREPROCESSING))
    order = list(EpochSampler(range(6), seed=1))
    expected = torch.stack([alone[key]["image"] for key in order])
    assert torch.equal(epoch(0), expected)
    assert not torch.equal(epoch(1), expected)


@pytest.mark.parametrize("count", [1, 5, 8, 13])
@pytest.mark.parametrize("world", [1, 2, 3])
def test_devices_together_see_every_image_once_and_the_batches_of_one(count, world):
    whole = [index for _, index in EpochSampler(range(count), seed=2)]
    shares = [[index for _, index in EpochSampler(range(count), 2, rank, world)] for rank in range(world)]
    assert sorted(whole) == list(range(count))
    assert len({len(share) for share in shares}) == 1
    together = [shares[i % world][i // world] for i in range(len(shares[0]) * world)]
    assert together[:count] == whole
    assert set(together) == set(range(count))


def test_orders_differ_by_epoch_and_seed_and_stay_without_seed():
    def order(seed: int | None, epoch: int) -> list[int]:
        sampler = EpochSampler(range(50), seed)
        sampler.set_epoch(epoch)
        return [index for _, index in sampler]

    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)
    assert order(0, 3) == order(0, 3)
    assert order(None, 1) == list(range(50))


def test_automatic_cache_depends_on_what_fits(monkeypatch):
    monkeypatch.setattr(module, "available_or_assumed", lambda: 4 * 10 * 32 * 32 * 4)
    assert choose_cache("auto", 10, PREPROCESSING) == "memory"
    assert choose_cache("auto", 11, PREPROCESSING) == "none"
    assert choose_cache("none", 1, PREPROCESSING) == "none"
    assert choose_cache("auto", 1, ImagePreprocessing.create("radiograph", 32, "native")) == "none"


@pytest.mark.parametrize("left", [0, 50, -1, None])
def test_a_damaged_cache_file_is_made_again(files, tmp_path, left):
    where = tmp_path / "cache"
    before = SampleDataset(files, None, PREPROCESSING, cache=str(where))[0]["image"]
    (cached,) = where.iterdir()
    whole = cached.read_bytes()
    cached.write_bytes(bytes(len(whole)) if left is None else whole[:left])
    assert torch.equal(SampleDataset(files, None, PREPROCESSING, cache=str(where))[0]["image"], before)
    assert cached.read_bytes() == whole


def test_pages_of_zeros_in_a_cache_file_are_no_pixels(files, tmp_path):
    where = tmp_path / "cache"
    before = SampleDataset(files, None, PREPROCESSING, cache=str(where))[0]["image"]
    (cached,) = where.iterdir()
    whole = cached.read_bytes()
    offset = whole.index(before.numpy().tobytes()[:64])
    for broken in (bytes(512), bytes([whole[offset] ^ 1])):
        cached.write_bytes(whole[:offset] + broken + whole[offset + len(broken) :])
        assert torch.equal(SampleDataset(files, None, PREPROCESSING, cache=str(where))[0]["image"], before)
        assert cached.read_bytes() == whole


def test_what_could_not_be_read_is_tried_again_another_time(files, tmp_path, monkeypatch):
    where = str(tmp_path / "cache")
    refusal = ReadError("no decoder", "unsupported")
    with monkeypatch.context() as patched:
        patched.setattr(ImagePreprocessing, "load_sized", lambda *_: (_ for _ in ()).throw(refusal))
        assert SampleDataset(files, None, PREPROCESSING, cache=where).read_all("Reading", progress=False)
    assert not SampleDataset(files, None, PREPROCESSING, cache=where).read_all("Reading", progress=False)


def test_a_full_disk_leaves_no_cache_file_and_is_one_line(files, tmp_path, monkeypatch):
    dataset = SampleDataset(files, None, PREPROCESSING, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(UserError, match="No space left"):
        dataset[0]
    assert list((tmp_path / "cache").iterdir()) == []


@pytest.mark.parametrize("name", ["a.png#mpp=0.5", "0.png;1.png", "0.png#mpp=0.5;1.png"])
def test_any_file_name_is_one_file(files, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(Path(files[5]).read_bytes())
    for _ in range(2):
        dataset = SampleDataset([str(path)], None, PREPROCESSING, cache=str(tmp_path / "cache"))
        assert torch.equal(dataset[0]["image"], SampleDataset(files, None, PREPROCESSING)[5]["image"])
        assert dataset.name(0) == str(path)
    path.write_bytes(Path(files[4]).read_bytes() + b"changed")  # trailing bytes, so that the size changes, too
    again = SampleDataset([str(path)], None, PREPROCESSING, cache=str(tmp_path / "cache"))
    assert torch.equal(again[0]["image"], SampleDataset(files, None, PREPROCESSING)[4]["image"])


def test_a_cache_folder_notices_a_change_in_any_file_of_a_volume(tmp_path):
    folder = write_series(tmp_path)
    nib.Nifti1Pair(SLICES.T, np.eye(4)).to_filename(tmp_path / "pair.img")
    sources = {str(folder): "slice3.dcm", str(folder / "slice0.dcm"): "slice3.dcm", str(tmp_path / "pair.hdr"): ""}
    preprocessing = VolumePreprocessing.create("ct", (8, 9, 7))
    for source, changed in sources.items():
        first, again, other = (
            SampleDataset([source], None, preprocessing, cache=str(tmp_path / "cache")) for _ in range(3)
        )
        before = first[0]["image"]
        assert torch.equal(again[0]["image"], before)
        file = folder / changed if changed else tmp_path / "pair.img"
        content = bytearray(file.read_bytes())
        content[-40:] = bytes(40)  # in place: the folder has the same time as before
        file.write_bytes(content)
        os.utime(file, (1, 1))
        other = SampleDataset([source], None, preprocessing, cache=str(tmp_path / "cache"))
        assert not torch.equal(other[0]["image"], before)
        write_series(tmp_path)


def test_a_cache_folder_knows_resolution_and_case(tmp_path):
    paths = [tmp_path / "a.h5", tmp_path / "b.h5"]
    for path in paths:
        write_features(path, np.ones((2, 6), np.float32), np.ones((2, 2)), {})
    a, b = map(str, paths)
    sources = [
        a,
        SourceFile(a, 0.5),
        SourceFile(a, 0.25),
        Case((CaseFile(a), CaseFile(b))),
        Case((CaseFile(b), CaseFile(a))),
    ]
    where = tmp_path / "cache"
    for _ in range(2):  # the second time, every sample is cached
        dataset = SampleDataset(sources, None, BagPreprocessing(6), cache=str(where))
        assert [len(sample["image"]) for sample in dataset] == [2, 2, 2, 4, 4]
        assert len(list(where.iterdir())) == 5
    assert [dataset.name(index) for index in (1, 3)] == [a, f"{a};{b}"]


def test_a_cache_folder_holds_no_names_of_files(tmp_path):
    named = tmp_path / "Jane_Doe_1970.png"
    named.write_bytes(b"\x89PNG\r\n\x1a\n")
    where = tmp_path / "cache"
    for _ in range(2):
        dataset = SampleDataset([str(named)], None, PREPROCESSING, cache=str(where))
        with pytest.raises(ReadError, match="Jane_Doe_1970") as refusal:
            dataset[0]
        assert refusal.value.status == "corrupt"
    for cached in where.iterdir():
        assert b"Jane_Doe" not in cached.read_bytes()
        assert "Jane_Doe" not in cached.name


def test_an_epoch_may_be_cut_to_whole_steps():
    shares = [list(EpochSampler(range(10), 3, rank, 2, length=8)) for rank in range(2)]
    whole = list(EpochSampler(range(10), 3, length=8))
    assert [one for pair in zip(*shares, strict=True) for one in pair] == whole
    assert len(whole) == 8
