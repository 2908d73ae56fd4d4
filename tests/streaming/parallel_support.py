"""What the checks of sequence parallelism share: models, samples and their parts, comparisons over ranks."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from softfree.models import BagTransformer, VisionTransformer, collate_bags
from softfree.streaming.parallel import SequenceParallel
from softfree_runtime.core.errors import UserError

WORLD, FEATURES, CLASSES = 4, 10, 3
SMALL: dict[str, Any] = {"num_classes": CLASSES, "embed_dim": 16, "depth": 2, "num_heads": 2}
TARGETS = torch.tensor([0, 2, 1, 1])
Group = DeviceMesh | dist.ProcessGroup


def lively(kind: type[nn.Module], *arguments: Any, **options: Any) -> Any:
    """Make a model whose every parameter matters, the same on all ranks and at each call."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = kind(*arguments, **{**SMALL, **options}).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def bag_model(attention: str = "seqnorm", **options: Any) -> BagTransformer:
    return lively(BagTransformer, FEATURES, attention=attention, **options)


def image_model(**options: Any) -> VisionTransformer:
    return lively(VisionTransformer, 16, 4, **options)


def bags() -> Tensor:
    """Four bags of 9 to 41 tiles, padded to (4, 41, F + 3)."""
    generator = torch.Generator().manual_seed(5)
    return collate_bags([1 + 2 * torch.randn(n, FEATURES + 3, generator=generator).abs() for n in (41, 9, 30, 17)])


def images(height: int = 27, width: int = 21) -> Tensor:
    return torch.rand(4, 3, height, width, generator=torch.Generator().manual_seed(6)) + 0.5


def my_tiles(bags: Tensor, group: Group) -> Tensor:
    """Cut unequally; of four ranks the second has none."""
    ranks, rank = sizes_of(group)
    cuts = {2: [15], 4: [20, 20, 23]}[ranks]
    return bags.tensor_split(cuts, dim=1)[rank]


def sizes_of(group: Group) -> tuple[int, int]:
    group = group.get_group() if isinstance(group, DeviceMesh) else group
    return dist.get_world_size(group), dist.get_rank(group)


def loss_of(logits: Tensor, targets: Tensor = TARGETS) -> Tensor:
    return nn.functional.cross_entropy(logits, targets)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}


def mean_over(group: Group, grads: dict[str, Tensor]) -> dict[str, Tensor]:
    """Average as DDP does."""
    results = {}
    for name, grad in grads.items():
        results[name] = grad.clone()
        dist.all_reduce(results[name], group=group.get_group() if isinstance(group, DeviceMesh) else group)
        results[name] /= sizes_of(group)[0]
    return results


def close(got: dict[str, Tensor], want: dict[str, Tensor], tolerance: float) -> None:
    """Compare by the largest element of each tensor; one that should be zero, by the largest of all."""
    assert got.keys() == want.keys(), got.keys() ^ want.keys()
    got, want = ({name: tensor.detach() for name, tensor in each.items()} for each in (got, want))
    floor = 0.05 * max(float(tensor.abs().max()) for tensor in want.values())
    for name, tensor in want.items():
        error, size = float((got[name] - tensor).abs().max()), max(floor, float(tensor.abs().max()))
        assert error <= tolerance * size, f"{name}: off by {error / size:.1e} of {size:.1e}"


def same_everywhere(tensor: Tensor, group: Group) -> None:
    heard = [torch.empty_like(tensor) for _ in range(sizes_of(group)[0])]
    dist.all_gather(heard, tensor.detach(), group=group.get_group() if isinstance(group, DeviceMesh) else group)
    assert all(torch.equal(heard[0], other) for other in heard), "the ranks' results differ"


def against_one(model: nn.Module, whole: Any, part: Any, group: Group, tolerance: float, targets: Tensor) -> None:
    """Hold logits and mean gradients of parts, a tuple of arguments, against those of the whole in one process."""
    one = copy.deepcopy(model)
    want = one(*whole)
    loss_of(want, targets).backward()
    parallel = SequenceParallel(model, group)
    got = parallel(*part)
    same_everywhere(got, group)
    loss_of(got, targets).backward()
    close({"logits": got}, {"logits": want}, tolerance)
    close(mean_over(group, gradients(model)), gradients(one), tolerance)
    assert len(gradients(model)) == len(list(model.parameters())), "DDP wants a gradient of every parameter"


def replica_of(mesh: DeviceMesh) -> slice:
    return slice(0, 2) if mesh["data"].get_local_rank() == 0 else slice(2, 4)


def two_steps(run: nn.Module, model: nn.Module, x: Tensor, targets: Tensor) -> None:
    """Take two SGD steps, and leave the gradients of the second."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        optimizer.zero_grad()
        loss_of(run(x), targets).backward()
        optimizer.step()


@contextmanager
def counted() -> Iterator[list[int]]:
    """Count the bytes that this rank gives to each collective operation."""
    sent: list[int] = []

    def counting(real: Callable[..., Any], position: int) -> Callable[..., Any]:
        def collective(*arguments: Any, **options: Any) -> Any:
            sent.append(arguments[position].nbytes)
            return real(*arguments, **options)

        return collective

    with pytest.MonkeyPatch.context() as patch:
        for name, position in (("all_reduce", 0), ("broadcast", 0), ("all_gather_into_tensor", 1)):
            patch.setattr(dist, name, counting(getattr(dist, name), position))
        yield sent


def refused(call: Callable[[], Any], words: str) -> None:
    said = "nothing"
    try:
        call()
    except UserError as error:
        said = str(error)
    assert words in said, f"{said!r} does not say {words!r}"
    assert "\n" not in said
