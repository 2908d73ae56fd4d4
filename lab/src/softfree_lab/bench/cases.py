"""The cases of the speed benchmarks: one module at one size, ready to run and checked against float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from softfree.attention import SeqNormAttention, create_attention
from softfree.attention.soft import SoftAttention
from softfree.core.precision import DTYPES, products_in
from softfree.models import Block, Encoder, create_model
from softfree.models.registry import IMAGE_MODELS

Pass = Literal["forward", "training"]
FLOOR = "products"  # the bare matrix products, a lower bound of the time
INVERSE = "soft inverse"  # SOFT's pseudo-inverse by itself, to compare with all of "soft"
WEIGHTED = "weighted"  # after SeqNorm's order: with importance of the tokens
TRITON = "triton"  # after "seqnorm gram": its passes over the tokens by the kernels on trial
# Largest max|y - reference| / max|reference| for which a speed is reported.
TOLERANCES = {"fp32": 1e-4, "bf16": 5e-2, "fp16": 1e-2}
CHECKED_TOKENS = 1024  # softmax in float64 is slow
CHECKED_SIDE = 224


@dataclass(frozen=True)
class BenchCase:
    """One case of a benchmark.

    Attributes:
        kind: "attention" (one sublayer on tokens, or a whole encoder of ``depth``) or "model" (images to logits).
        method: An attention with its order ("seqnorm gram", "seqnorm gram weighted"), a model's name with its order, a
            timm name, or "products".
        size: Tokens N, or the side of the image in pixels.
        precision: "fp32", "bf16" or "fp16"; type of weights and input.
        passes: "forward" without gradients, or "training": forward and backward, for models with an AdamW step.
        batch: Number of samples.
        width: Features C of an attention.
        heads: Number of heads H of an attention.
        depth: Blocks of an encoder with this attention; 0 for the sublayer alone.
        compiled: Use ``torch.compile``.
        autocast: Keep weights and input in float32 and calculate products in ``precision``, as training does.
        device: "cpu" or "cuda".
        options: Keyword arguments of a model.
    """

    kind: Literal["attention", "model"]
    method: str
    size: int
    precision: str = "fp32"
    passes: Pass = "forward"
    batch: int = 1
    width: int = 384
    heads: int = 6
    depth: int = 0
    compiled: bool = False
    autocast: bool = False
    device: str = "cpu"
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def type(self) -> torch.dtype:
        """Type of weights and input."""
        return torch.float32 if self.autocast else DTYPES[self.precision]


def prepare(case: BenchCase) -> Callable[[], Any]:
    """Create module and input, and return a function that runs the case once."""
    torch.manual_seed(0)
    if case.method == FLOOR:
        return _products(case)
    if case.method == INVERSE:
        return _inverse(case)
    module = _module(case).to(case.device, case.type)
    run = _run(case, module, case.size)
    return _step(case, module, run, _input(case, case.size).to(case.device, case.type))


def numerical_error(case: BenchCase) -> float:
    """Compare with the same module in float64, SeqNorm in its literal order, on a small input.

    Returns:
        max|y - reference| / max|reference|; 0 for the bare products and the inverse by itself.
    """
    if case.method in (FLOOR, INVERSE):
        return 0.0
    torch.manual_seed(0)
    small = replace(case, size=min(case.size, CHECKED_TOKENS if case.kind == "attention" else CHECKED_SIDE), batch=1)
    module = _module(small).to(case.device, case.type).eval()
    exact = copy.deepcopy(module).double().cpu()
    for submodule in exact.modules():
        if isinstance(submodule, SeqNormAttention):
            submodule.order = "literal"
    x = _input(small, small.size).to(case.type)
    with torch.no_grad():
        want = _run(replace(small, compiled=False), exact, small.size)(x.double())
        got = _run(small, module, small.size)(x.to(case.device)).double().cpu()
    return ((got - want).abs().max() / want.abs().max()).item()


def _run(case: BenchCase, module: nn.Module, size: int) -> Callable[[Tensor], Tensor]:
    """Return the callable for the input; tokens form a square grid if their number is a square."""
    bare: Callable[..., Tensor] = torch.compile(module) if case.compiled else module

    def run(*arguments: Any, **keywords: Any) -> Tensor:
        if not case.autocast:
            return bare(*arguments, **keywords)
        with products_in(case.precision, case.device):
            return bare(*arguments, **keywords)

    side = math.isqrt(size)
    if case.kind == "model" or side * side != size:
        return run
    return lambda x: run(x, grid=(side, side))


def attention_of(method: str, width: int, heads: int) -> nn.Module:
    """Create the attention that a case's ``method`` names."""
    name, options, parts = _parsed(method)
    attention = create_attention(name, width, heads, **options)
    if TRITON not in parts:
        return attention
    from softfree_lab.bench.gpu.triton_moments import TritonGramOrder  # Triton exists for some systems only

    assert isinstance(attention, SeqNormAttention)
    return TritonGramOrder(attention)


def _parsed(method: str) -> tuple[str, dict[str, Any], list[str]]:
    """Split a method into its name, the attention's options, and all that follows the name."""
    name, *parts = method.split(" ")
    order = [part for part in parts if part not in (WEIGHTED, TRITON)]
    options: dict[str, Any] = {"order": order[0]} if order else {}
    return name, options | ({"importance": 4.0} if WEIGHTED in parts else {}), parts


def _module(case: BenchCase) -> nn.Module:
    name, options, _ = _parsed(case.method)
    if case.kind == "attention" and case.depth:
        return _OnGrid(Encoder.build(case.depth, case.width, case.heads, attention=name, attention_options=options))
    if case.kind == "attention":
        return attention_of(case.method, case.width, case.heads)
    model_options = dict(case.options)
    if name in IMAGE_MODELS:
        checkpointing = model_options.pop("grad_checkpointing", False)
        model = create_model(name, img_size=case.size, num_classes=2, attention_options=options, **model_options)
        model.set_grad_checkpointing(checkpointing)
        return model
    import timm

    layout = torch.channels_last if model_options.get("channels_last") else torch.contiguous_format
    try:
        model = timm.create_model(name, img_size=case.size, num_classes=2)
    except TypeError:  # convolutional networks take any size
        model = timm.create_model(name, num_classes=2)
    return model.to(memory_format=layout)


class _OnGrid(nn.Module):
    """An encoder with the signature of an attention."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        return self.encoder(x, None, grid)


def _input(case: BenchCase, size: int) -> Tensor:
    if case.kind == "attention":
        return torch.randn(case.batch, size, case.width) + torch.randn(case.width)
    return torch.randn(case.batch, 3, size, size)


def _step(case: BenchCase, module: nn.Module, run: Callable[[Tensor], Tensor], x: Tensor) -> Callable[[], Any]:
    if case.passes == "forward":
        module.eval()

        def forward() -> None:
            with torch.no_grad():
                run(x)

        return forward
    module.train()
    if case.kind == "attention":
        grad = torch.randn_like(x)

        def both() -> None:
            module.zero_grad()
            run(x.detach().requires_grad_()).backward(grad)

        return both
    optimizer = torch.optim.AdamW(module.parameters())
    target = torch.zeros(case.batch, dtype=torch.long, device=case.device)

    def train() -> None:
        optimizer.zero_grad()
        F.cross_entropy(run(x).float(), target).backward()
        optimizer.step()

    return train


def _products(case: BenchCase) -> Callable[[], None]:
    """Run the lower bound: SeqNorm's two products per sublayer, five with backward; in a model those of all layers."""
    backward = case.passes == "training"
    if case.kind == "attention":
        shapes = [*_encoder_products(case.size, case.width, case.depth, 4 * case.width, backward)] * case.batch
    else:
        shapes = [*_model_products(case, backward)] * case.batch
    tensors: dict[tuple[int, ...], Tensor] = {}

    def tensor(*shape: int) -> Tensor:
        if shape not in tensors:
            tensors[shape] = torch.randn(*shape).to(case.device, case.type)
        return tensors[shape]

    # A long inner side marks a sum over the tokens, as in X^T Y.
    operands = [(tensor(k, n).t() if k > n else tensor(n, k), tensor(k, m)) for n, m, k in shapes]
    outs = {(n, m): torch.empty(n, m, device=case.device, dtype=case.type) for n, m, _ in shapes}

    def run() -> None:
        for a, b in operands:
            torch.mm(a, b, out=outs[a.shape[0], b.shape[1]])

    return run


def _inverse(case: BenchCase) -> Callable[[], Any]:
    """Invert the matrices that :class:`SoftAttention` inverts for this input; with training, also backward."""
    soft = SoftAttention(case.width, case.heads).to(case.device, case.type)
    with torch.no_grad():
        q = soft.split_heads(soft.qkv(_input(case, case.size).to(case.device, case.type))[..., : case.width])
        side = math.isqrt(case.size)
        between = soft.kernels(q, None, (side, side) if side * side == case.size else None).between
    grad = torch.randn_like(between)

    def run() -> None:
        if case.passes == "forward":
            soft.invert(between)
        else:
            soft.invert(between.detach().requires_grad_()).value.backward(grad)

    return run


def _attention_products(tokens: int, width: int, backward: bool) -> Iterable[tuple[int, int, int]]:
    """Yield the sizes (n, m, k) of products n x k by k x m: X^T X and X A; then G A^T, X^T G and X S'."""
    yield width, width, tokens
    yield tokens, width, width
    if backward:
        yield tokens, width, width
        yield width, width, tokens
        yield tokens, width, width


def _model_products(case: BenchCase, backward: bool) -> Iterable[tuple[int, int, int]]:
    """Yield the patch projection, and for each layer the attention's products and the MLP's two (six with backward)."""
    name = dict(case.options)["floor_of"]
    model = create_model(name, img_size=CHECKED_SIDE, num_classes=2)
    width, patch, depth = model.embed_dim, model.patch_size, len(model.blocks)
    hidden = next(block.hidden for block in model.blocks if isinstance(block, Block))
    tokens = (-(-case.size // patch)) ** 2
    yield tokens, width, 3 * patch * patch
    if backward:
        yield 3 * patch * patch, width, tokens
    yield from _encoder_products(tokens, width, depth, hidden, backward)


def _encoder_products(
    tokens: int, width: int, depth: int, hidden: int, backward: bool
) -> Iterable[tuple[int, int, int]]:
    """Yield the attention's and the MLP's two (six with backward) of each block; of one attention for depth 0."""
    if not depth:
        yield from _attention_products(tokens, width, backward)
    for _ in range(depth):
        yield from _attention_products(tokens, width, backward)
        yield tokens, hidden, width
        yield tokens, width, hidden
        if backward:
            yield tokens, hidden, width
            yield tokens, width, hidden
            yield hidden, width, tokens
            yield width, hidden, tokens
