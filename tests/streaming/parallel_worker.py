"""One of four processes that hold every check of sequence parallelism against one process; see test_parallel.py."""

from __future__ import annotations

import copy
import json
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from tests.streaming.parallel_support import (
    SMALL,
    TARGETS,
    WORLD,
    Group,
    against_one,
    bag_model,
    bags,
    close,
    counted,
    gradients,
    image_model,
    images,
    loss_of,
    mean_over,
    my_tiles,
    refused,
    replica_of,
    same_everywhere,
    sizes_of,
    two_steps,
)
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from softfree.attention.streaming import streaming_form
from softfree.models import VolumeTransformer
from softfree.streaming.parallel import SequenceParallel, split_rows

CHECKS: dict[str, Callable[[DeviceMesh], None]] = {}


def check(function: Callable[[DeviceMesh], None]) -> Callable[[DeviceMesh], None]:
    CHECKS[function.__name__] = function
    return function


@check
def bags_over_four_and_two(mesh: DeviceMesh) -> None:
    four, two = dist.group.WORLD, mesh["sequence"]
    for attention in ("seqnorm", "sima", "galerkin"):
        for group, dtype, tolerance in ((two, torch.float32, 1e-5), (four, torch.float64, 1e-10)):
            model, whole = bag_model(attention).to(dtype), bags().to(dtype)
            against_one(model, (whole,), (my_tiles(whole, group),), group, tolerance, TARGETS)


@check
def bags_with_class_token(mesh: DeviceMesh) -> None:
    for pool in ("token", "avg"):
        model, whole = bag_model(pool=pool, class_token=True).double(), bags().double()
        against_one(model, (whole,), (my_tiles(whole, dist.group.WORLD),), dist.group.WORLD, 1e-10, TARGETS)


@check
def bags_without_padding_or_places(mesh: DeviceMesh) -> None:
    model, whole = bag_model("sima", pos="none", layer_scale=0.5, mlp_chunk=8), bags()[:1]
    part = whole.tensor_split(2, dim=1)[sizes_of(mesh["sequence"])[1]]
    against_one(model, (whole,), (part,), mesh["sequence"], 1e-5, TARGETS[:1])


@check
def importance_of_tokens(mesh: DeviceMesh) -> None:
    """One rank has no tiles, others have padding."""
    model, whole = bag_model(attention_options={"importance": 4.0}).double(), bags().double()
    group = dist.group.WORLD
    against_one(model, (whole,), (my_tiles(whole, group),), group, 1e-10, TARGETS)


@check
def heads(mesh: DeviceMesh) -> None:
    """Of bags of 9 to 41 tiles in unequal parts, one of them empty; of images by bands."""
    four, two = dist.group.WORLD, mesh["sequence"]
    for pool in ("topk", "mean_topk"):
        options = {"pool": pool, "class_token": pool == "topk"}
        options |= {"pool_options": {"one_in": 3}} if "topk" in pool else {}
        model, whole = bag_model(**options).double(), bags().double()
        against_one(model, (whole,), (my_tiles(whole, four),), four, 1e-10, TARGETS)
        model, whole = image_model(**options).double(), images().double()
        against_one(model, (whole,), (split_rows(whole, 4, two),), two, 1e-6, TARGETS)


@check
def images_by_bands(mesh: DeviceMesh) -> None:
    """Positions resized (27 x 21 pixels) and not (16 x 16); 2 token rows for 4 ranks; gray in a color model."""
    four, two = dist.group.WORLD, mesh["sequence"]
    cases: list[tuple[dict[str, Any], Tensor, Group]] = [
        ({}, images(), four),
        ({"class_token": True}, images(), two),
        ({"pos": "sincos", "attention": "galerkin"}, images(), four),
        ({"pos": "none"}, images()[:, :1], two),
        ({"pool": "token"}, images(16, 16), four),
        ({"class_token": True, "attention": "sima"}, images(7, 40), four),
    ]
    for options, whole, group in cases:
        against_one(image_model(**options), (whole,), (split_rows(whole, 4, group),), group, 1e-5, TARGETS)


@check
def images_with_masks(mesh: DeviceMesh) -> None:
    whole, group = images(), dist.group.WORLD
    grid = torch.rand(4, 7, 6, generator=torch.Generator().manual_seed(8)) < 0.6
    grid[1, :5] = False  # some ranks have no real token of it
    band = split_rows(grid.float(), 1, group).bool().flatten(1)
    part = split_rows(whole, 4, group)
    for options in ({}, {"pool": "token"}):
        model = image_model(**options).double()
        mask = grid.flatten(1)
        against_one(model, (whole.double(), mask), (part.double(), band), group, 1e-6, TARGETS)


@check
def bfloat16(mesh: DeviceMesh) -> None:
    """No further from float32 than the one process under autocast, but for the luck of rounding."""
    group = mesh["sequence"]
    for attention in ("seqnorm", "sima", "galerkin"):
        exact, one, model, whole = bag_model(attention), bag_model(attention), bag_model(attention), bags()
        loss_of(exact(whole)).backward()
        with torch.autocast("cpu", torch.bfloat16):
            loss_of(one(whole)).backward()
            logits = SequenceParallel(model, group)(my_tiles(whole, group))
            loss_of(logits).backward()
        same_everywhere(logits, group)
        assert logits.dtype == torch.float32, "a ranking has no ties by rounding"
        got, usual, want = (mean_over(group, gradients(each)) for each in (model, one, exact))
        size = max(float(grad.abs().max()) for grad in want.values())
        for name in want:
            error, normal = ((each[name] - want[name]).norm() for each in (got, usual))
            assert error <= 2 * normal + 1e-2 * max(want[name].norm(), 0.01 * size), f"{name}: {error} for {normal}"


@check
def data_times_sequence(mesh: DeviceMesh) -> None:
    """DDP over all four, two samples a replica: gradients, and weights after two steps."""
    replica, group = replica_of(mesh), mesh["sequence"]
    even = images(16, 16)
    cases: list[tuple[nn.Module, Tensor, Tensor]] = [
        (image_model(), even, split_rows(even[replica], 4, group)),
        (
            image_model(pool="token", attention="galerkin", pos="none"),
            even[..., :4, :],
            split_rows(even[replica, :, :4], 4, group),
        ),
        (bag_model(), bags(), my_tiles(bags()[replica], group)),
    ]
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-10)):
        for start, batch, part in cases if dtype == torch.float64 else cases[:1]:
            one, model = (copy.deepcopy(start).to(dtype) for _ in range(2))
            # Small buckets: DDP sums many, while the ranks' own sums are under way.
            parallel = DistributedDataParallel(SequenceParallel(model, group), bucket_cap_mb=0.005)
            two_steps(one, one, batch.to(dtype), TARGETS)
            two_steps(parallel, model, part.to(dtype), TARGETS[replica])
            close(gradients(model), gradients(one), tolerance)
            close(dict(model.named_parameters()), dict(one.named_parameters()), tolerance)


@check
def data_times_sequence_in_one_group(mesh: DeviceMesh) -> None:
    """DDP and the samples' sums in one process group, where their order must be the same on all ranks."""
    one, model, whole = bag_model(class_token=True).double(), bag_model(class_token=True).double(), bags().double()
    parallel = DistributedDataParallel(SequenceParallel(model, dist.group.WORLD), bucket_cap_mb=0.005)
    two_steps(one, one, whole, TARGETS)
    two_steps(parallel, model, my_tiles(whole, dist.group.WORLD), TARGETS)
    close(gradients(model), gradients(one), 1e-10)


@check
def sharded_weights(mesh: DeviceMesh) -> None:
    """FSDP2 over all four, data x sequence."""
    one, model, replica = bag_model().double(), bag_model().double(), replica_of(mesh)
    parallel = fully_shard(SequenceParallel(model, mesh["sequence"]), mesh=init_device_mesh("cpu", (WORLD,)))
    two_steps(one, one, bags().double(), TARGETS)
    two_steps(parallel, model, my_tiles(bags()[replica].double(), mesh["sequence"]), TARGETS[replica])
    grads = gradients(model)
    assert any(grad.to_local().numel() < grad.numel() for grad in grads.values())
    close({name: grad.full_tensor() for name, grad in grads.items()}, gradients(one), 1e-10)
    weights = {name: weight.full_tensor() for name, weight in model.named_parameters()}
    close(weights, dict(one.named_parameters()), 1e-10)


@check
def stochastic_depth(mesh: DeviceMesh) -> None:
    """The first rank's generator decides, as it would in one process; the others' are elsewhere."""
    for group in (dist.group.WORLD, mesh["sequence"]):
        one, whole, seen = bag_model(drop_path_rate=0.6, depth=4).train(), bags(), set()
        parallel = SequenceParallel(copy.deepcopy(one), group).train()
        for seed in range(4):
            torch.manual_seed(seed)
            want = one(whole)
            torch.manual_seed(seed if sizes_of(group)[1] == 0 else 100 + seed + dist.get_rank())
            got = parallel(my_tiles(whole, group))
            same_everywhere(got, group)
            close({"logits": got}, {"logits": want}, 1e-5)
            seen.add(tuple(got.flatten().tolist()))
        assert len(seen) == 4, "nothing was dropped"


@check
def dropout(mesh: DeviceMesh) -> None:
    """Each rank drops of its own tokens: the logits still agree."""
    model = bag_model(proj_drop=0.5).train()
    first, second = (SequenceParallel(model, mesh["sequence"])(my_tiles(bags(), mesh["sequence"])) for _ in range(2))
    same_everywhere(first, mesh["sequence"])
    assert not torch.equal(first, second)


@check
def bytes_on_the_wire(mesh: DeviceMesh) -> None:
    """(C + 1) C / 2 + C + 1 numbers of 8 bytes a layer and sample, C for the pooling, and 1 for the
    count; before them 5 numbers a rank of what each has got. Whatever N is.
    """
    width, depth, batch = SMALL["embed_dim"], SMALL["depth"], 4
    sizes = {
        "seqnorm": (width + 1) * width // 2 + width + 1,
        "sima": 1 + 2 * width + width * 8,
        "galerkin": 1 + width * 8,
    }
    for attention, saves, repeats in (
        ("seqnorm", False, 1),
        ("seqnorm", True, 9),
        ("sima", False, 9),
        ("galerkin", False, 1),
    ):
        model = bag_model(attention)
        model.set_grad_checkpointing(saves)
        assert streaming_form(model.blocks[0].attn).raw_size == sizes[attention]
        whole = bags().repeat(1, repeats, 1)
        with counted() as forward:
            loss = loss_of(SequenceParallel(model, dist.group.WORLD)(my_tiles(whole, dist.group.WORLD)))
        with counted() as backward:
            loss.backward()
        layers = [batch * sizes[attention] * 8] * depth
        assert forward == [5 * 8, batch * 8, *layers, batch * width * 8], forward
        assert backward == [batch * width * 8, *layers], backward


@check
def checkpointing(mesh: DeviceMesh) -> None:
    for drop_path_rate in (0.0, 0.6):
        one = bag_model(drop_path_rate=drop_path_rate, class_token=True).double().train()
        other = copy.deepcopy(one)
        other.set_grad_checkpointing()
        for model in (one, other):
            torch.manual_seed(0)
            loss_of(SequenceParallel(model, mesh["sequence"])(my_tiles(bags().double(), mesh["sequence"]))).backward()
        close(gradients(other), gradients(one), 1e-10)


@check
def without_gradients(mesh: DeviceMesh) -> None:
    model, part = bag_model(), my_tiles(bags(), mesh["sequence"])
    parallel, want = SequenceParallel(model, mesh["sequence"]), model(bags())
    for mode in (torch.no_grad(), torch.inference_mode(), nullcontext()):
        with mode:
            close({"logits": parallel(part)}, {"logits": want}, 1e-5)


@check
def models_that_cannot(mesh: DeviceMesh) -> None:
    cases: list[tuple[Callable[[], Any], str]] = [
        (lambda: SequenceParallel(bag_model("softmax"), mesh["sequence"]), "SoftmaxAttention has no streaming form"),
        (lambda: SequenceParallel(bag_model("soft"), mesh["sequence"]), "SoftAttention has no streaming form"),
        (lambda: SequenceParallel(image_model(stem="conv"), mesh["sequence"]), "stem='patch'"),
        (lambda: SequenceParallel(image_model(stem="pool"), mesh["sequence"]), "stem='patch'"),
        (lambda: SequenceParallel(image_model(pos_conv=True), mesh["sequence"]), "pos_conv=True"),
        (lambda: SequenceParallel(VolumeTransformer(16, **SMALL), mesh["sequence"]), "VolumeTransformer cannot be"),
        (lambda: SequenceParallel(bag_model(), mesh), "2 dimensions ('data', 'sequence')"),
        (lambda: SequenceParallel(bag_model(), None), "Got NoneType"),
    ]
    for call, words in cases:
        refused(call, words)


@check
def parts_that_do_not_fit(mesh: DeviceMesh) -> None:
    """Every rank raises, whoever is to blame, so that none waits for ever; and the next call works."""
    rank, group = dist.get_rank(), dist.group.WORLD
    bag, image = SequenceParallel(bag_model(), group), SequenceParallel(image_model(), group)
    part, band = my_tiles(bags(), group), split_rows(images(), 4, group)
    last = rank == WORLD - 1
    nothing = torch.full_like(part[:1], torch.nan)
    masked = torch.ones(4, 5, dtype=torch.bool)
    refused(lambda: bag(part[:2] if last else part), "[4, 4, 4, 2] samples by rank")
    refused(lambda: bag(part[..., 1:] if last else part), "expected (batch, tiles" if last else "Rank 3 of this sample")
    refused(lambda: bag(torch.cat([part[1:], nothing])), "a bag without tiles on any rank")
    refused(lambda: bag(part, masked), "Got a mask for bags")
    refused(lambda: image(band[0] if last else band), "Got a band of shape" if last else "Rank 3 of this sample")
    refused(lambda: image(band, masked if last else None), "Got a mask (4, 5)" if last else "Rank 3 of this sample")
    refused(lambda: image(band[..., 1:] if last else band), "expected rows of the same images")
    refused(lambda: image(band[..., :0, :]), "expected rows of the same images")
    refused(lambda: image(band[..., 1:, :]), "expected multiples of the patch of 4")
    close({"logits": image(band)}, {"logits": image.model(images())}, 1e-5)


def run(rank: int, folder: Path) -> None:
    """Write FOLDER/RANK.json: for each check an empty text, or what went wrong."""
    dist.init_process_group(
        "gloo", f"file://{folder}/store", timeout=timedelta(seconds=60), rank=rank, world_size=WORLD
    )
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    results = {}
    for name, check in CHECKS.items():
        try:
            check(mesh)
            results[name] = ""
        except Exception:
            results[name] = traceback.format_exc()
        (folder / f"{rank}.json").write_text(json.dumps(results))
        dist.barrier()
    dist.destroy_process_group()
