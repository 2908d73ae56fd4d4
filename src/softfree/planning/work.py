"""The workload to plan: a model, its images and how it runs; its parameters and multiply-adds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from softfree.attention import Attention, attention_class
from softfree.attention.cost import AttentionCost, Shape
from softfree.core.options import PoolName, Precision
from softfree.models.registry import IMAGE_MODELS, PYRAMIDS, SIZES
from softfree.planning.head import HeadCost, head_cost
from softfree.planning.stem import StemCost, stem_cost
from softfree.planning.tracing import traced_cost
from softfree_runtime.core.errors import UserError, unknown_name


@dataclass(frozen=True, kw_only=True)
class Work:
    """A workload; the fields are those of :class:`~softfree.planning.options.PlanOptions`.

    Raises:
        UserError: An unknown name or an impossible number.
    """

    model: str = "seqnorm_vit_tiny_patch16"
    size: int = 512
    channels: int = 3
    classes: int = 2
    batch_size: int = 1
    precision: Precision = "fp32"
    pure: bool = False
    inference: bool = False
    grad_checkpointing: bool = False
    mlp_chunk: int | None = None
    stem: str = "conv"
    pool: str = "avg"
    gpu: bool = False
    # Of a model with other dimensions than its name implies.
    width: int | None = None
    depth: int | None = None
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.model in PYRAMIDS:
            raise UserError(
                f"There is no formula for the pyramid {self.model}: train an epoch and read logs/cost.json of the run."
            )
        if self.model not in IMAGE_MODELS:
            raise unknown_name("model", self.model, IMAGE_MODELS)
        for name, got, known in (
            ("precision", self.precision, get_args(Precision)),
            ("stem", self.stem, ("patch", "conv", "pool")),
            ("pool", self.pool, get_args(PoolName)),
        ):
            if got not in known:
                raise unknown_name(name, got, known)
        for name in ("size", "channels", "classes", "batch_size", "mlp_chunk"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"Got {name} {value}: expected a positive integer.")

    @property
    def attention(self) -> AttentionCost:
        """The cost of the attention in one block."""
        return attention_cost(attention_class(self.model.partition("_vit_")[0]), self.shape)

    @property
    def patch(self) -> int:
        """Side of a patch in pixels."""
        return int(self.model.rpartition("patch")[2])

    @property
    def dimensions(self) -> dict[str, int]:
        """Width, depth and heads."""
        found = re.fullmatch(r".+_vit_(.+)_patch\d+", self.model)
        assert found is not None  # IMAGE_MODELS holds only such names
        given = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return SIZES[found[1]] | {name: value for name, value in given.items() if value is not None}

    @property
    def padded(self) -> int:
        """Side of the image in whole patches."""
        return -(-self.size // self.patch) * self.patch

    @property
    def shape(self) -> Shape:
        """The shape of the tokens and the bytes per number."""
        narrow = 4 if self.precision == "fp32" else 2
        return Shape(
            batch=self.batch_size,
            tokens=(self.padded // self.patch) ** 2,
            width=self.dimensions["embed_dim"],
            heads=self.dimensions["num_heads"],
            narrow=narrow,
            stream=narrow if self.pure else 4,
            autocast=narrow < 4 and not self.pure,
        )

    @property
    def tokenizer(self) -> StemCost:
        """The cost of the stem."""
        return stem_cost(self.stem, self.patch, self.channels, self.shape.width, self.padded, self.shape.narrow)

    @property
    def head(self) -> HeadCost:
        """The cost of norm, pooling and head."""
        return head_cost(self.pool, self.classes, self.shape)


def attention_cost(method: type[Attention], shape: Shape) -> AttentionCost:
    """Compute the cost of a method by its formulas or, if it has none, by tracing.

    Raises:
        UserError: It has no formulas and cannot be traced.
    """
    return method.cost(shape) or traced_cost(method, shape)


def count_parameters(work: Work) -> int:
    """Count the parameters, with positions for images of this size."""
    s = work.shape
    block = work.attention.parameters + 2 * 2 * s.width + 8 * s.cc + 5 * s.width
    return work.tokenizer.parameters + s.tokens * s.width + work.dimensions["depth"] * block + work.head.parameters


def multiply_adds(work: Work) -> int:
    """Count the multiply-adds of products and convolutions in the forward pass of one image."""
    s = work.shape
    block = work.attention.multiply_adds + 8 * s.tokens * s.cc
    return work.tokenizer.products + work.dimensions["depth"] * block + work.head.products
