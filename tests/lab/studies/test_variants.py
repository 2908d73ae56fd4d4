from pathlib import Path

import pytest

from softfree.attention import ATTENTIONS
from softfree.core.options import TrainOptions
from softfree.models.registry import build_model
from softfree_lab.studies.variants import PRESETS, apply, choose_variants
from softfree_runtime.core.errors import UserError

RECIPE = {"model": "seqnorm_vit_nano_patch16", "model_options": {"depth": 1}, "lr": 0.1}


@pytest.mark.parametrize("preset", PRESETS)
def test_every_variant_is_a_model_that_can_be_made(preset: str) -> None:
    for overrides in PRESETS[preset].variants.values():
        options = TrainOptions(table=Path("t.csv"), **apply(RECIPE, overrides))
        config = {"name": options.model, "img_size": 32, "pool": options.pool, "layer_scale": options.layer_scale}
        model = build_model(
            {"model": config | options.model_options | {"attention_options": options.attention_options}}
        )
        assert len(model.blocks) == 1, "what the recipe says besides stays"


def test_the_peer_is_softmax() -> None:
    assert {next(iter(preset.variants)).split()[0] for preset in PRESETS.values()} == {"softmax"}


def test_zoo_has_all_attentions() -> None:
    assert set(choose_variants(["zoo"]).variants) == set(ATTENTIONS)


def test_presets_are_joined() -> None:
    joined = choose_variants(["norms", "resolution"])
    assert next(iter(joined.variants)) == "softmax"
    assert set(joined.variants) == {*PRESETS["norms"].variants, *ATTENTIONS}
    assert joined.scales == (0.5, 0.75, 1.0, 1.5, 2.0)


def test_options_within_options_are_joined() -> None:
    got = apply(RECIPE, {"attention": "sima", "model_options": {"pos_conv": True}, "lr": 0.2})
    assert got == {"model": "sima_vit_nano_patch16", "model_options": {"depth": 1, "pos_conv": True}, "lr": 0.2}
    assert RECIPE["model_options"] == {"depth": 1}


def test_variants_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("plain: {}\nslow: {lr: 0.001}\n")
    assert choose_variants([str(file)]).variants == {"plain": {}, "slow": {"lr": 0.001}}


@pytest.mark.parametrize("text", ["", "[a, b]", "a: 1", "a: {"])
def test_a_file_without_variants(tmp_path: Path, text: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match=r"mine\.yaml"):
        choose_variants([str(file)])


@pytest.mark.parametrize(
    ("names", "message"), [([], "is empty"), (["zo"], "did you mean zoo"), (["no.yaml"], "cannot be read")]
)
def test_names_that_lead_nowhere(names: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_variants(names)


def test_a_model_without_a_size() -> None:
    with pytest.raises(UserError, match="vit_nano_patch16"):
        apply({"model": "resnet18"}, {"attention": "sima"})
