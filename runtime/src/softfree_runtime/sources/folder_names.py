"""What names of folders and files mean: a split, or something that a system left behind."""

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
    """Tell which split a name means, whatever stands around the word: ``Training``, ``test-set``, ``images_val2``."""
    found = _SPLIT.fullmatch("".join(words_of(name)))
    return _SPLIT_OF[found[1]] if found else None


def words_of(name: str) -> list[str]:
    """Words of a name, case folded, without digits and signs."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    return [word.casefold() for word in re.split(r"[\W\d_]+", spaced) if word]


def is_left_behind(name: str) -> bool:
    """Whether a name is hidden, or one that systems and programs leave beside the files of people."""
    return name.startswith(".") or name.casefold() in _SYSTEM
