"""Models by name; importing this module registers them with timm.

- ``{attention}_vit_{size}_patch{side}``: images;
- ``{attention}_vit3d_{size}``: volumes, whose three patch sides are an option, ``patch_size=(8, 8, 8)``;
- ``{attention}_bag_{size}``: bags of tile features, which have no patches;
- ``soft_{size}`` and ``soft_norm_{size}``: pyramids;
- names of :func:`register_classifier`.
"""

from __future__ import annotations

import inspect
from collections import ChainMap
from collections.abc import Callable, Mapping
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, is_model, register_model
from torch import nn

from softfree.attention import for_each_attention
from softfree.models.bag import BagTransformer
from softfree.models.case import CASE_MODELS, CaseTransformer
from softfree.models.classifier import grid_options
from softfree.models.pyramid import METHODS, SoftPyramid
from softfree.models.slide import SlideTransformer
from softfree.models.vit import VisionTransformer
from softfree.models.vit3d import VolumeTransformer
from softfree_runtime.core.errors import UserError, unknown_name

SIZES: dict[str, dict[str, int]] = {
    "nano": {"embed_dim": 128, "depth": 6, "num_heads": 4},
    "tiny": {"embed_dim": 192, "depth": 12, "num_heads": 3},
    "small": {"embed_dim": 384, "depth": 12, "num_heads": 6},
    "base": {"embed_dim": 768, "depth": 12, "num_heads": 12},
}
PATCH_SIZES = (8, 16, 32)
# Lu et al. 2021, table 1. The official code has 20 blocks in stage 3 of "small", which gives 39 M parameters; the
# paper's 7 give the 24 M that both state.
PYRAMID_SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "tiny": {"embed_dims": (64, 128, 320, 512), "depths": (1, 2, 3, 2), "num_heads": (2, 4, 10, 16)},
    "small": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 7, 4), "num_heads": (2, 4, 10, 16)},
    "medium": {"embed_dims": (64, 128, 288, 512), "depths": (1, 3, 29, 5), "num_heads": (2, 4, 9, 16)},
    "large": {"embed_dims": (64, 128, 320, 512), "depths": (1, 3, 40, 5), "num_heads": (2, 4, 10, 16)},
    "huge": {"embed_dims": (64, 128, 352, 512), "depths": (1, 5, 49, 5), "num_heads": (2, 4, 11, 16)},
}
# Keywords of timm's loading functions, and of its feature extraction.
HUB_OPTIONS = ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")
FEATURE_OPTIONS = ("features_only", "out_indices", "feature_cls")
default_cfgs = generate_default_cfgs(
    {
        f"{method}_{size}": {"first_conv": "stages.0.embed.0.conv", "classifier": "head"}
        for method in METHODS
        for size in PYRAMID_SIZES
    }
)

# Training options that a model family does not have: the default that training passes, and the reason.
_NOT_IN_PYRAMIDS = {
    "stem": ("pool", "a pyramid has its own convolutional stem"),
    "pool": ("mean_topk", "a pyramid's last stage determines its pooling, '{last: softmax}' or '{last: soft}'"),
    "layer_scale": (None, "a pyramid has no layer scale"),
}
_NOT_IN_BAGS = {"stem": ("pool", "its tiles are already encoded")}
_CLASSIFIER_OPTIONS: dict[str, Any] = {
    "stem": "pool",
    "pool": "mean_topk",
    "layer_scale": None,
    "mlp_chunk": None,
    "attention_options": {},
}

__all__: list[str] = []  # timm appends the names of the models


def _register(cls: type[nn.Module], name: str, **defaults: Any) -> Callable[..., Any]:
    """Register with timm, as ``name``, a function that builds ``cls`` with ``defaults``, which options override."""
    known = tuple(inspect.signature(cls).parameters)
    is_pyramid = cls is SoftPyramid

    def create(pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            raise UserError(f"Got pretrained=True for {name}: expected False; call load_pretrained on the model.")
        hub_options = {option: options.pop(option, None) for option in HUB_OPTIONS}
        for option in options:
            if option not in known and not (is_pyramid and option in FEATURE_OPTIONS):
                raise unknown_name(f"option of {name}:", option, known)
        arguments = {**defaults, **options}
        if not is_pyramid:
            return cls(**arguments)
        features = {"out_indices": (0, 1, 2, 3), "feature_cls": "getter"}
        return build_model_with_cfg(cls, name, False, feature_cfg=features, **hub_options, **arguments)

    create.model_class = cls  # type: ignore[attr-defined]  # a stored configuration is checked against it
    create.defaults = defaults  # type: ignore[attr-defined]
    create.__name__ = create.__qualname__ = name
    create.__doc__ = f"{cls.__name__} with {defaults}."
    globals()[name] = create  # timm's __all__ refers to it
    return register_model(create)


IMAGE_MODELS: dict[str, Callable[..., VisionTransformer]] = {}
VOLUME_MODELS: dict[str, Callable[..., VolumeTransformer]] = {}
BAG_MODELS: dict[str, Callable[..., BagTransformer]] = {}
PYRAMIDS: dict[str, Callable[..., Any]] = {
    f"{method}_{size}": _register(SoftPyramid, f"{method}_{size}", attention=method, **shape)
    for method in METHODS
    for size, shape in PYRAMID_SIZES.items()
}
CLASSIFIERS: dict[str, Callable[..., Any]] = {}
MODELS: Mapping[str, Callable[..., Any]] = ChainMap(CLASSIFIERS, PYRAMIDS, BAG_MODELS, VOLUME_MODELS, IMAGE_MODELS)


def _register_models(attention: str) -> None:
    for size, shape in SIZES.items():
        for patch in PATCH_SIZES:
            name = f"{attention}_vit_{size}_patch{patch}"
            IMAGE_MODELS[name] = _register(VisionTransformer, name, attention=attention, patch_size=patch, **shape)
        name = f"{attention}_vit3d_{size}"
        VOLUME_MODELS[name] = _register(VolumeTransformer, name, attention=attention, **shape)
        name = f"{attention}_bag_{size}"
        BAG_MODELS[name] = _register(BagTransformer, name, attention=attention, **shape)


for_each_attention(_register_models)


def register_classifier(name: str, cls: type[nn.Module], **defaults: Any) -> None:
    """Register another classifier of images or volumes for ``train``, ``evaluate`` and ``predict``.

    Args:
        name: Its name; that of a classifier of volumes has the part ``3d``, as in ``resnet_3d_small``.
        cls: Takes ``num_classes``, ``in_chans``, ``img_size`` and ``drop_path_rate``, of volumes also ``spacing``, and
            further keywords of its own; maps images (B, C, H, W) or volumes (B, C, D, H, W) to logits (B, K). It has
            timm's ``no_weight_decay`` and ``set_grad_checkpointing``.
        **defaults: Keywords of ``cls`` that the name implies.

    Raises:
        UserError: The name is taken.
    """
    if name in MODELS or is_model(name):
        raise UserError(f"Got the name {name!r} for a classifier: expected one that no model has, including timm's.")
    CLASSIFIERS[name] = _register(cls, name, **defaults)


def list_models() -> list[str]:
    """List the names that :func:`create_model` knows."""
    return [*MODELS]


def create_model(name: str, **options: Any) -> Any:
    """Create a model by name, e.g. ``create_model("seqnorm_vit_small_patch16", img_size=1024, num_classes=2)``.

    Args:
        name: One of :func:`list_models`.
        **options: Keywords of the model's class; they override those implied by the name.

    Returns:
        A :class:`VisionTransformer`, :class:`VolumeTransformer`, :class:`BagTransformer` or :class:`SoftPyramid`.

    Raises:
        UserError: An unknown name or option.
    """
    if name not in MODELS:
        raise unknown_name("model", name, MODELS)
    return MODELS[name](**options)


def supported_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Drop the training options that the model ``arguments["name"]`` does not have, if they are at their defaults.

    Raises:
        UserError: Such an option was set to something else.
    """
    arguments = dict(arguments)
    name = arguments["name"]
    is_bag = name in BAG_MODELS
    for option, (default, reason) in _missing_options(name).items():
        value = arguments.pop(option, default)
        if value != default:
            flag = f"--{option.replace('_', '-')}"
            raise UserError(f"{flag} {value} with --model {name}: {reason}; leave {flag} out")
    if is_bag and arguments.get("mlp_chunk", 0) is None:
        del arguments["mlp_chunk"]  # the default of a bag model saves memory for large bags
    return arguments


def _missing_options(name: str) -> Mapping[str, tuple[Any, str]]:
    """Return the training options that a model does not have, with their defaults and the reason."""
    if name in CLASSIFIERS:
        known = inspect.signature(CLASSIFIERS[name].model_class).parameters  # type: ignore[attr-defined]
        return {
            option: (default, "it has no such option")
            for option, default in _CLASSIFIER_OPTIONS.items()
            if option not in known
        }
    return _NOT_IN_PYRAMIDS if name in PYRAMIDS else _NOT_IN_BAGS if name in BAG_MODELS else {}


def build_model(config: Mapping[str, Any]) -> nn.Module:
    """Build the model that a run's configuration describes, with fresh weights."""
    arguments = dict(config["model"])
    case = arguments.pop("case", None)
    if case is not None:
        return create_case_model(case=case, **arguments)
    slide = arguments.pop("slide", None)
    if slide is not None:
        return create_slide_model(slide=slide, **arguments)
    return create_model(arguments.pop("name"), **arguments)


def create_case_model(name: str, case: Mapping[str, Any], **options: Any) -> CaseTransformer:
    """Create the model of cases of several images whose parts are those of a model of one.

    Args:
        name: Model of one image or volume.
        case: Keywords of :class:`~softfree.models.case.CaseTransformer`, such as ``shape`` and ``views``.
        **options: Keywords of the model of one image.

    Raises:
        UserError: A model of something else, or an unknown option.
    """
    single: Any = getattr(MODELS.get(name), "model_class", None)
    if single not in CASE_MODELS:
        raise UserError(f"Got the model {name!r} for cases of several images: expected a *_vit_* or *_vit3d_* model.")
    arguments = _arguments_of(name, options)
    # Landmarks lie along the sequence: the images have no common grid.
    arguments["attention_options"] = grid_options(
        arguments["attention"], arguments.get("attention_options"), conv_dims=1
    )
    others = []
    for other in case.get(
        "others", ()
    ):  # those of the kind of the first have its patch size unless they have their own
        alike = other["kind"] == ("image" if single is VisionTransformer else "volume") and "patch_size" in arguments
        others.append(({"patch_size": arguments["patch_size"]} if alike else {}) | dict(other))
    return CASE_MODELS[single](**arguments, **{**case, "others": others})


def create_slide_model(name: str, slide: Mapping[str, Any], **options: Any) -> SlideTransformer:
    """Create the model of slides with clinical variables whose parts are those of a model of images.

    Args:
        name: Model of images.
        slide: Keywords of :class:`~softfree.models.slide.SlideTransformer` besides these.
        **options: Keywords of the model of images.

    Raises:
        UserError: A model of something else, or an unknown option.
    """
    if getattr(MODELS.get(name), "model_class", None) is not VisionTransformer:
        raise UserError(f"Got the model {name!r} for slides with clinical variables: expected a *_vit_* model.")
    return SlideTransformer(**_arguments_of(name, options), **slide)


def _arguments_of(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keywords that a name and options stand for; UserError for an unknown option."""
    create: Any = MODELS[name]
    known = inspect.signature(create.model_class).parameters
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}:", option, known)
    return {**create.defaults, **options}
