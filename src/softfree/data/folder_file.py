"""A folder of classes as a table: ``class/image``, ``split/class/image`` as in ImageNet, or ``class/split/image``."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from softfree_runtime.core.errors import UserError, listed
from softfree_runtime.core.files import printable
from softfree_runtime.sources.folder_names import split_named, words_of
from softfree_runtime.sources.walk import Skipped, files_below

_LAYOUTS = "CLASS/image, train/CLASS/image or CLASS/train/image"
# Files that accompany images but do not make a class.
_NOTES = re.compile(
    r"\.(txt|md|rst|[ct]sv|parquet|jsonl?|xml|ya?ml|toml|html?|pdf|docx?|xlsx?|py|ipynb|log|zip|t?ar|rar|7z|ini|cfg|sh)$",
    re.IGNORECASE,
)
# Folders of parts of a data set, which are not classes.
_PARTS = {"images", "masks", "labels", "annotations", "segmentations"}
_FOLD = re.compile(r"(?:k|cv)?[-_ ]?(?:fold|split)s?[-_ ]?\d+|cv[-_ ]?\d+", re.IGNORECASE)


@dataclass
class _Folder:
    """A folder of the data set.

    Attributes:
        path: Path of the folder.
        files: Size of each file below it, by relative path; -1 if it is gone or a broken link.
    """

    path: Path
    files: dict[str, int]

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def loose(self) -> list[str]:
        """Files directly in the folder."""
        return [name for name in self.files if os.sep not in name]

    @cached_property
    def folders(self) -> list[_Folder]:
        """Its subfolders that contain files."""
        inner: dict[str, dict[str, int]] = {}
        for name, size in self.files.items():
            top, _, rest = name.partition(os.sep)
            if rest:
                inner.setdefault(top, {})[rest] = size
        return [_Folder(self.path / top, files) for top, files in inner.items()]

    def holds_notes_only(self) -> bool:
        return all(map(_NOTES.search, self.files))

    def is_copy_within(self, whole: _Folder) -> bool:
        """Return whether all files of this folder also exist in ``whole``, which contains it."""
        return all(whole.files.get(name) == size for name, size in self.files.items())


@dataclass(frozen=True)
class _Group:
    """Images of one class and, if there are splits, one split."""

    label: str
    split: str
    folder: _Folder


def read_folder(path: Path) -> tuple[pd.DataFrame, str, tuple[str, ...]]:
    """List the images of a folder of classes in alphabetical order, without opening them.

    Folders whose names mean splits are splits, above or below the classes, and never classes. Hidden files, system
    files, and files beside the classes are skipped. Images may be at any depth below their class; linked folders are
    followed.

    Returns:
        Columns ``path`` (relative to the folder), ``label``, and ``split`` if there is one; a SHA-256 of names and
        sizes; what was skipped, one sentence each.

    Raises:
        UserError: The folder has no classes, or is ambiguous.
    """
    notes: list[str] = []
    skipped = Skipped()
    sizes = {os.path.relpath(file, path): _size(file) for file in files_below(path, skipped)}
    if skipped.closed:
        folder, reason = next(iter(skipped.closed.items()))
        raise UserError(f"{path}: folder {folder} cannot be listed ({reason}); allow reading it, or move it away")
    root = _entered(_Folder(path, sizes), notes)
    groups = _groups(root, notes)
    rows: list[tuple[str, str, str]] = []
    digest = hashlib.sha256()
    unnamed = 0
    for group in groups:
        for inner, size in group.folder.files.items():
            name = (group.folder.path.relative_to(path) / inner).as_posix()
            try:
                digest.update(f"{name}\0{size}\n".encode())
            except UnicodeEncodeError:
                unnamed += 1
                continue
            rows.append((name, group.label, group.split))
    if not rows:
        raise UserError(
            f"{path}: a folder without class folders that hold images; expected {_LAYOUTS} in it, or name a CSV or"
            " Parquet file"
        )
    if unnamed:
        notes.append(f"files whose names are not UTF-8 are skipped: {unnamed}; rename them")
    notes += _skipped_in_words(path, skipped)
    frame = pd.DataFrame(rows, columns=["path", "label", "split"], dtype="string")
    return (frame if rows[0][2] else frame.drop(columns="split")), digest.hexdigest(), tuple(notes)


def _entered(folder: _Folder, notes: list[str]) -> _Folder:
    """Return the folder that contains the splits, which unpacked archives often nest."""
    inner = folder.folders
    if len(inner) != 1 or split_named(inner[0].name):
        return folder
    below = inner[0].folders
    if len(below) > 1 and all(split_named(folder_below.name) and folder_below.folders for folder_below in below):
        notes.append(f"the splits are taken from folder {inner[0].name}")
        _note_loose(folder, "beside it", notes)
        return inner[0]
    return _entered(inner[0], notes) if len(below) == 1 and _entered(inner[0], []) is not inner[0] else folder


def _groups(root: _Folder, notes: list[str]) -> list[_Group]:
    splits = _splits(root, notes)
    if splits:
        groups = [
            _Group(class_folder.name, split, class_folder)
            for top, split in splits
            for class_folder in _classes(root, top, split, notes)
        ]
    else:
        groups = [group for class_folder in _class_folders(root, notes) for group in _of_class(root, class_folder)]
    if len({bool(group.split) for group in groups}) > 1:
        without = next(group for group in groups if not group.split)
        raise UserError(f"{root.path}: some classes have folders of splits, {without.label} has none; give all or none")
    for group in groups:
        _refuse_splits_below(root, group)
    _note_loose(root, "beside the folders", notes)
    return groups


def _splits(root: _Folder, notes: list[str]) -> list[tuple[_Folder, str]]:
    """Return top-level folders of splits, each with its split; empty if the top level has classes."""
    tops = root.folders
    split_of = {top.name: split_named(top.name) or "" for top in tops}
    if not any(split_of.values()):
        split_of = _splits_with_a_common_name(root, tops)
    named = [top for top in tops if split_of.get(top.name)]
    if not named or _are_classes(tops, named):
        return []
    others = _without_needless(root, [top for top in tops if top not in named], notes)
    if others:
        raise UserError(
            f"{root.path}: {listed(top.name for top in named)} are splits by their names, but"
            f" {listed(top.name for top in others)} beside them {'is' if len(others) == 1 else 'are'} not; move"
            " one or the other away, rename them, or name a table"
        )
    for split in set(split_of.values()):
        same = [top.name for top in named if split_of[top.name] == split]
        if len(same) > 1:
            raise UserError(f"{root.path}: {listed(same)} all mean split {split}; join or rename them")
    return [(top, split_of[top.name]) for top in named]


def _splits_with_a_common_name(root: _Folder, tops: list[_Folder]) -> dict[str, str]:
    """Return splits of folders such as ``chest_train`` and ``chest_test``, not of ``test_positive``."""
    split_of: dict[str, str] = {}
    rests = set()
    for top in tops:
        words = words_of(top.name)
        splits = [split for word in words if (split := split_named(word))]
        if len(splits) == 1:
            split_of[top.name] = splits[0]
            rests.add(tuple(word for word in words if not split_named(word)))
    if len(set(split_of.values())) < 2:
        return {}
    if len(rests) > 1:
        raise UserError(
            f"{root.path}: the names of {listed(split_of)} hold a split and a class; put the classes into folders below"
            " the splits, or name a table"
        )
    return split_of


def _are_classes(tops: list[_Folder], named: list[_Folder]) -> bool:
    """Return whether a name that means a split is a class after all: valid and invalid, test and control."""
    if len(named) > 1:
        return False
    name = named[0].name.casefold()
    others = [top.name.casefold() for top in tops if top is not named[0]]
    opposite = {"valid": lambda other: "valid" in other, "test": lambda other: other.startswith("control")}
    return bool(others) and name in opposite and all(map(opposite[name], others))


def _without_needless(root: _Folder, folders: list[_Folder], notes: list[str]) -> list[_Folder]:
    """Drop folders without images, and copies of the whole data set."""
    kept = []
    for folder in folders:
        if folder.holds_notes_only():
            notes.append(f"folder {folder.name} is skipped: it holds no images")
        elif folder.is_copy_within(root):
            notes.append(f"folder {folder.name} is skipped: a copy of the rest")
        else:
            kept.append(folder)
    return kept


def _classes(root: _Folder, top: _Folder, split: str, notes: list[str]) -> list[_Folder]:
    """Return the class folders of a split, which may be nested in a folder of the same name."""
    _note_loose(top, f"in {top.name}, without a class,", notes)
    inner = top.folders
    if len(inner) == 1 and split_named(inner[0].name) == split:
        return _classes(root, inner[0], split, notes)
    if odd := [folder.name for folder in inner if split_named(folder.name)]:
        raise UserError(
            f"{root.path}: {top.name} is a split, and so is {odd[0]} in it; move the second one away if it is a copy"
        )
    return inner


def _class_folders(root: _Folder, notes: list[str]) -> list[_Folder]:
    """Return top-level class folders; UserError if they are something else."""
    tops = root.folders
    if len(tops) > 1 and all(_FOLD.fullmatch(top.name) for top in tops):
        raise UserError(f"{root.path}: {listed(top.name for top in tops)} look like folds of a set; name a table")
    kept = [top for top in tops if not top.holds_notes_only()]
    notes += [f"folder {top.name} is skipped: it holds no images" for top in tops if top not in kept]
    nested = [top for top in kept if _holds_the_others(top, kept)]
    kept = [top for top in kept if top not in _copies(root, nested, notes)]
    if odd := [top.name for top in kept if top.name.casefold() in _PARTS and len(kept) > 1]:
        raise UserError(
            f"{root.path}: {listed(odd)} among the folders looks like a part of the set rather than a class; name the"
            f" folder with {_LAYOUTS}, or a table"
        )
    return kept


def _holds_the_others(top: _Folder, tops: list[_Folder]) -> bool:
    others = {folder.name.casefold() for folder in tops if folder is not top}
    return bool(others) and others <= {folder.name.casefold() for folder in top.folders}


def _copies(root: _Folder, nested: list[_Folder], notes: list[str]) -> list[_Folder]:
    """Return folders that repeat all classes; UserError if they are not copies."""
    copies = [top for top in nested if top.is_copy_within(root)]
    if left := [top.name for top in nested if top not in copies]:
        raise UserError(
            f"{root.path}: {listed(left)} holds folders with the names of the classes beside it; move them away, or"
            " name the folder of the classes"
        )
    notes += [f"folder {top.name} is skipped: a copy of the rest" for top in copies]
    return copies


def _of_class(root: _Folder, top: _Folder) -> list[_Group]:
    """Return the images of a class, by split if all its folders are named like splits."""
    splits = {folder.name: split for folder in top.folders if (split := split_named(folder.name))}
    if not splits:
        return [_Group(top.name, "", top)]
    others = [*top.loose, *(folder.name for folder in top.folders if folder.name not in splits)]
    if others or len(set(splits.values())) < len(splits):
        raise UserError(
            f"{root.path}: {listed(splits)} in {top.name} mean splits, but not everything in it is one"
            f" ({listed(others or splits, 3)}); expected {_LAYOUTS}, or name a table"
        )
    below = [{inner.name for inner in folder.folders} for folder in top.folders if not folder.loose]
    if len(below) > 1 and (again := set.intersection(*below)):
        raise UserError(
            f"{root.path}: several splits of {top.name} contain {listed(sorted(again), 3)}; if these are the classes,"
            " name the folder of one data set, or a table"
        )
    return [_Group(top.name, splits[folder.name], folder) for folder in top.folders]


def _refuse_splits_below(root: _Folder, group: _Group) -> None:
    """Refuse splits at unexpected places, such as class/hospital/train."""
    for name in dict.fromkeys(os.path.dirname(name) for name in group.folder.files):
        if odd := next((component for component in name.split(os.sep) if component and split_named(component)), None):
            where = (group.folder.path / name).relative_to(root.path).as_posix()
            raise UserError(
                f"{root.path}: {where} is below class {group.label}, and {odd} means a split; expected {_LAYOUTS},"
                " or name a table"
            )


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size
    except OSError:
        return -1


def _note_loose(folder: _Folder, where: str, notes: list[str]) -> None:
    if folder.loose:
        files = f"{len(folder.loose)} file{'' if len(folder.loose) == 1 else 's'}"
        notes.append(f"{files} {where} skipped: {listed(map(printable, folder.loose), 3)}")


def _skipped_in_words(path: Path, skipped: Skipped) -> Iterable[str]:
    if skipped.left:
        yield f"hidden files and system files are skipped: {listed(sorted(map(printable, skipped.left)), 5)}"
    if skipped.loops:
        names = (printable(os.path.relpath(folder, path)) for folder in skipped.loops)
        yield f"links to a folder around them are not followed: {listed(names, 5)}"
