"""Meaning of names of folders and files: a split, or a leftover of a system."""

from __future__ import annotations

import re

_WORDS = {
    "train": ("training", "train", "trn", "trainval"),
    "val": ("validation", "valid", "val", "development", "devel", "dev", "evaluation", "eval", "tuning"),
    "test": ("testing", "test", "tst", "holdout"),
}
_SPLIT_OF = {word: split for split, words in _WORDS.items() for word in words}
_AROUND = (
    "datasets?|data|subset|sets?|images?|imgs?|pictures?|photos?|samples?|cases?|split|folder|new|raw|original"
    "|processed|preprocessed|resized|png|jpe?g|dicom"
)
_SPLIT = re.compile(rf"(?:{_AROUND})*({'|'.join(sorted(_SPLIT_OF, key=len, reverse=True))})s?(?:{_AROUND})*")
_SYSTEM = {
    "__macosx",
    "@eadir",
    "#recycle",
    "@recycle",
    "$recycle.bin",
    "system volume information",
    "lost+found",
    "__pycache__",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "icon\r",
}


def split_named(name: str) -> str | None:
    """Return the split that a name means, ignoring common other words: ``Training``, ``test-set``, ``images_val2``."""
    match = _SPLIT.fullmatch("".join(words_of(name)))
    return _SPLIT_OF[match[1]] if match else None


def words_of(name: str) -> list[str]:
    """Return the words of a name, case folded, without digits and punctuation."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.split(r"[\W\d_]+", spaced) if word]


def is_left_behind(name: str) -> bool:
    """Return whether a name is hidden, or of a file that systems and programs leave behind."""
    return name.startswith(".") or name.casefold() in _SYSTEM
