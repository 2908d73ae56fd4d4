from __future__ import annotations

import pytest

from softfree.models.arguments import arguments_for
from softfree_runtime.core.errors import UserError


def test_training_options_that_a_pyramid_has_not() -> None:
    given = {"name": "soft_tiny", "stem": "pool", "pool": "mean_topk", "layer_scale": None, "mlp_chunk": 64}
    assert arguments_for(given) == {"name": "soft_tiny", "mlp_chunk": 64}
    vit = given | {"name": "seqnorm_vit_tiny_patch16", "stem": "patch"}
    assert arguments_for(vit) == vit
    for option, value in (("stem", "patch"), ("pool", "token"), ("layer_scale", 0.1)):
        with pytest.raises(UserError, match=f"--{option} {value} with --model soft_tiny: .*leave --{option} out"):
            arguments_for(given | {option: value})


def test_training_options_that_a_bag_has_not() -> None:
    given = {"name": "seqnorm_bag_nano", "stem": "pool", "pool": "token", "mlp_chunk": None}
    assert arguments_for(given) == {"name": "seqnorm_bag_nano", "pool": "token"}
    assert arguments_for(given | {"mlp_chunk": 64})["mlp_chunk"] == 64
    with pytest.raises(UserError, match="--stem patch with --model seqnorm_bag_nano: its tiles have been encoded"):
        arguments_for(given | {"stem": "patch"})
    assert given["stem"] == "pool", "what was given stays as it is"
