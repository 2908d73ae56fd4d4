"""Detection, instance segmentation and semantic segmentation on the features of a SOFT pyramid.

Heads are torchvision's (RetinaNet: Lin et al. 2017, arXiv:1708.02002; Mask R-CNN: He et al. 2017, arXiv:1703.06870;
both on a feature pyramid, arXiv:1612.03144) and segmentation-models-pytorch's (semantic FPN: Kirillov et al. 2019,
arXiv:1901.02446; UPerNet: Xiao et al. 2018, arXiv:1807.10221). SOFT's own dense models are not published; these are
the standard constructions, not copies.
"""

from __future__ import annotations

import copy
from typing import Any

from timm.layers import freeze_batch_norm_2d
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torchvision.models.detection import MaskRCNN, RetinaNet
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock, LastLevelMaxPool, LastLevelP6P7

from softfree.models.patch_embed import fit_image
from softfree.models.pyramid import SoftPyramid
from softfree.models.registry import PYRAMIDS
from softfree_runtime.core.errors import UserError, unknown_name

Backbone = str | SoftPyramid
# Sides are padded to multiples of the last stage's stride.
STRIDE = 32


def feature_net(backbone: Backbone, stages: tuple[int, ...] = (0, 1, 2, 3), *, freeze_norms: bool = False) -> nn.Module:
    """Create timm's feature extractor of a pyramid: images (B, channels, H, W) to maps (B, C_i, H/4, W/4), ...

    Args:
        backbone: A name, or a pyramid, which is copied with its weights.
        stages: Stages whose maps are returned, from 0.
        freeze_norms: Freeze statistics and weights of the batch norms, for pretrained weights and small batches.

    Raises:
        UserError: An unknown name.
    """
    if isinstance(backbone, str):
        if backbone not in PYRAMIDS:
            raise unknown_name("pyramid", backbone, PYRAMIDS)
        pyramid: nn.Module = PYRAMIDS[backbone](num_classes=0)
    else:
        pyramid = copy.deepcopy(backbone)
    if freeze_norms:
        pyramid = freeze_batch_norm_2d(pyramid)
    return FeatureGetterNet(pyramid, out_indices=stages)


class FeaturePyramid(nn.Module):
    """A pyramid with a feature pyramid network on its maps, as a backbone of torchvision's detectors.

    Args:
        body: From :func:`feature_net`.
        stages: Its stages.
        extra: Block that adds further levels.
        out_channels: Width of all levels.
    """

    def __init__(self, body: nn.Module, stages: tuple[int, ...], extra: ExtraFPNBlock, out_channels: int = 256) -> None:
        super().__init__()
        self.body, self.stages, self.out_channels = body, stages, out_channels
        channels = body.feature_info.channels()  # type: ignore[union-attr, operator]
        self.fpn = FeaturePyramidNetwork(channels, out_channels, extra_blocks=extra)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Map images (B, channels, H, W) to levels (B, out_channels, h, w), keyed by stage number."""
        maps = self.body(x)
        levels: dict[str, Tensor] = self.fpn({str(stage): m for stage, m in zip(self.stages, maps, strict=True)})
        return levels


def retinanet(backbone: Backbone, num_classes: int, *, freeze_norms: bool = False, **options: Any) -> RetinaNet:
    """Create a RetinaNet on stages 2 to 4 and two further levels, strides 8 to 128.

    Args:
        backbone: A name, such as "soft_tiny", or a pyramid with weights.
        num_classes: The largest label plus one, as in torchvision: 91 for COCO's own numbers.
        freeze_norms: See :func:`feature_net`.
        **options: Keywords of :class:`torchvision.models.detection.RetinaNet`, such as ``min_size``.

    Returns:
        In training, ``model(images, targets)`` returns losses; in evaluation, ``model(images)`` returns boxes. Images
        are a list of (channels, H, W) in [0, 1].
    """
    stages = (1, 2, 3)
    body = feature_net(backbone, stages, freeze_norms=freeze_norms)
    width = body.feature_info.channels()[-1]  # type: ignore[union-attr, operator]
    return RetinaNet(FeaturePyramid(body, stages, LastLevelP6P7(width, 256)), num_classes, **options)


def mask_rcnn(backbone: Backbone, num_classes: int, *, freeze_norms: bool = False, **options: Any) -> MaskRCNN:
    """Create a Mask R-CNN on all four stages and a pooled level, strides 4 to 64.

    Args:
        backbone: A name, such as "soft_tiny", or a pyramid with weights.
        num_classes: Includes the background, class 0: 91 for COCO's own numbers.
        freeze_norms: See :func:`feature_net`.
        **options: Keywords of :class:`torchvision.models.detection.MaskRCNN`, such as ``min_size``.

    Returns:
        As for :func:`retinanet`, with masks.
    """
    stages = (0, 1, 2, 3)
    body = feature_net(backbone, stages, freeze_norms=freeze_norms)
    return MaskRCNN(FeaturePyramid(body, stages, LastLevelMaxPool()), num_classes, **options)


class Segmenter(nn.Module):
    """A segmentation-models-pytorch network for images of any size and channel count.

    Args:
        net: The network, for sides that are multiples of 32.
        in_chans: Its input channels.
    """

    def __init__(self, net: nn.Module, in_chans: int) -> None:
        super().__init__()
        self.net, self.in_chans = net, in_chans

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, channels, H, W) to logits (B, classes, H, W); padding is cropped."""
        logits: Tensor = self.net(fit_image(x, self.in_chans, STRIDE))
        return logits[..., : x.shape[2], : x.shape[3]]


def semantic_fpn(backbone: Backbone, num_classes: int, **options: Any) -> Segmenter:
    """Create a semantic FPN.

    Args:
        backbone: A name, such as "soft_tiny", or a pyramid with weights.
        num_classes: Number of logits for each pixel.
        **options: Keywords of ``segmentation_models_pytorch.FPN``.

    Raises:
        UserError: segmentation-models-pytorch is not installed.
    """
    return _segmenter("FPN", backbone, num_classes, options)


def upernet(backbone: Backbone, num_classes: int, **options: Any) -> Segmenter:
    """Create a UPerNet; see :func:`semantic_fpn`, with the keywords of ``segmentation_models_pytorch.UPerNet``.

    Its default width of 512 gives about the published parameter counts: 53.3 and 75.0 million for soft_norm_small and
    soft_norm_medium with 150 classes, against 54 and 76 (README of the official repository).
    """
    return _segmenter("UPerNet", backbone, num_classes, {"decoder_channels": 512, **options})


def _segmenter(kind: str, backbone: Backbone, num_classes: int, options: dict[str, Any]) -> Segmenter:
    try:
        import segmentation_models_pytorch as smp
    except ImportError as error:
        raise UserError(
            f"{kind} needs segmentation-models-pytorch, which is not installed: pip install 'softfree[dense]'"
        ) from error
    encoder = feature_net(backbone)
    pyramid: Any = encoder.model
    # The decoder is built for a pyramid of these widths with one block per stage, which is then replaced by ours.
    shape = {"embed_dims": pyramid.embed_dims, "num_heads": pyramid.num_heads, "depths": (1, 1, 1, 1)}
    arguments = {"encoder_weights": None, "in_channels": pyramid.in_chans, "classes": num_classes}
    net = getattr(smp, kind)("tu-soft_tiny", **arguments, **shape, **options)
    net.encoder.model = encoder
    return Segmenter(net, pyramid.in_chans)
