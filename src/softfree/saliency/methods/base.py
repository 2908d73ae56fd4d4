"""What every explanation method is given, in memory and streamed, and what it declares about itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from softfree.attention.streaming import TokenStats
from softfree.models.classifier import Classifier
from softfree.models.pooling import Summary
from softfree.saliency.activations import EncoderInput, GradientPass
from softfree.saliency.log_odds import LogOdds
from softfree.streaming.forward import Stream


@dataclass(frozen=True)
class MapRequest:
    """What to explain: the log odds of a class; a layer, by default the method's own; and for some a head, position."""

    target: int
    layer: int = -1
    head: int | None = None
    at: Sequence[float] | None = None
    odds: LogOdds = field(default_factory=LogOdds)


@dataclass(frozen=True)
class ForwardPass:
    """A forward pass of a sample in memory.

    Attributes:
        model: The model.
        sample: (1, ...) as the model takes it.
        entry: Input of its encoder.
        last: Tokens after the last layer (1, P + N, C).
        logits: (1, K).
        inputs: Inputs of the attention of each layer, for methods that need them; else empty.
        gradient_pass: The graph from a layer on, for methods that need gradients; else None.
    """

    model: Classifier
    sample: Tensor
    entry: EncoderInput
    last: Tensor
    logits: Tensor
    inputs: list[Tensor] = field(default_factory=list)
    gradient_pass: GradientPass | None = None


class StreamedPass(NamedTuple):
    """A streamed forward pass: the stream, the summaries of its chunks, and whether to show progress bars."""

    model: Classifier
    stream: Stream
    summaries: list[Summary]
    progress: bool

    @property
    def chunks(self) -> range:
        """Numbers of the chunks."""
        return range(len(self.stream.source.sizes))

    def front(self, chunk: int) -> int:
        """Number of tokens of a chunk outside the grid, such as a class token."""
        return 0 if chunk else self.stream.source.prefix

    def attention_input(self, layer: int, chunk: int) -> tuple[Tensor, TokenStats]:
        """A chunk's input of the attention of a layer, and the statistics of all tokens."""
        return self.stream.layers[layer].normed(self.stream.load(layer, chunk)), self.stream.stats[layer]


@dataclass(frozen=True)
class Method:
    """A method with its two forms.

    Attributes:
        title: Its name in figures.
        meaning: What the values mean, and what they do not, to follow the title.
        compute: From a forward pass in memory to values (1, N) on the grid of tokens.
        stream: From a streamed forward pass to the same values, (n,) per chunk and including the class token; None for
            methods that run the sample many times.
        layer: The first layer whose tokens it uses, unless the request names one.
        signed: Values below zero are evidence against.
        class_specific: Each class has a map of its own.
        takes: The optional parameters that it uses: layer, head, at.
        needs_attention_inputs: It uses the input of the attention of each layer.
        needs_gradient: It differentiates with respect to the input tokens of its layer.
        uses_empty_sample: It compares the sample with an empty one.
        keeps_layers: In memory, it holds about as much of all layers as a backward pass.
    """

    title: str
    meaning: str
    compute: Callable[[ForwardPass, MapRequest], Tensor]
    stream: Callable[[StreamedPass, MapRequest], list[Tensor]] | None = None
    layer: int = -1
    signed: bool = True
    class_specific: bool = True
    takes: frozenset[str] = frozenset()
    needs_attention_inputs: bool = False
    needs_gradient: bool = False
    uses_empty_sample: bool = False
    keeps_layers: bool = True

    @property
    def description(self) -> str:
        """Title and meaning in one line."""
        return f"{self.title}: {self.meaning}"
