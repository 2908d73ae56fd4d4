"""Streamed forward pass: one sample through the layers, chunk by chunk, with one pass over the tokens per layer.

A pass applies a layer to each chunk, given the sums over all tokens, and collects the sums for the next layer from its
outputs. Memory holds one chunk; the tokens of all chunks are in the token store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from softfree.attention.base import wide_type
from softfree.attention.streaming import AffineMap, TokenStats
from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary
from softfree.streaming.layers import layers_of
from softfree.streaming.store import TokenStore
from softfree.streaming.token_sources import TokenSource

Advance = Callable[[], None]


class Stream:
    """A sample on its way from its tokens to the summaries of its pooling.

    Args:
        model: The model; backward uses its mode, weight dtype and autocast as they are now.
        source: The sample's tokens.
        location: "ram", or a folder for the tokens.
        dtype: Storage type of the tokens; None for their own.
        kept_from: Keep the inputs of this layer and those above until :meth:`close`; 0 for backward through all layers,
            None to keep nothing.

    Raises:
        UserError: A model that cannot stream.
    """

    def __init__(
        self,
        model: Classifier,
        source: TokenSource,
        location: str | Path = "ram",
        dtype: torch.dtype | None = None,
        kept_from: int | None = None,
    ) -> None:
        self.model, self.source, self.location, self.stored_dtype = model, source, location, dtype
        self.layers = layers_of(model)
        self.keep = kept_from is not None
        # Layers below share its slot.
        self.first_kept = max(0, len(self.layers) - 1) if kept_from is None else kept_from
        self.stats: list[TokenStats] = []
        # Known once there are tokens: their dtype between the layers, that of the pooled tokens, and the number of
        # tensors in a summary.
        self.dtype, self.pooled_dtype, self.summary_size = torch.float32, torch.float32, 1
        weight = next(model.parameters())
        self.device, self.wide = weight.device, wide_type(weight)
        self.num_tokens = sum(source.sizes) - source.prefix
        self.store: TokenStore | None = None
        kind = self.device.type
        self._autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        self._narrow = torch.get_autocast_dtype(kind) if self._autocast else None

    def forward(self, advance: Advance = lambda: None) -> list[Summary]:
        """Run all layers, and return the pooling's summaries in float64; see :meth:`logits`.

        There is one per chunk if the inputs of layers are kept, else a single one.
        """
        try:
            summaries = self._pass_all(advance)
        except BaseException:
            self.close()
            raise
        finally:
            # Weights that were cast here have no graph and must not be reused.
            torch.clear_autocast_cache()
        if not self.keep:
            self.close()
        return summaries

    def _pass_all(self, advance: Advance) -> list[Summary]:
        depth = len(self.layers)
        raw: Tensor | None = None
        summaries: list[Summary] = []
        for level in range(depth + 1):
            affine_map = self._affine_map(level - 1, raw) if raw is not None else None
            raw = None
            for chunk in range(len(self.source.sizes)):
                if level < depth or self.is_pooled(chunk):
                    x = (
                        self._tokens(chunk)
                        if affine_map is None
                        else self.layers[level - 1](self.load(level - 1, chunk), affine_map)
                    )
                    if level == depth:
                        summaries = self._collect(summaries, self.pool(x, chunk))
                    else:
                        raw = self._gather(level, self._keep(level, chunk, x), raw)
                advance()
        if not summaries:  # no real tokens
            no_tokens = torch.zeros(1, 0, self.model.embed_dim, dtype=self.wide, device=self.device)
            summaries.append(self._summary(no_tokens))
        return summaries

    def _collect(self, summaries: list[Summary], summary: Summary) -> list[Summary]:
        """Add a chunk's summary; without a backward pass, all are merged into one to save memory."""
        if self.keep or not summaries:
            return [*summaries, summary]
        return [self.model.pooling.merge(summaries[0], summary, self.pooled)]

    def _tokens(self, chunk: int) -> Tensor:
        x = self.source.tokens(chunk)
        self.dtype = x.dtype
        return x

    def _gather(self, level: int, x: Tensor, raw: Tensor | None) -> Tensor:
        """Add the attention's sums over a chunk's tokens."""
        layer = self.layers[level]
        chunk_sums = layer.streaming.raw(layer.streaming.gather(layer.normed(x)))
        return chunk_sums if raw is None else raw + chunk_sums

    def _affine_map(self, level: int, raw: Tensor) -> AffineMap:
        streaming = self.layers[level].streaming
        stats = streaming.from_raw(raw, self.wide)
        if self.keep:
            self.stats.append(stats)
        return streaming.affine_map(stats)

    def _keep(self, level: int, chunk: int, x: Tensor) -> Tensor:
        if self.store is None:
            layers = max(1, len(self.layers) - self.first_kept)
            sizes, stored_dtype = self.source.sizes, self.stored_dtype or x.dtype
            self.store = TokenStore(sizes, x.shape[2], stored_dtype, layers, self.location)
        return self.store.write(self._slot(level), chunk, x)

    def load(self, level: int, chunk: int) -> Tensor:
        """Return the tokens (1, n, C) that entered a layer."""
        assert self.store is not None
        return self.store.read(self._slot(level), chunk, self.dtype, self.device)

    def _slot(self, level: int) -> int:
        return max(0, level - self.first_kept)

    def outputs(self) -> Iterator[Tensor]:
        """Recompute the last layer; yield the tokens (1, n, C) of each chunk, as they are pooled.

        The stream must have kept the input of its last layer.
        """
        if self.stats:  # else there were no tokens
            last = len(self.layers) - 1
            affine_map = self.layers[last].streaming.affine_map(self.stats[last])
            for chunk in range(len(self.source.sizes)):
                yield self.model.norm(self.layers[last](self.load(last, chunk), affine_map))

    def is_pooled(self, chunk: int) -> bool:
        """Whether the last layer's tokens of a chunk are pooled; for a class token, only those of the first chunk."""
        return self.model.pool != "token" or chunk == 0

    def pool(self, x: Tensor, chunk: int) -> Summary:
        """Return the pooling's summary of a chunk after the last layer, in float64; differentiable."""
        x = self.model.norm(x)
        if self.model.pool != "token":
            return self._summary(x if chunk else x[:, self.source.prefix :])
        return self._summary(x[:, :1])

    def _summary(self, x: Tensor) -> Summary:
        """Summarize the pooled tokens (1, n, C)."""
        mask = None
        if not x.shape[1]:  # no pooling can summarize zero tokens, but all can summarize padding
            x, mask = F.pad(x, (0, 0, 0, 1)), torch.zeros(1, 1, dtype=torch.bool, device=x.device)
        summary = self.model.pooling.summary(x, mask, self.pooled)
        self.pooled_dtype, self.summary_size = x.dtype, len(summary)
        return tuple(tensor.double() for tensor in summary)

    def grouped(self, tensors: Sequence[Tensor]) -> list[Summary]:
        """Group a flat list of the tensors of all summaries into summaries."""
        size = self.summary_size
        return [tuple(tensors[start : start + size]) for start in range(0, len(tensors), size)]

    def logits(self, summaries: Sequence[Summary]) -> Tensor:
        """Return the logits (1, K) from the summaries of all chunks; differentiable."""
        number = torch.full((1, 1), max(1, self.pooled), dtype=torch.float64, device=self.device)
        pooled = self.model.pooling.finish(summaries, number).to(self.pooled_dtype)
        return self.model.classify(self.model.fc_norm(pooled))

    @property
    def pooled(self) -> int:
        """Number of pooled tokens."""
        return 1 if self.model.pool == "token" else self.num_tokens

    def autocast(self) -> AbstractContextManager[object]:
        """Return the autocast context of this stream, without a cache of weights, whose graphs are used only once."""
        return torch.autocast(self.device.type, dtype=self._narrow, enabled=self._autocast, cache_enabled=False)

    def close(self) -> None:
        """Free the tokens."""
        if self.store is not None:
            self.store.close()
