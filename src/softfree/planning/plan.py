"""How much memory and work a training step or inference takes, before anything runs.

Memory follows from formulas; ``softfree-lab bench plan`` compares them with measured peaks in ``benchmarks/plan.csv``.
Tracing a size without data instead (FakeTensorMode with torch's MemTracker) takes 7 to 27 seconds, not a millisecond,
and misses the copies inside a CPU's convolutions and the gaps in its heap: it found half of the peak of inference.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, replace
from math import isqrt
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from softfree.core.memory import available_memory
from softfree.planning.memory import GIB, Memory, memory, training_peak
from softfree.planning.options import PlanOptions
from softfree.planning.work import Work, count_parameters
from softfree_runtime.core.errors import UserError

if TYPE_CHECKING:
    from torch import nn

console = Console(markup=False)

# The search for the largest side ends here.
LARGEST_SIZE = 2**17
ROWS = {
    "weights": "weights",
    "gradients": "gradients",
    "optimizer": "optimizer state (AdamW)",
    "kept": "kept activations, images",
    "temporaries": "peak temporaries",
    "gaps": "gaps in the heap",
    "process": "process (torch)",
    "total": "total",
}


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        work: The workload.
        parameters: Number of parameters.
        multiply_adds: Of the matrix products and convolutions of one sample's forward pass; None if unknown.
        memory: Bytes at the peak.
        available: Free bytes, or None if unknown.
        largest: Largest side of a square image that fits; 0 if none does; None if the memory is unknown.
    """

    work: Work
    parameters: int
    multiply_adds: int | None
    memory: Memory
    available: int | None
    largest: int | None

    @property
    def fits(self) -> bool | None:
        """Whether the peak fits into the available memory; None if that is unknown."""
        return None if self.available is None else self.memory.total <= self.available

    def to_dict(self) -> dict[str, Any]:
        """Return the plan for JSON; memory in bytes."""
        return {
            **asdict(self.work),
            "parameters": self.parameters,
            "multiply_adds": self.multiply_adds,
            "memory": {**asdict(self.memory), "total": self.memory.total},
            "available": self.available,
            "fits": self.fits,
            "largest_size": self.largest,
        }


def make_plan(options: PlanOptions) -> Plan:
    """Compute memory and work, whether they fit, and the largest image that would."""
    work = Work(**asdict(options))
    if options.memory is not None and not options.memory > 0:
        raise UserError(f"Got memory {options.memory}: expected the GiB of the device, such as 16.")
    available = free_memory(work.gpu) if options.memory is None else int(options.memory * GIB)
    largest = None if available is None else largest_size(work, available)
    return Plan(work, count_parameters(work), _multiply_adds(work), memory(work), available, largest)


def _multiply_adds(work: Work) -> int | None:
    import torch

    from softfree.core.flops import multiply_adds

    with torch.device("meta"):
        model = build(work)
    return multiply_adds(model, (1, *sample_shape(work)))


def build(work: Work) -> nn.Module:
    """Build the model of a plan."""
    from softfree.models.registry import build_model

    arguments: dict[str, Any] = {
        "img_size": work.size,
        "in_chans": work.channels,
        "num_classes": work.classes,
        "stem": work.stem,
    }
    arguments |= {"pool": work.pool, "mlp_chunk": work.mlp_chunk, **work.dimensions}
    if work.images is not None:
        arguments["case"] = {"shape": (work.channels, work.size, work.size), "views": work.images}
    return build_model({"model": {"name": work.model, **arguments}})


def sample_shape(work: Work) -> tuple[int, ...]:
    """Return the shape of the sample of a plan, as the model takes it."""
    from softfree_runtime.preprocessing.case import HEADER

    if work.images is None:
        return work.channels, work.size, work.size
    return work.images, work.channels * work.size**2 + HEADER


def largest_size(work: Work, available: int) -> int:
    """Find the largest side, in whole patches, whose peak fits into ``available`` bytes; 0 if none does.

    The peak grows with the side except at up to two sides, from which less is kept: see :func:`_breakpoints`. Each
    interval between them is searched separately, the largest sides first.
    """
    patch = work.patch

    def fits(patches: int) -> bool:
        return memory(replace(work, size=patches * patch)).total <= available

    starts = sorted({1, *_breakpoints(work)})
    ends = [start - 1 for start in starts[1:]] + [LARGEST_SIZE // patch]
    for low, high in reversed(list(zip(starts, ends, strict=True))):
        if not fits(low):
            continue
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low * patch
    return 0


def _breakpoints(work: Work) -> list[int]:
    """Return the sides in patches from which less is kept: the attention changes implementation, the MLP is chunked."""
    largest = LARGEST_SIZE // work.patch

    def implementation(patches: int) -> str:
        return replace(work, size=patches * work.patch).attention.implementation

    breakpoints = []
    if implementation(1) != implementation(largest):
        switch = bisect_left(range(1, largest), True, key=lambda n: implementation(n) != implementation(1)) + 1
        breakpoints.append(switch)
    if work.mlp_chunk is not None:
        breakpoints.append(isqrt(work.mlp_chunk // work.number) + 1)
    return [side for side in breakpoints if side <= largest]


def free_memory(gpu: bool) -> int | None:
    """Return the free bytes of the GPU, or of the machine; None if unknown.

    Raises:
        UserError: A GPU was requested and there is none.
    """
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise UserError("Got --device gpu, but this machine has none: add --memory with the GiB of the GPU.")
        return int(torch.cuda.mem_get_info()[0])
    return available_memory()


def print_plan(plan: Plan) -> None:
    """Print memory and work, whether they fit, and the largest image that would."""
    work = plan.work
    mode = "inference" if work.inference else "training"
    each = "" if work.images is None else f"{counted_images(work)} of "
    title = f"{work.model}, {mode}, {each}{work.size} x {work.size} x {work.channels}, batch {work.batch_size}"
    console.print(title, highlight=False)
    table = Table(show_header=False)
    table.add_column("quantity")
    table.add_column("value", justify="right")
    table.add_row("parameters", f"{plan.parameters / 1e6:.2f} M")
    products = "unknown" if plan.multiply_adds is None else f"{plan.multiply_adds / 1e9:.2f} G"
    table.add_row(f"multiply-adds per {'image' if work.images is None else 'case'}", products, end_section=True)
    for name, heading in ROWS.items():
        value = getattr(plan.memory, name)
        if value:
            table.add_row(heading, _size(value))
    console.print(table)
    console.print(verdict(plan), highlight=False)
    if not work.inference and not work.gpu:
        more = _size(training_peak(work) - plan.memory.total)
        sentence = f"`softfree train` needs {more} more for its libraries and checkpoints, and room for cached images."
        console.print(sentence, highlight=False)


def counted_images(work: Work) -> str:
    """Return the images of a case, in words."""
    return f"cases of {work.images} image{'' if work.images == 1 else 's'}"


def verdict(plan: Plan) -> str:
    """Summarize in one line whether it fits and what the largest side is."""
    if plan.available is None:
        return "The free memory of this system is unknown: add --memory with the GiB of the device."
    result = "It fits" if plan.fits else "It does not fit"
    largest = f"{plan.largest} x {plan.largest}" if plan.largest else "none"
    joined = "" if plan.work.images is None else f" in {counted_images(plan.work)}"
    return f"{result}: {_size(plan.available)} are available. Largest square image that fits{joined}: {largest}."


def _size(number: int) -> str:
    return f"{number / GIB:.2f} GiB" if number >= GIB else f"{number / 2**20:.0f} MiB"
