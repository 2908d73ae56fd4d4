"""Sequence parallelism: one sample over several processes, each with some of its tokens and the whole model.

An attention that needs only a few sums over all tokens (see :mod:`~softfree.attention.streaming`) needs nothing else
from other processes. In each layer, a rank sums over its own tokens, one all-reduce adds up the sums of the ranks (in
float64; for SeqNorm (C + 1) C / 2 + C + 1 numbers per sample, independent of N), and every rank continues with its own
tokens alone. At the end, the pooled sums (C numbers per sample) are added up as well, or each rank's summary is sent to
all if the pooling is not a sum, and all ranks have the same logits, bit for bit. Backward has the same all-reduces, of
gradients.

The resulting gradients: Let the ranks r = 1..R hold copies p_r of the parameters, and let each compute the same loss
from the logits, L_r. Everything between is exact differentiation if the backward of an all-reduce is the sum of all
ranks' gradients, because each rank's result depends on each rank's input: rank r then finds

    g_r = d(L_1 + ... + L_R) / dp_r.

All p_r are the same p, and all L_r the same function L of it, so that sum_r g_r = R dL/dp, and the *mean* of the g_r is
the gradient of the one-process model. (For a weight of the head g_r is dL/dp itself on every rank; for one of the
encoder it is R times the part that comes through the rank's own tokens.) The mean is what DDP and FSDP take over their
ranks. Over a world of D data replicas x R ranks a sample, it is the mean of the replicas' gradients, as in data
parallel training without sequence parallelism: nothing else needs scaling, and each rank calls ``backward()`` on the
plain loss of its replica's batch.

    mesh = init_device_mesh("cuda", (2, 4), mesh_dim_names=("data", "sequence"))
    parallel = DistributedDataParallel(SequenceParallel(model, mesh["sequence"]))  # over all 8
    loss = criterion(parallel(split_rows(images, 16, mesh["sequence"])), targets)

FSDP2 takes the wrapper as a whole, ``fully_shard(SequenceParallel(...), mesh=...)``: weights are gathered while a step
is computed, and gradients and optimizer state are sharded. Single blocks cannot be sharded, since they are not called.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.utils.checkpoint import checkpoint

from softfree.attention.base import wide_type
from softfree.attention.streaming import StreamingAttention, real_counts, streaming_form
from softfree.models.bag import BagTransformer
from softfree.models.case import CaseTransformer
from softfree.models.encoder import Block
from softfree.models.layers import apply_in_chunks
from softfree.models.patch_embed import PatchEmbed
from softfree.models.pooling import Summary
from softfree.models.slide import SlideTransformer
from softfree.models.vit import VisionTransformer
from softfree.streaming.collectives import gather_all, group_of, max_over, sum_over
from softfree.streaming.shards import Shard, shard_bag, shard_image, split_rows
from softfree_runtime.core.errors import UserError

__all__ = ["SequenceParallel", "split_rows"]


class SequenceParallel(nn.Module):
    """A model whose samples are sharded over the ranks of a group, with the same parameters, logits and gradients.

    In training, stochastic depth is drawn on the group's first rank, as the model itself would draw it, and sent to the
    others; dropout (``proj_drop``) is drawn by each rank for its own tokens, so ranks need different seeds.
    Gradient checkpointing is the model's own (``model.set_grad_checkpointing()``), and does not repeat all-reduces.

    Args:
        model: A BagTransformer, or a VisionTransformer with ``stem="patch"``; the same weights on all ranks.
        group: A dimension of a DeviceMesh, ``mesh["sequence"]``, or a process group.

    Raises:
        UserError: A model whose samples cannot be sharded; the message says why.
    """

    def __init__(self, model: nn.Module, group: dist.ProcessGroup | DeviceMesh) -> None:
        super().__init__()
        check_model(model)
        self.model = cast(BagTransformer | VisionTransformer, model)
        self.group = group_of(group)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Classify samples of which this rank has a shard; all ranks of the group must call it together.

        Args:
            x: For bags, this rank's tiles (B, n, F + 3), with NaN as z in rows of padding; n may differ between ranks.
                For images, this rank's band of rows (B, channels, H_r, W), the first rank's at the top; H_r is a
                multiple of the patch except in the last band. See :func:`~softfree.streaming.shards.split_rows`. A
                shard may be empty (n or H_r of 0).
            mask: For images, boolean (B, N_r), True for the band's real patch tokens; None when all are real.

        Returns:
            Logits (B, num_classes), the same on all ranks.

        Raises:
            UserError: On all ranks, if the shard of one does not fit, or no rank has a tile of some bag.
        """
        shard = self._shard(x, mask)
        number = self._count(shard)
        tokens, blocks = shard.tokens, cast("list[Block]", list(self.model.blocks))
        for block, factors in zip(blocks, self._factors(blocks, tokens), strict=True):
            tokens = self._layer(block, shard._replace(tokens=tokens), factors)
        return self._classify(shard._replace(tokens=self.model.norm(tokens)), number)

    def _shard(self, x: Tensor, mask: Tensor | None) -> Shard:
        if isinstance(self.model, VisionTransformer):
            return shard_image(self.model, x, mask, self.group)
        if mask is not None:
            raise UserError("Got a mask for bags: their padding is marked by NaN as z.")
        return shard_bag(self.model, x, self.group)

    def _count(self, shard: Shard) -> Tensor:
        """Count the real tokens of all ranks without the class token, (B, 1), at least 1."""
        prefix = self.model.num_prefix_tokens
        mask = None if shard.mask is None else shard.mask[:, prefix:]
        count = sum_over(real_counts(shard.tokens[:, prefix:], mask).double(), self.group)
        if isinstance(self.model, BagTransformer) and not count.all():
            raise UserError("Got a bag without tiles on any rank: expected at least one; leave the sample out.")
        return count.clamp(min=1)

    def _factors(self, blocks: list[Block], tokens: Tensor) -> Tensor | list[tuple[None, None]]:
        """Return the factors of all branches, (depth, 2, B, 1, 1), as drawn by the first rank."""
        paths = [path for block in blocks for path in (block.drop_path1, block.drop_path2)]
        if not any(path.training and getattr(path, "drop_prob", 0) for path in paths):
            return [(None, None)] * len(blocks)
        ones = tokens.new_ones(len(tokens), 1, 1)
        factors = torch.stack([path(ones) for path in paths])
        dist.broadcast(factors, group=self.group, group_src=0)
        return factors.unflatten(0, (-1, 2))

    def _layer(self, block: Block, shard: Shard, factors: Tensor | tuple[None, None]) -> Tensor:
        """Map this rank's tokens (B, n, C) to those of the next layer: one all-reduce."""
        streaming, x = streaming_form(block.attn), shard.tokens
        checkpointing = self.model.blocks.grad_checkpointing and torch.is_grad_enabled()
        run: Callable[..., Any] = partial(checkpoint, use_reentrant=False) if checkpointing else _call
        # Normalized tokens are kept for the second half, or recomputed there.
        h = None if checkpointing else block.norm1(x)
        raw = sum_over(run(_gather, block, streaming, x, h, shard.mask), self.group)
        affine_map = streaming.affine_map(streaming.from_raw(raw, wide_type(x)))
        return cast(Tensor, run(_advance, block, streaming, x, h, shard.mask, affine_map, factors))

    def _classify(self, shard: Shard, number: Tensor) -> Tensor:
        """Pool the tokens of all ranks and return the logits (B, K); ``number`` counts the real ones, (B, 1)."""
        model = self.model
        values = model.pooled_tokens(shard.tokens)  # (B, n, C)
        mask = None if shard.mask is None else model.pooled_tokens(shard.mask.unsqueeze(2)).squeeze(2)
        if model.pool == "token":
            number = torch.ones_like(number)
        pooled = model.pooling.finish(self._summaries(values, mask, int(number.max())), number)
        return model.classify(model.fc_norm(pooled.to(values.dtype)))

    def _summaries(self, values: Tensor, mask: Tensor | None, max_tokens: int) -> list[Summary]:
        """Return the pooling's summaries of the tokens of all ranks, in float64."""
        pooling, group = self.model.pooling, self.group
        if pooling.additive:
            return [tuple(sum_over(tensor.double(), group) for tensor in pooling.summary(values, mask, max_tokens))]
        missing = max_over(values.shape[1], group, values.device) - values.shape[1]  # all summaries in one shape
        if missing:
            mask = values.new_ones(values.shape[:2], dtype=torch.bool) if mask is None else mask
            values, mask = F.pad(values, (0, 0, 0, missing)), F.pad(mask, (0, missing))
        tensors = [gather_all(tensor.double(), group) for tensor in pooling.summary(values, mask, max_tokens)]
        return list(zip(*tensors, strict=True))


def check_model(model: nn.Module) -> None:
    """Refuse a model whose tokens cannot be sharded over ranks.

    Raises:
        UserError: The reason.
    """
    if not isinstance(model, BagTransformer | VisionTransformer) or isinstance(
        model, CaseTransformer | SlideTransformer
    ):
        raise UserError(
            f"{type(model).__name__} cannot be sharded over processes: expected BagTransformer or VisionTransformer."
        )
    if isinstance(model, VisionTransformer) and not isinstance(model.patch_embed, PatchEmbed):
        raise UserError(
            "Got a convolutional stem, whose tokens need pixels of adjacent bands: create the model with "
            "stem='patch' to shard its tokens over processes."
        )
    for block in cast("list[Block]", list(model.blocks)):
        streaming_form(block.attn)
        if block.pos_conv is not None:
            raise UserError(
                "Got pos_conv=True, whose tokens need their neighbors: create the model without it to shard its tokens "
                "over processes."
            )


def _call(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


def _gather(block: Block, streaming: StreamingAttention, x: Tensor, h: Tensor | None, mask: Tensor | None) -> Tensor:
    """Compute the attention's sums over this rank's tokens."""
    return streaming.raw(streaming.gather(block.norm1(x) if h is None else h, mask))


def _advance(
    block: Block,
    streaming: StreamingAttention,
    x: Tensor,
    h: Tensor | None,
    mask: Tensor | None,
    affine_map: Any,
    factors: tuple[Tensor | None, Tensor | None],
) -> Tensor:
    """Compute the rest of a block, token by token."""
    y = block.attn.proj_drop(streaming.apply(block.norm1(x) if h is None else h, affine_map, mask))
    x = x + _scaled(block.ls1(y), factors[0])
    y = apply_in_chunks(lambda chunk: block.ls2(block.mlp(block.norm2(chunk))), x, block.hidden, block.mlp_chunk)
    return x + _scaled(y, factors[1])


def _scaled(y: Tensor, factor: Tensor | None) -> Tensor:
    return y if factor is None else y * factor.to(y.dtype)
