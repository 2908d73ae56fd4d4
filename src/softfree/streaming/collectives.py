"""Communication between the processes that share one sample: sums with a gradient, and agreement on shapes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh

from softfree_runtime.core.errors import UserError


def group_of(group: dist.ProcessGroup | DeviceMesh) -> dist.ProcessGroup:
    """Return the process group of a mesh dimension; a group is returned unchanged.

    Raises:
        UserError: A mesh of several dimensions, or another type.
    """
    if isinstance(group, DeviceMesh):
        if group.ndim != 1:
            raise UserError(
                f"Got a mesh of {group.ndim} dimensions {group.mesh_dim_names}: expected the one that samples are "
                'sharded over, such as mesh["sequence"].'
            )
        return group.get_group()
    if not isinstance(group, dist.ProcessGroup):
        raise UserError(
            f"Got {type(group).__name__} for the processes of a sample: expected a dimension of a DeviceMesh, or a "
            "process group that this process belongs to."
        )
    return group


def sum_over(tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
    """Sum a tensor over the ranks; all get the same result, bit for bit.

    Each rank's result depends on every rank's tensor, so backward sums the gradients of all ranks' results: a rank gets
    the derivative of the sum of all ranks' losses.
    """
    result: Tensor = _Sum.apply(tensor, group)
    return result


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return sum_over(grad, ctx.group), None


def gather_all(tensor: Tensor, group: dist.ProcessGroup) -> list[Tensor]:
    """Gather the tensors of all ranks, of equal shape; backward is that of :func:`sum_over`."""
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    empty = torch.zeros_like(tensor)
    return list(sum_over(torch.stack([tensor if other == rank else empty for other in range(ranks)]), group))


def max_over(number: int, group: dist.ProcessGroup, device: torch.device) -> int:
    """Return the maximum over the ranks."""
    largest = torch.tensor(number, device=device)
    dist.all_reduce(largest, dist.ReduceOp.MAX, group=group)
    return int(largest)


def exchange_shapes(
    reason: str, shape: Sequence[int], group: dist.ProcessGroup, device: torch.device
) -> list[list[int]]:
    """Exchange the shapes (4 numbers) of the shards of all ranks.

    Args:
        reason: Why this rank's shard cannot be used; empty if it can. If not, all ranks fail, and none waits forever.
        shape: Shape of the shard; the first number, the samples, must be the same on all ranks.
        group: The ranks.
        device: Device of the group's tensors.

    Returns:
        The shapes, by rank.

    Raises:
        UserError: On all ranks, if a shard cannot be used or the numbers of samples differ.
    """
    message = torch.tensor([bool(reason), *shape], device=device)
    gathered = message.new_empty(dist.get_world_size(group) * len(message))
    dist.all_gather_into_tensor(gathered, message, group=group)
    ranks = gathered.view(-1, len(message)).tolist()
    if reason:
        raise UserError(reason)
    failing = [rank for rank, (has_reason, *_) in enumerate(ranks) if has_reason]
    if failing:
        raise UserError(f"Rank {failing[0]} of this sample's processes cannot use its shard; see its own error.")
    shapes = [shape for _, *shape in ranks]
    if len({shape[0] for shape in shapes}) > 1:
        raise UserError(
            f"Got batches of {[shape[0] for shape in shapes]} samples by rank: expected shards of the same samples."
        )
    return shapes
