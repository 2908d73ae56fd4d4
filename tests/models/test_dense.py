"""Detection and segmentation on pyramids, with COCO's and ADE20K's files of a few computed images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from timm.layers import BatchNormAct2d, FrozenBatchNormAct2d
from torch import Tensor, nn
from torchmetrics.classification import MulticlassJaccardIndex
from torchvision import tv_tensors
from torchvision.transforms import v2

from softfree.data.coco import CocoObjects
from softfree.data.scenes import IGNORED, Scenes
from softfree.models import SoftPyramid
from softfree.models.dense import FeaturePyramid, feature_net, mask_rcnn, retinanet, semantic_fpn, upernet
from softfree_runtime.core.errors import UserError

pytestmark = pytest.mark.cpu("data sets and training of other libraries")
SIZE = {"min_size": 96, "max_size": 128}
BOXES = [[(8, 12, 40, 30)], [(50, 20, 48, 56), (4, 60, 30, 24)], [(20, 30, 64, 40)]]  # x, y, width, height


def small() -> SoftPyramid:
    torch.manual_seed(0)
    options = {"embed_dims": (8, 16, 24, 32), "depths": (1, 1, 1, 1), "num_heads": (1, 2, 3, 4)}
    return SoftPyramid(img_size=96, num_classes=7, **options)


def targets() -> list[dict[str, Tensor]]:
    made = []
    for rectangles in BOXES:
        masks = torch.zeros(len(rectangles), 96, 112, dtype=torch.uint8)
        for mask, (x, y, w, h) in zip(masks, rectangles, strict=True):
            mask[y : y + h, x : x + w] = 1
        corners = torch.tensor([(x, y, x + w, y + h) for x, y, w, h in rectangles], dtype=torch.float32)
        made.append({"boxes": corners, "labels": torch.arange(len(rectangles)) + 1, "masks": masks})
    return made


def images() -> list[Tensor]:
    """A bright rectangle of the red (1) or the green channel (2) for each box."""
    rng = torch.Generator().manual_seed(0)
    made = [0.2 * torch.rand(3, 96, 112, generator=rng) for _ in BOXES]
    for image, target in zip(made, targets(), strict=True):
        for mask, label in zip(target["masks"], target["labels"], strict=True):
            image[label - 1] += 0.7 * mask
    return made


def loss_of(model: nn.Module, batch: list[Tensor], wanted: list[dict[str, Tensor]]) -> Tensor:
    torch.manual_seed(1)  # boxes are sampled for the loss
    return sum(model(batch, wanted).values())


def step_lowers_the_loss(model: nn.Module, batch: list[Tensor], wanted: list[dict[str, Tensor]]) -> None:
    model.train()
    before = loss_of(model, batch, wanted)
    before.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.backbone.parameters())
    torch.optim.SGD(model.parameters(), lr=1e-3).step()
    assert loss_of(model, batch, wanted) < before


def check_detections(found: list[dict[str, Tensor]]) -> None:
    assert len(found) == 3
    assert all(set(f) >= {"boxes", "labels", "scores"} for f in found)
    assert all((f["labels"] < 3).all() and f["boxes"].isfinite().all() for f in found)


def test_a_detector_learns_and_answers() -> None:
    """A RetinaNet; a Mask R-CNN does in ``test_coco_files``."""
    model = retinanet(small(), 3, **SIZE)
    step_lowers_the_loss(model, images(), targets())
    check_detections(model.eval()(images()))


@pytest.mark.parametrize(("make", "strides"), [(retinanet, (8, 16, 32, 64, 128)), (mask_rcnn, (4, 8, 16, 32, 64))])
def test_levels(make: object, strides: tuple[int, ...]) -> None:
    backbone = make(small(), 3).backbone
    assert isinstance(backbone, FeaturePyramid)
    levels = backbone(torch.randn(1, 3, 96, 128))
    assert [tuple(t.shape) for t in levels.values()] == [(1, 256, -(-96 // s), -(-128 // s)) for s in strides]


@pytest.mark.parametrize(
    ("name", "make", "published"), [("soft_norm_tiny", retinanet, 23), ("soft_norm_small", mask_rcnn, 44)]
)
def test_published_parameters(name: str, make: object, published: int) -> None:
    """README of the official repository, in millions, COCO."""
    with torch.device("meta"):
        model = make(name, 91)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(published, rel=0.02)


def test_weights_are_taken_and_the_pyramid_is_left_alone() -> None:
    pyramid = small().eval()
    before = {name: t.clone() for name, t in pyramid.state_dict().items()}
    body = feature_net(pyramid, (0, 2), freeze_norms=True).eval()
    x = torch.randn(1, 3, 50, 70)
    maps = pyramid.forward_intermediates(x, indices=[0, 2], intermediates_only=True)
    torch.testing.assert_close(body(x), maps)
    assert body.feature_info.channels() == [8, 24]
    assert not any(isinstance(m, BatchNormAct2d) for m in body.modules())
    assert sum(isinstance(m, FrozenBatchNormAct2d) for m in body.modules()) == 5
    assert pyramid.state_dict().keys() == before.keys()
    assert any(isinstance(m, BatchNormAct2d) for m in pyramid.modules())


def test_unknown_pyramid() -> None:
    with pytest.raises(UserError, match="Unknown pyramid 'soft_tinny': did you mean soft_tiny"):
        retinanet("soft_tinny", 3)


def write_coco(folder: Path) -> tuple[Path, Path]:
    entries, annotations = [], []
    for number, (image, rectangles) in enumerate(zip(images(), BOXES, strict=True), start=1):
        pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(folder / f"{number}.png")
        entries.append({"id": number, "file_name": f"{number}.png", "height": 96, "width": 112})
        for label, (x, y, w, h) in enumerate(rectangles, start=1):
            corners = [x, y, x + w, y, x + w, y + h, x, y + h]
            one = {"id": len(annotations) + 1, "image_id": number, "category_id": label, "bbox": [x, y, w, h]}
            annotations.append(one | {"area": w * h, "iscrowd": 0, "segmentation": [corners]})
    categories = [{"id": 1, "name": "red"}, {"id": 2, "name": "green"}]
    file = folder / "instances.json"
    file.write_text(json.dumps({"images": entries, "annotations": annotations, "categories": categories}))
    return folder, file


def test_coco_files(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    from torchmetrics.detection import MeanAveragePrecision

    to_floats = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    read = CocoObjects(*write_coco(tmp_path), transforms=to_floats)
    batch, wanted = (list(part) for part in zip(*(read[i] for i in range(len(read))), strict=True))
    assert wanted[1]["boxes"].tolist() == targets()[1]["boxes"].tolist()
    few = {"box_batch_size_per_image": 32, "rpn_post_nms_top_n_train": 100, "rpn_post_nms_top_n_test": 100}
    model = mask_rcnn(small(), 3, box_score_thresh=0.0, box_detections_per_img=5, **few, **SIZE)
    step_lowers_the_loss(model, batch, wanted)
    metric = MeanAveragePrecision(iou_type=("bbox", "segm"))
    with torch.no_grad():
        result = model.eval()(batch)
    check_detections(result)
    assert all(f["masks"].shape == (len(f["boxes"]), 1, 96, 112) for f in result)
    metric.update([f | {"masks": f["masks"][:, 0] > 0.5} for f in result], wanted)
    numbers = metric.compute()
    assert 0 <= numbers["bbox_map"] <= 1
    assert 0 <= numbers["segm_map"] <= 1
    metric.reset()
    metric.update([t | {"scores": torch.ones(len(t["labels"]))} for t in wanted], wanted)
    assert metric.compute()["segm_map"] == pytest.approx(1)


def test_coco_files_with_nothing_and_with_crowds(tmp_path: Path) -> None:
    pytest.importorskip("pycocotools")
    folder, file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] == 2]
    content["annotations"][0]["iscrowd"] = 1
    flat = content["annotations"][1] | {"id": 9, "bbox": [4, 60, 0, 24]}
    file.write_text(json.dumps(content | {"annotations": [*content["annotations"], flat]}))
    read = CocoObjects(folder, file, transforms=v2.ToImage())
    (_, nothing), (_, one), (_, both) = read[0], read[1], CocoObjects(folder, file, crowds=True)[1]
    assert {name: tuple(t.shape) for name, t in nothing.items()} == {
        "boxes": (0, 4), "labels": (0,), "masks": (0, 96, 112), "iscrowd": (0,),
    }  # fmt: skip
    assert one["labels"].tolist() == [2]
    assert both["iscrowd"].tolist() == [1, 0]
    model = retinanet(small(), 3, **SIZE)
    pixels = torch.rand(3, 96, 112)
    assert loss_of(model, [pixels, pixels], [nothing, one]).isfinite()


@pytest.fixture
def ade(tmp_path: Path) -> Path:
    for number, (image, target) in enumerate(zip(images(), targets(), strict=True)):
        for kind in ("images", "annotations"):
            (tmp_path / kind / "training").mkdir(parents=True, exist_ok=True)
        pixels = (image.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(tmp_path / "images" / "training" / f"{number}.jpg", quality=95)
        numbers = (target["masks"] * target["labels"].view(-1, 1, 1).byte()).amax(0) + 1
        numbers[:4] = 0
        Image.fromarray(numbers.numpy().astype(np.uint8)).save(tmp_path / "annotations" / "training" / f"{number}.png")
    return tmp_path


def test_ade20k_files(ade: Path) -> None:
    image, classes = Scenes(ade)[1]
    assert isinstance(image, tv_tensors.Image)
    assert image.shape == (3, 96, 112)
    assert classes.unique().tolist() == [0, 1, 2, IGNORED]
    assert (classes[:4] == IGNORED).all()
    (x, y, w, h), _ = BOXES[1]
    assert (classes[y : y + h, x : x + w] == 1).all()
    crop = v2.RandomCrop((96, 160), pad_if_needed=True, fill={tv_tensors.Image: 0, tv_tensors.Mask: IGNORED})
    _, padded = Scenes(ade, transforms=crop)[1]
    assert padded.shape == (96, 160)
    assert (padded == IGNORED).sum() == 4 * 112 + 96 * 48


def test_ade20k_files_that_are_not_there(ade: Path) -> None:
    with pytest.raises(UserError, match=r"expected images/validation/\*.jpg below"):
        Scenes(ade, "validation")
    (ade / "annotations" / "training" / "2.png").unlink()
    with pytest.raises(UserError, match=r"2\.png; expected a PNG of the same name"):
        Scenes(ade)


@pytest.mark.parametrize("make", [semantic_fpn, upernet])
def test_a_segmenter_learns_and_is_measured(make: object, ade: Path) -> None:
    pytest.importorskip("segmentation_models_pytorch")
    options = {"decoder_channels": 32} if make is upernet else {"decoder_dropout": 0.0}
    torch.manual_seed(0)
    model = make(small(), 3, **options)
    scenes = Scenes(ade)
    x = torch.stack([scenes[i][0].float() / 255 for i in range(3)])
    classes = torch.stack([scenes[i][1] for i in range(3)])
    before = F.cross_entropy(model(x), classes, ignore_index=IGNORED)
    before.backward()
    encoder = model.net.encoder.parameters()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder)
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    assert F.cross_entropy(model(x), classes, ignore_index=IGNORED) < before
    logits = model.eval()(x[..., :77, :90])
    assert logits.shape == (3, 3, 77, 90)
    measured = MulticlassJaccardIndex(3, ignore_index=IGNORED)(logits.argmax(1), classes[..., :77, :90])
    assert 0 <= measured <= 1


def test_a_segmenter_takes_the_weights() -> None:
    pytest.importorskip("segmentation_models_pytorch")
    pyramid = small().eval()
    net = semantic_fpn(pyramid, 3).net.eval()
    x = torch.randn(1, 3, 64, 96)
    maps = pyramid.forward_intermediates(x, intermediates_only=True)
    torch.testing.assert_close(net.encoder(x)[2:], maps)


def test_missing_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "segmentation_models_pytorch", None)
    monkeypatch.setitem(__import__("sys").modules, "pycocotools.coco", None)
    with pytest.raises(UserError, match=r"pip install 'softfree\[dense\]'"):
        upernet(small(), 3)
    with pytest.raises(UserError, match=r"pip install 'softfree\[dense\]'"):
        CocoObjects("images", "instances.json")
