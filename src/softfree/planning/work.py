"""The workload to plan: a model, its images and how it runs; the resulting shapes and parameters."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import get_args

from softfree.attention import Attention, attention_class
from softfree.attention.cost import AttentionCost, Shape
from softfree.core.options import PoolName, Precision
from softfree.models.registry import IMAGE_MODELS, PYRAMIDS, SIZES
from softfree.planning.options import PlanOptions
from softfree.planning.stem_and_head import HeadCost, StemCost, head_cost, stem_cost
from softfree.planning.tracing import traced_cost
from softfree_runtime.core.errors import UserError, unknown_name


@dataclass(kw_only=True)
class Work(PlanOptions):
    """The options of a plan, and the shapes and costs that follow from them.

    Raises:
        UserError: An unknown name or an impossible number.
    """

    # Dimensions other than those that the model's name implies.
    width: int | None = None
    depth: int | None = None
    heads: int | None = None

    def __post_init__(self) -> None:
        if self.model in PYRAMIDS:
            raise UserError(
                f"There is no formula for the pyramid {self.model}: train it for an epoch and see logs/cost.json of the"
                " run."
            )
        if self.model not in IMAGE_MODELS:
            raise unknown_name("model", self.model, IMAGE_MODELS)
        for name, value, known in (
            ("precision", self.precision, get_args(Precision)),
            ("stem", self.stem, ("patch", "conv", "pool")),
            ("pool", self.pool, get_args(PoolName)),
        ):
            if value not in known:
                raise unknown_name(name, value, known)
        for name in ("size", "channels", "classes", "batch_size", "images", "mlp_chunk"):
            number = getattr(self, name)
            if number is not None and number < 1:
                raise UserError(f"Got {name} {number}: expected a positive integer.")

    @property
    def gpu(self) -> bool:
        """Whether it runs on a GPU."""
        return self.device == "gpu"

    @property
    def number(self) -> int:
        """Number of images in a batch."""
        return self.batch_size * (self.images or 1)

    @property
    def patches(self) -> int:
        """Number of tokens of an image."""
        return (self.padded // self.patch) ** 2

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
        match = re.fullmatch(r".+_vit_(.+)_patch\d+", self.model)
        assert match is not None  # IMAGE_MODELS holds only such names
        overrides = {"embed_dim": self.width, "depth": self.depth, "num_heads": self.heads}
        return SIZES[match[1]] | {name: value for name, value in overrides.items() if value is not None}

    @property
    def padded(self) -> int:
        """Side of the image, padded to whole patches."""
        return -(-self.size // self.patch) * self.patch

    @property
    def shape(self) -> Shape:
        """The shape of the tokens and the bytes per number."""
        narrow = 4 if self.precision == "fp32" else 2
        return Shape(
            batch=self.batch_size,
            tokens=(self.images or 1) * self.patches,
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
    """Count the parameters, with positions for images of this size, and a view for each image of a case."""
    s = work.shape
    views = 0 if work.images is None else work.images + 1
    block = work.attention.parameters + 2 * 2 * s.width + 8 * s.cc + 5 * s.width
    return (
        work.tokenizer.parameters
        + (work.patches + views) * s.width
        + work.dimensions["depth"] * block
        + work.head.parameters
    )
