"""What each view of a case is read as and tokenized by: ``--views``, a YAML file with settings by view.

::

    frontal: {preset: radiograph, size: 512}
    lateral: {preset: radiograph, size: 512}
    ct: {kind: volume, modality: ct, shape: [64, 128, 128], patch_size: [8, 16, 16]}

Views with equal settings share a tokenizer. A view is one of images unless it has another kind, and what it leaves out
is as the other options say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_type_hints

from softfree.data.modalities.base import Preprocessing
from softfree.data.modalities.registry import MODALITIES, modality_of
from softfree_runtime.core.errors import UserError, listed, unknown_name
from softfree_runtime.core.files import read_yaml
from softfree_runtime.core.validation import mismatch, shown
from softfree_runtime.sources.sample_source import CaseFile, sample_source

if TYPE_CHECKING:
    from softfree.core.options import TrainOptions

KINDS = ("image", "volume")
_PATCH_SIZE = {"image": int, "volume": list[int]}


@dataclass
class ViewSetting:
    """The settings of one tokenizer.

    Attributes:
        kind: ``image`` or ``volume``.
        options: Options of the preprocessing that differ from those of the run.
        tokenizer: Arguments of the model for the tokenizer.
        views: The views that have these settings; empty for images of any view.
    """

    kind: str
    options: dict[str, Any] = field(default_factory=dict)
    tokenizer: dict[str, Any] = field(default_factory=dict)
    views: list[str] = field(default_factory=list)

    def preprocessing(self, options: TrainOptions, files: Sequence[CaseFile]) -> Preprocessing:
        """Create the preprocessing of the images of these views.

        Raises:
            UserError: A value that is out of range.
        """
        own = [sample_source(file) for file in files if not self.views or file.view in self.views]
        create = MODALITIES[self.kind].preprocessing_class().from_options
        preprocessing: Preprocessing = create(replace(options, **self.options), own)
        return preprocessing

    def check_patch(self, shape: Sequence[int]) -> None:
        """Refuse a patch that is larger than an image of ``shape``, channels first."""
        patch, sides = self.tokenizer.get("patch_size"), list(shape[1:])
        if patch is None:
            return
        patches = [patch] * len(sides) if isinstance(patch, int) else patch
        if len(patches) != len(sides) or any(not 0 < part <= side for part, side in zip(patches, sides, strict=True)):
            raise UserError(
                f"--views: patch_size {shown(patch)} of {listed(self.views)} does not fit into {self.kind}s of"
                f" {' x '.join(map(str, sides))}; expected whole numbers from 1 to these sides"
            )


def view_settings(options: TrainOptions, files: Sequence[CaseFile]) -> list[ViewSetting]:
    """Return the settings of each tokenizer, those of the kind of ``--model`` first.

    Raises:
        UserError: Settings that are not valid, or images whose view has none.
    """
    kind = modality_of(options).name
    if options.views is None:
        return [ViewSetting(kind)]
    settings: list[ViewSetting] = []
    for view, setting in _read(options.views).items():
        same = [
            other for other in settings
            if (other.kind, other.options, other.tokenizer) == (setting.kind, setting.options, setting.tokenizer)
        ]  # fmt: skip
        settings += [] if same else [setting]
        (same or [setting])[0].views.append(view)
    _refuse_unnamed(options.views, {view for setting in settings for view in setting.views}, files)
    settings.sort(key=lambda setting: setting.kind != kind)
    if settings[0].kind != kind:
        raise UserError(
            f"--views {options.views} has no view of kind {kind}, which --model {options.model} takes; choose a"
            f" {'vit3d' if kind == 'image' else 'vit'} model"
        )
    return settings


def _refuse_unnamed(path: Path, views: set[str], files: Sequence[CaseFile]) -> None:
    unnamed = sorted({file.view for file in files} - views)
    if "" in unnamed:
        count = sum(not file.view for file in files)
        raise UserError(f"--views {path}: {count} of {len(files)} images have no view; fill the column view")
    if unnamed:
        raise UserError(
            f"--views {path} has no settings for {listed(unnamed, 5)} of the table; it has {listed(sorted(views), 12)}"
        )


def _read(path: Path) -> dict[str, ViewSetting]:
    content = read_yaml(path, "--views")
    if not isinstance(content, dict) or not content:
        raise UserError(f"--views {path}: expected views with their settings, such as 'ct: {{kind: volume}}'")
    return {str(view): _parsed(path, str(view), setting) for view, setting in content.items()}


def _parsed(path: Path, view: str, setting: Any) -> ViewSetting:
    """Check the settings of a view."""
    from softfree.core.options import TrainOptions

    where = f"--views {path}: {view}"
    if setting is None:
        setting = {}
    if not isinstance(setting, dict):
        raise UserError(f"{where} is {shown(setting)}; expected settings, such as {{size: 512}}")
    values = dict(setting)
    kind = values.pop("kind", "image")
    if kind not in KINDS:
        raise UserError(f"{where}: kind is {shown(kind)}; expected image or volume")
    known = [*(name for name in MODALITIES[kind].options if name != "series"), "patch_size"]
    hints = get_type_hints(TrainOptions) | {"patch_size": _PATCH_SIZE[kind]}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: {unknown_name(f'setting of a view of kind {kind}', str(name), known)}")
        if expected := mismatch(value, hints[name]):
            raise UserError(f"{where}: {name} is {shown(value)}; expected {expected}")
    tokenizer = {"patch_size": values.pop("patch_size")} if "patch_size" in values else {}
    return ViewSetting(kind, values, tokenizer)
