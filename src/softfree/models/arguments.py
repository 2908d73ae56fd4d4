"""The model's arguments of a training, brought to what each family of models takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from softfree.models.pyramid_names import PYRAMIDS
from softfree_runtime.core.errors import UserError

# Options of the vision transformers that a family has not: what training sets by itself, and why there is none.
_PYRAMID = {
    "stem": ("pool", "a pyramid has a convolutional stem of its own"),
    "pool": ("mean_topk", "how a pyramid pools follows from its last stage, '{last: softmax}' or '{last: soft}'"),
    "layer_scale": (None, "a pyramid has no layer scale"),
}
_BAG = {"stem": ("pool", "its tiles have been encoded already")}


def arguments_for(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what the model "name" does not take, as long as it is at what training sets by itself.

    Raises:
        UserError: an option that was set and that the model has not.
    """
    arguments = dict(arguments)
    name = arguments["name"]
    for option, (default, reason) in (_PYRAMID if name in PYRAMIDS else _BAG if "_bag_" in name else {}).items():
        got = arguments.pop(option, default)
        if got != default:
            raise UserError(f"--{option} {got} with --model {name}: {reason}; leave --{option} out")
    if "_bag_" in name and arguments.get("mlp_chunk", 0) is None:
        del arguments["mlp_chunk"]  # a bag's own default spares memory where it is large
    return arguments
