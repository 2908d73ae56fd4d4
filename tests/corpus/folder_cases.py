"""Folders of classes: splits above and below the classes, what lies beside them, copies, links and odd files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.corpus.case import Made, Outcome, case

SPLIT = ["test/cat/1.png", "test/dog/2.png", "train/cat/3.png", "train/dog/4.png", "val/cat/5.png", "val/dog/6.png"]
# The same images in another order of folders.
BELOW = ["cat/test/1.png", "cat/train/3.png", "cat/val/5.png", "dog/test/2.png", "dog/train/4.png", "dog/val/6.png"]
SPLITS = {"1": "test", "2": "test", "3": "train", "4": "train", "5": "val", "6": "val"}
# Twelve images are enough for splits to be drawn.
MANY = [f"{label}/{n}.png" for label in ("cat", "dog") for n in range(6)]


def fill(folder: Path, names: Sequence[str]) -> Path:
    """Write files, each with its own name in it but for its folders."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(os.path.basename(name))
    return folder


def expected(names: Sequence[str]) -> dict[str, Any]:
    """What is right for images of ``SPLIT`` or ``BELOW``, whatever their folders are called."""
    names = sorted(names, key=lambda name: name.split("/"))
    return {"task.classes": ("cat", "dog"), "frame.path": names, "frame.split": [SPLITS[Path(n).stem] for n in names]}


def folder(
    property: str,
    names: Sequence[str],
    right: Mapping[str, Any] | None = None,
    *,
    outcome: Outcome = "read",
    says: str = "",
) -> None:
    """Register a folder of these files; right are the images of ``SPLIT`` where nothing else is said."""

    def make(where: Path) -> Made:
        shown = expected(SPLIT) if right is None else right
        return Made(fill(where / "set", names), {} if outcome == "refused" else shown)

    case("Folders of classes", property, "table", outcome, says=says)(make)


def noted(property: str, names: Sequence[str], says: str, right: Mapping[str, Any] | None = None) -> None:
    folder(property, names, right, outcome="corrected", says=says)


def refused(property: str, names: Sequence[str], says: str) -> None:
    folder(property, names, outcome="refused", says=says)


folder("train, val and test above the classes", SPLIT)
folder("train, val and test below the classes", BELOW, expected(BELOW))
folder("classes alone", MANY, {"task.classes": ("cat", "dog"), "frame.path": MANY})

SPELLINGS = {
    "train": "Training TRAIN train_set trainset train-images images_train 01_train TrainingData train2017 trn",
    "val": "valid Validation VAL dev eval evaluation val_set valid-images ImagesVal development tuning",
    "test": "Testing TEST test-set testset test_images TestData holdout hold-out test(1)",
}
for split, spellings in SPELLINGS.items():
    for spelling in spellings.split():
        above = [name.replace(f"{split}/", f"{spelling}/") for name in SPLIT]
        folder(f"a folder {spelling}", above, expected(above))
below = [name.replace("train", "Training").replace("val", "valid").replace("test", "Test Set") for name in BELOW]
folder("other names of splits below the classes", below, expected(below))
shared = [f"brain_{name}" for name in SPLIT]
folder("splits prefixed with the name of the set", shared, expected(shared))
twice = [name.replace("train/", "train/train/").replace("test/", "test/test/") for name in SPLIT]
folder("train in train and test in test, as some archives unpack", twice, expected(twice))
wrapped = [f"archive/data/{name}" for name in SPLIT]
noted("the splits two folders down", wrapped, "taken from folder", expected(wrapped))
OTHER_CLASSES = [("invalid", "valid"), ("control", "test"), ("test_negative", "test_positive")]
for cat, dog in OTHER_CLASSES:
    named = [name.replace("cat", cat).replace("dog", dog) for name in MANY]
    folder(f"classes {cat} and {dog}, which are not splits", named, {"task.classes": (cat, dog)})

# Other files and folders beside them.
LEFT = [
    "__MACOSX/train/cat/._3.png",
    "@eaDir/x.jpg",
    ".ipynb_checkpoints/a.png",
    ".git/config",
    "Thumbs.db",
    "$RECYCLE.BIN/b",
]
for left in LEFT:
    noted(f"{left.split('/')[0]} beside the splits", [*SPLIT, left], "hidden files and system files are skipped")
    noted(f"{left.split('/')[0]} beside the classes", [*MANY, left], "skipped",
          {"task.classes": ("cat", "dog"), "frame.path": MANY})  # fmt: skip
noted(
    "hidden and system files in a class", [*SPLIT, "train/cat/.DS_Store", "train/cat/Thumbs.db"], ".DS_Store, Thumbs.db"
)
noted("a readme and a CSV beside the splits", [*SPLIT, "README.md", "labels.csv"], "2 files beside the folders")
noted("an image beside the splits", [*SPLIT, "cover.png"], "1 file beside the folders skipped: cover.png")
noted("a test set without classes", [*SPLIT[2:], "test/1.png", "test/2.png"], "2 files in test, without a class,",
      expected(SPLIT[2:]))  # fmt: skip
noted(
    "a folder of documents beside the splits",
    [*SPLIT, "docs/terms.pdf", "docs/how.txt"],
    "docs is skipped: it holds no",
)
noted("a folder of annotations beside the classes", [*MANY, "xml/1.xml"], "xml is skipped",
      {"task.classes": ("cat", "dog")})  # fmt: skip
noted("a copy of the whole set in itself", [*SPLIT, *(f"data/{name}" for name in SPLIT)], "data is skipped: a copy")
noted("a copy of the classes beside them", [*MANY, *(f"pets/{name}" for name in MANY)], "pets is skipped: a copy",
      {"task.classes": ("cat", "dog"), "frame.path": MANY})  # fmt: skip

# What cannot be decided.
refused("a folder of images beside the splits", [*SPLIT, "extra/a.png"], "extra beside them is not")
refused("masks beside the splits", [*SPLIT, "masks/train/cat/3.tif"], "masks beside them")
refused("another set within the set", [*SPLIT, "data/train/cat/other.png"], "data beside them")
refused(
    "other classes within a folder beside the classes",
    [*MANY, "pets/cat/a.png", "pets/dog/b.png"],
    "pets holds folders",
)
refused("train and training", [*SPLIT, "training/cat/7.png"], "all mean split train")
refused("dev and val", [*SPLIT, "dev/cat/7.png"], "all mean split val")
refused("a split within another", [*SPLIT, "train/test/cat/7.png"], "train is a split, and so is test in it")
refused("splits below one class of two", [*BELOW[:3], *MANY[6:]], "some classes have folders of splits")
refused("images beside the splits of a class", [*BELOW, "cat/7.png"], "not everything in it is one")
refused("splits and classes in one name", [f"{split}_{name}" for split in ("train", "test") for name in MANY],
        "hold a split and a class")  # fmt: skip
refused(
    "hospitals above the splits",
    [f"{site}/{name}" for site in ("north", "south") for name in SPLIT],
    "several splits of north contain",
)
refused("splits two folders below a class", ["cat/a/train/1.png", "dog/a/train/2.png"], "train means a split")
refused("folds", [f"fold_{n}/{name}" for n in range(3) for name in MANY], "look like folds")
refused("images and masks", ["images/1.png", "masks/1.png"], "looks like a part of the set")
refused("classes that differ only in case", [*SPLIT[:4], "val/Cat/5.png", "val/dog/6.png"], "look like one class")
refused("no classes", ["1.png", "2.png"], "without class folders")
refused("images directly below the splits", ["train/1.png", "test/2.png"], "without class folders")


def odd(property: str, outcome: Outcome, says: str = "") -> Any:
    return case("Folders of classes", property, "table", outcome, says=says)


@odd("a linked folder in a class", "read")
def linked(folder: Path) -> Made:
    store, root = (
        fill(folder / "store", ["2.png", "3.png"]),
        fill(folder / "set", ["train/cat/1.png", "train/dog/4.png"]),
    )
    (root / "train/cat/more").symlink_to(store)
    names = ["train/cat/1.png", "train/cat/more/2.png", "train/cat/more/3.png", "train/dog/4.png"]
    return Made(root, {"frame.path": names})


@odd("a link to a parent folder", "corrected", "not followed: train/cat/loop")
def looped(folder: Path) -> Made:
    root = fill(folder / "set", SPLIT)
    (root / "train/cat/loop").symlink_to(root)
    return Made(root, expected(SPLIT))


@odd("a file whose name is not UTF-8", "corrected", "not UTF-8 are skipped: 1")
def latin_name(folder: Path) -> Made:
    root = fill(folder / "set", SPLIT)
    Path(os.fsdecode(os.fsencode(root / "train/cat/") + b"/caf\xe9.png")).write_text("x")
    return Made(root, expected(SPLIT))


@odd("a pipe and a broken link in a class, which give no rows", "read")
def special(folder: Path) -> Made:
    root = fill(folder / "set", SPLIT)
    os.mkfifo(root / "train/cat/pipe.png")
    (root / "train/dog/gone.png").symlink_to("nowhere")
    names = sorted([*SPLIT, "train/cat/pipe.png", "train/dog/gone.png"], key=lambda name: name.split("/"))
    return Made(root, {"frame.path": names})
