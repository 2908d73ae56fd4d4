"""Encoders of tiles."""

from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from softfree.features.encoders import create_encoder
from softfree.inference.run_directory import RunDirectory
from softfree.models import create_model
from softfree_runtime.core.errors import UserError

TILE = np.random.default_rng(0).integers(0, 256, (48, 48, 3), dtype=np.uint8)
NAME = "test_vit"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    model = timm.create_model(NAME)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def encode(encoder: object, tile: np.ndarray = TILE) -> np.ndarray:
    with torch.inference_mode():
        return encoder.module(encoder.prepare(tile)[None])[0].numpy()  # type: ignore[attr-defined]


def test_pixel_statistics() -> None:
    unit = TILE.astype(np.float64) / 255
    fields = [unit[y : y + 12, x : x + 12].mean((0, 1)) for y in range(0, 48, 12) for x in range(0, 48, 12)]
    expected = np.concatenate([unit.mean((0, 1)), unit.std((0, 1)), np.array(fields).T.ravel()])
    np.testing.assert_allclose(encode(create_encoder("pixels")), expected, atol=1e-6)


def test_a_timm_model_with_weights_from_a_file(weights: Path) -> None:
    side = timm.create_model(NAME).patch_embed.img_size[0]
    tile = np.random.default_rng(1).integers(0, 256, (side, side, 3), dtype=np.uint8)
    encoder = create_encoder(NAME, weights, side)
    whole = timm.create_model(NAME, checkpoint_path=str(weights)).eval()
    config = timm.data.resolve_model_data_config(whole)
    unit = (tile / 255.0 - np.array(config["mean"])) / np.array(config["std"])
    with torch.inference_mode():
        image = torch.from_numpy(unit).float().permute(2, 0, 1)[None]
        expected = whole.forward_head(whole.forward_features(image), pre_logits=True)[0]
    np.testing.assert_allclose(encode(encoder, tile), expected, rtol=1e-4, atol=1e-5)
    assert len(encoder.digest) == 64


def test_weights_are_fitted_to_another_side(weights: Path) -> None:
    assert (
        encode(create_encoder(NAME, weights, 48)).shape
        == encode(create_encoder(NAME, weights, 64), np.repeat(np.repeat(TILE, 2, 0), 2, 1)[:64, :64]).shape
    )


def test_a_convolutional_model_takes_any_side(tmp_path: Path) -> None:
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "r.safetensors")
    assert encode(create_encoder("test_resnet", tmp_path / "r.safetensors", 48)).ndim == 1


CONFIG = {
    "task": {"kind": "binary", "classes": ["a", "b"]},
    "preprocessing": {"preset": "microscopy", "size": 32, "resize_mode": "stretch", "channels": 3},
    "model": {"name": "seqnorm_vit_nano_patch16", "img_size": 32, "num_classes": 2, "depth": 1},
    "options": {},
}


def write_run(folder: Path) -> torch.nn.Module:
    model = create_model(**CONFIG["model"]).eval()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(model.state_dict(), folder / "model.safetensors")
    RunDirectory(folder).write_config(CONFIG)
    return model


def pooled(model: torch.nn.Module, sample: torch.Tensor) -> np.ndarray:
    with torch.inference_mode():
        return model.forward_head(model.forward_features(sample[None]), pre_logits=True)[0].numpy()


def test_a_run_of_softfree(tmp_path: Path) -> None:
    model = write_run(tmp_path)
    encoder = create_encoder(str(tmp_path))
    expected = pooled(model, encoder.prepare(TILE))
    assert encoder.prepare(TILE).shape == (3, 32, 32)
    np.testing.assert_allclose(encode(encoder), expected, rtol=1e-5, atol=1e-6)
    assert encoder.name == "seqnorm_vit_nano_patch16"
    assert encoder.digest == RunDirectory(tmp_path).weights_digest()


def test_a_study_has_the_features_of_its_members_one_after_the_other(tmp_path: Path) -> None:
    folders = [tmp_path / "folds" / str(number) for number in range(2)]
    models = [write_run(folder) for folder in folders]
    digests = [RunDirectory(folder).weights_digest() for folder in folders]
    members = [{"folder": f"folds/{n}", "sha256": digest, "temperature": 1.0} for n, digest in enumerate(digests)]
    RunDirectory(tmp_path).write_config(CONFIG | {"members": members})
    encoder = create_encoder(str(tmp_path))
    expected = np.concatenate([pooled(model, encoder.prepare(TILE)) for model in models])
    np.testing.assert_allclose(encode(encoder), expected, rtol=1e-5, atol=1e-6)
    assert encoder.digest == sha256("".join(digests).encode()).hexdigest()


def test_weights_are_never_left_at_chance(tmp_path: Path, weights: Path) -> None:
    with pytest.raises(UserError, match="needs its weights: add --weights"):
        create_encoder(NAME)
    save_file(timm.create_model("test_resnet").state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="do not match this encoder"):
        create_encoder(NAME, tmp_path / "other.safetensors", 48)
    with pytest.raises(UserError, match=r"expected an existing \.safetensors file"):
        create_encoder(NAME, tmp_path / "weights.pth", 48)
    with pytest.raises(UserError, match="takes none"):
        create_encoder("pixels", weights)


def test_an_unknown_name() -> None:
    with pytest.raises(UserError, match="did you mean"):
        create_encoder("resnet19")
