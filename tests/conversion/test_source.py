import pytest
import timm
import torch
from safetensors.torch import save_file

from softfree.conversion.options import ConvertOptions
from softfree.conversion.source import named_for, open_source
from softfree_runtime.core.errors import UserError

SHAPE = {"embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def given(tmp_path):
    def make(**changes) -> ConvertOptions:
        usual = {"model": "seqnorm_vit_nano_patch16", "preset": "photo", "size": 64, "model_options": SHAPE}
        chosen = {"images": [], "out": tmp_path / "out.safetensors", "progress": False, **usual, **changes}
        return ConvertOptions(**chosen)

    return make


@pytest.fixture
def published(tmp_path):
    """Weights of timm, on disk, and the model that they are of."""

    def make(**options):
        torch.manual_seed(0)
        model = timm.create_model("vit_tiny_patch16_224", **{**SHAPE, "img_size": 64, "num_classes": 5, **options})
        save_file(model.state_dict(), tmp_path / "vit.safetensors")
        return str(tmp_path / "vit.safetensors"), model.eval()

    return make


@pytest.mark.parametrize(
    ("theirs", "pool"),
    [({}, "token"), ({"global_pool": "avg"}, "avg"), ({"global_pool": "avg", "class_token": False}, "avg")],
    ids=str,
)
def test_published_weights_are_the_model_that_they_were(given, published, theirs, pool):
    path, model = published(**theirs)
    source = open_source(path, given())
    assert source.arguments["name"] == "softmax_vit_nano_patch16"
    assert (source.arguments["pool"], source.arguments["stem"], source.arguments["num_classes"]) == (pool, "patch", 5)
    assert source.run is None
    assert (source.preprocessing.size, source.preprocessing.channels, source.preprocessing.resize_mode) == (
        64,
        3,
        "pad",
    )
    x = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(source.model(x), model(x), rtol=1e-4, atol=1e-4)


def test_a_run_brings_all_of_its_own(given, softmax_run, tmp_path):
    options = ConvertOptions(images=[], out=tmp_path / "o.safetensors")
    source = open_source(str(softmax_run), options)
    assert source.run is not None
    assert source.run.folder == softmax_run
    assert source.preprocessing.size == 32
    assert source.arguments["num_classes"] == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "need --model NAME"),
        ({"model": "seqnorm_vit_nanno_patch16"}, "did you mean"),
        ({"model_options": {**SHAPE, "depth": 3}}, "does not fill seqnorm_vit_nano_patch16: blocks.2"),
        ({"model_options": {**SHAPE, "embed_dim": 64}}, "has width 32, the model 64"),
        ({"model_options": {**SHAPE, "attention": "sima"}}, "expected a softmax model"),
        ({"model_options": {**SHAPE, "attention_options": {"qk_norm": True}}}, "does not fill"),
    ],
    ids=lambda value: "" if isinstance(value, str) else str(value),
)
def test_weights_that_cannot_be_used(given, published, changes, message):
    path, _ = published()
    with pytest.raises(UserError, match=message):
        open_source(path, given(**changes))


def test_normalized_softmax_is_refused(given, published):
    path, _ = published(qk_norm=True)
    with pytest.raises(UserError, match="qk_norm or scale_norm"):
        open_source(path, given(model_options={**SHAPE, "attention_options": {"qk_norm": True}}))


def test_options_of_weights_are_refused_with_a_run(given, softmax_run):
    with pytest.raises(UserError, match="--model with the run"):
        open_source(str(softmax_run), given())


def test_what_is_nowhere(given):
    with pytest.raises(UserError, match=r"No weights at nowhere\.safetensors"):
        open_source("nowhere.safetensors", given())


def test_names_of_the_same_size():
    assert named_for("seqnorm", "softmax_vit_small_patch8") == "seqnorm_vit_small_patch8"
    assert named_for("softmax", "sima_vit_base_patch32") == "softmax_vit_base_patch32"
