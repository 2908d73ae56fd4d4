"""One sample on its way up through the layers, chunk by chunk: one pass over the tokens for each layer.

A pass applies a layer to each chunk, as the sums over all tokens say, and gathers the sums for the next layer from what
comes out. Memory holds one chunk, and the tokens of all chunks are where the user wants them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from softfree.attention.base import wide_type
from softfree.longseq.forms import Mixing, Stats
from softfree.longseq.layers import layers_of
from softfree.longseq.sources import TokenSource
from softfree.longseq.store import TokenStore
from softfree.models.classifier import Classifier

Advance = Callable[[], None]


class Stream:
    """A sample between its tokens and its pooled features.

    Args:
        model: The model; its mode, its weights' type and the autocast of the moment hold for the way back, too.
        source: The sample's tokens.
        place: "ram", or a folder for the tokens.
        dtype: What tokens are kept in; None for their own type.
        kept_from: Keep the input of this layer and of those above, for what comes after the pass: 0 for a way back
            through all of them, until :meth:`close`. None: keep nothing.

    Raises:
        UserError: a model that cannot stream.
    """

    def __init__(
        self,
        model: Classifier,
        source: TokenSource,
        place: str | Path = "ram",
        dtype: torch.dtype | None = None,
        kept_from: int | None = None,
    ) -> None:
        self.model, self.source, self.place, self.stored_as = model, source, place, dtype
        self.layers = layers_of(model)
        self.keep = kept_from is not None
        self.first = max(0, len(self.layers) - 1) if kept_from is None else kept_from  # layers below share its place
        self.stats: list[Stats] = []
        self.dtype = torch.float32  # of the tokens between the layers; known once there are some
        weight = next(model.parameters())
        self.device, self.wide = weight.device, wide_type(weight)
        self.number = sum(source.sizes) - source.prefix
        self.store: TokenStore | None = None
        kind = self.device.type
        self._autocast = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
        self._narrow = torch.get_autocast_dtype(kind) if self._autocast else None

    def forward(self, advance: Advance = lambda: None) -> Tensor:
        """Pass all layers and pool: (1, C), the mean of the tokens or the class token, before ``fc_norm``."""
        try:
            pooled = self._pass_all(advance)
        except BaseException:
            self.close()
            raise
        finally:
            # Weights that were cast here have no graph; nobody else may find them.
            torch.clear_autocast_cache()
        if not self.keep:
            self.close()
        return pooled

    def _pass_all(self, advance: Advance) -> Tensor:
        depth = len(self.layers)
        raw: Tensor | None = None
        if not self.source.sizes:  # no real token
            return torch.zeros(1, self.model.embed_dim, dtype=self.dtype, device=self.device)
        pooled = torch.zeros(1, self.model.embed_dim, dtype=torch.float64, device=self.device)
        for level in range(depth + 1):
            mixing = self._mixing(level - 1, raw) if raw is not None else None
            raw = None
            for chunk in range(len(self.source.sizes)):
                if level < depth or self.is_pooled(chunk):
                    x = (
                        self._tokens(chunk)
                        if mixing is None
                        else self.layers[level - 1](self.load(level - 1, chunk), mixing)
                    )
                    if level == depth:
                        pooled += self.pool(x, chunk)
                    else:
                        raw = self._gather(level, self._keep(level, chunk, x), raw)
                advance()
        return pooled.to(self.dtype)

    def _tokens(self, chunk: int) -> Tensor:
        x = self.source.tokens(chunk)
        self.dtype = x.dtype
        return x

    def _gather(self, level: int, x: Tensor, raw: Tensor | None) -> Tensor:
        """Add what the attention of a layer wants of a chunk's tokens."""
        layer = self.layers[level]
        more = layer.form.raw(layer.form.gather(layer.normed(x)))
        return more if raw is None else raw + more

    def _mixing(self, level: int, raw: Tensor) -> Mixing:
        form = self.layers[level].form
        stats = form.from_raw(raw, self.wide)
        if self.keep:
            self.stats.append(stats)
        return form.mixing(stats)

    def _keep(self, level: int, chunk: int, x: Tensor) -> Tensor:
        if self.store is None:
            layers = max(1, len(self.layers) - self.first)
            sizes, stored_as = self.source.sizes, self.stored_as or x.dtype
            self.store = TokenStore(sizes, x.shape[2], stored_as, layers, self.place)
        return self.store.write(self._place_of(level), chunk, x)

    def load(self, level: int, chunk: int) -> Tensor:
        """Get the tokens (1, n, C) that went into a layer."""
        assert self.store is not None
        return self.store.read(self._place_of(level), chunk, self.dtype, self.device)

    def _place_of(self, level: int) -> int:
        return max(0, level - self.first)

    def outputs(self) -> Iterator[Tensor]:
        """Compute the last layer once more: tokens (1, n, C) chunk by chunk, as they are pooled.

        The stream has gone forward and kept what went into its last layer.
        """
        if self.stats:  # else there was no token
            last = len(self.layers) - 1
            mixing = self.layers[last].form.mixing(self.stats[last])
            for chunk in range(len(self.source.sizes)):
                yield self.model.norm(self.layers[last](self.load(last, chunk), mixing))

    def is_pooled(self, chunk: int) -> bool:
        """Whether the last layer's tokens of a chunk are asked for: of a class token, only the first chunk's."""
        return self.model.pool != "token" or chunk == 0

    def pool(self, x: Tensor, chunk: int) -> Tensor:
        """Give the part of a chunk in the pooled features, (1, C) in float64; differentiable."""
        x = self.model.norm(x)
        if self.model.pool == "token":
            return x[:, 0].double()
        front = 0 if chunk else self.source.prefix
        return x[:, front:].sum(1, dtype=torch.float64) / max(1, self.number)

    def autocast(self) -> AbstractContextManager[object]:
        """Give the autocast that this stream was made under. Cast weights are not kept: their graphs are used once."""
        return torch.autocast(self.device.type, dtype=self._narrow, enabled=self._autocast, cache_enabled=False)

    def close(self) -> None:
        """Give the tokens' space back."""
        if self.store is not None:
            self.store.close()
