"""Run each sample whole or streamed, as the user chose or according to the memory plan."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor, nn

from softfree.attention import attention_name
from softfree.core.options import Precision, StreamOptions
from softfree.core.precision import products_in
from softfree.models.case import CaseTransformer
from softfree.models.classifier import Classifier
from softfree.models.encoder import Block
from softfree.models.layers import sample_drop_paths
from softfree.models.token_mean import token_mean
from softfree.planning.memory import memory
from softfree.planning.plan import free_memory
from softfree.planning.work import Work
from softfree.streaming.image_rows import Rows
from softfree.streaming.layers import can_stream, why_model_cannot
from softfree.streaming.streamed import Streaming, stream_forward, streamed
from softfree_runtime.core.errors import UserError

# Fraction of the free memory that a sample may use; other processes need some, too.
SHARE = 0.8


class AdaptiveForward:
    """Compute logits of samples, whole if they fit in memory and streamed otherwise.

    Deliberately not an ``nn.Module``: Lightning must save and average the wrapped model only once.

    Args:
        model: Maps samples (B, ...) to logits (B, K).
        options: When and where to stream.
        precision: Arithmetic of matrix products: "fp32", "bf16" or "fp16".
        progress: Show a progress bar for streamed samples.
        watched: Collect the mean token of each sample, for :meth:`take_token_means`.

    Raises:
        UserError: Streaming is set to always for a model that cannot stream.
    """

    def __init__(
        self,
        model: nn.Module,
        options: StreamOptions,
        precision: Precision = "fp32",
        *,
        progress: bool = False,
        watched: bool = False,
    ) -> None:
        if options.stream == "always" and why_model_cannot(model):
            raise UserError(f"--stream always: {why_model_cannot(model)}")
        self.model, self.options, self.precision = model, options, precision
        location = "ram" if options.token_store is None else options.token_store
        dtype = torch.bfloat16 if options.token_bf16 else None
        self.streaming = Streaming(location, dtype, options.token_chunk, progress)
        self.watched = watched
        self._token_means: list[Tensor] = []

    def __call__(self, samples: Tensor) -> Tensor:
        """Return logits (B, K) of samples on any device; with a graph if gradients are enabled."""
        if (device := self._device) is not None:
            samples = samples.to(device)
        streams = self.streams(samples)
        if streams and len(samples) > 1:  # one by one they may fit
            return torch.cat([self._single(samples, number) for number in range(len(samples))])
        with products_in(self.precision, samples.device), self._watch():
            return streamed(self.model, samples[0], self.streaming) if streams else self.model(samples)

    def _single(self, samples: Tensor, number: int) -> Tensor:
        with sample_drop_paths(self.model, number):
            return self(samples[number : number + 1])

    def of_rows(self, sample: Rows) -> Tensor:
        """Return logits (1, K), without a graph, of an image read in bands; check :meth:`why_not_rows` first."""
        with products_in(self.precision, self._device or "cpu"), self._watch():
            return stream_forward(self.model, sample, self.streaming)

    @property
    def _device(self) -> torch.device | None:
        """Where the model is; None for one without parameters, which works where its samples are."""
        return next((parameter.device for parameter in self.model.parameters()), None)

    @contextmanager
    def _watch(self) -> Iterator[None]:
        """Collect the mean token of the samples that run inside, if they are watched."""
        if not self.watched:
            yield
            return
        with token_mean(self.model) as means:
            yield
        self._token_means += means

    def take_token_means(self) -> list[Tensor]:
        """Return the mean tokens (B, C) of all samples since the last call, as the only entry of a list."""
        means, self._token_means = self._token_means, []
        return [torch.cat(means)] if means else []

    def why_not_rows(self) -> str:
        """Explain why an image cannot be read in bands; empty if it can."""
        if self.options.stream == "never":
            return "--stream never was set"
        return why_model_cannot(self.model)

    def streams(self, samples: Tensor) -> bool:
        """Whether these samples are streamed or, if there are several, run one by one."""
        if self.options.stream != "auto":
            return self.options.stream == "always"
        if not can_stream(self.model):
            return False
        gpu = samples.device.type == "cuda"
        free = _free(gpu)
        return free is not None and self._activation_bytes(samples, gpu) > SHARE * free

    def _activation_bytes(self, samples: Tensor, gpu: bool) -> int:
        """Return the planned peak of activation memory in bytes, that of an image with as many tokens."""
        model = self.model
        assert isinstance(model, Classifier)
        block = model.blocks[0]
        assert isinstance(block, Block)
        work = Work(
            model=f"{attention_name(block.attn)}_vit_nano_patch16",
            width=model.embed_dim,
            depth=len(model.blocks),
            heads=block.attn.num_heads,
            size=16 * math.ceil(math.sqrt(_tokens(model, samples))),
            batch_size=len(samples),
            precision=self.precision,
            inference=not torch.is_grad_enabled(),
            mlp_chunk=block.mlp_chunk,
            stem="patch",
            pool=model.pool,  # type: ignore[arg-type]
            classes=max(1, model.num_classes),
            device="gpu" if gpu else "cpu",
        )
        peak = memory(work)
        return peak.total - peak.process - peak.weights


def _tokens(model: Classifier, samples: Tensor) -> int:
    """Return the number of tokens per sample: tiles of a bag, patches of an image or volume, or of a case, at most."""
    if isinstance(model, CaseTransformer):
        return samples.shape[1] * max(math.prod(model.grid_of(number)) for number in range(len(model.image_shapes)))
    sides = samples.shape[2:]
    patch = getattr(model, "patch_size", None)
    if patch is None:
        return samples.shape[1]
    patches = (patch,) * len(sides) if isinstance(patch, int) else patch
    return math.prod(-(-side // p) for side, p in zip(sides, patches, strict=True))


@lru_cache
def _free(gpu: bool) -> int | None:
    """Return the free memory at the first sample; later, heap space left by earlier samples would count as used."""
    return free_memory(gpu)
