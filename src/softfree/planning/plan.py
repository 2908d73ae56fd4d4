"""How much memory and work a training step or an inference takes, from formulas, before anything runs.

``softfree-lab bench plan`` holds the formulas against measured peaks; ``benchmarks/plan.csv`` has the result.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import asdict, dataclass, fields, replace
from math import isqrt
from typing import Any

from softfree.core.memory import available_memory
from softfree.planning.memory import GIB, Memory, memory
from softfree.planning.options import PlanOptions
from softfree.planning.work import Work, count_parameters, multiply_adds
from softfree_runtime.core.errors import UserError

# The search for the largest side ends here.
LARGEST_SIZE = 2**17


@dataclass(frozen=True)
class Plan:
    """A plan.

    Attributes:
        work: The workload.
        parameters: Number of parameters.
        multiply_adds: Of matrix products and convolutions, forward, for one image.
        memory: Bytes at the peak.
        available: Free bytes, or None if unknown.
        largest: Largest side of a square image that fits; 0 if none does; None if the memory is unknown.
    """

    work: Work
    parameters: int
    multiply_adds: int
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
    known = {field.name for field in fields(options)}
    chosen = {field.name: getattr(options, field.name) for field in fields(Work) if field.name in known}
    work = Work(**chosen, gpu=options.device == "gpu")
    if options.memory is not None and not options.memory > 0:
        raise UserError(f"Got memory {options.memory}: expected the GiB of the device, such as 16.")
    available = free_memory(work.gpu) if options.memory is None else int(options.memory * GIB)
    largest = None if available is None else largest_size(work, available)
    return Plan(work, count_parameters(work), multiply_adds(work), memory(work), available, largest)


def largest_size(work: Work, available: int) -> int:
    """Find the largest side, in whole patches, whose peak fits into ``available`` bytes; 0 if none does.

    The peak grows with the side except at up to two sides, where less is kept from one to the next: see :func:`_turns`.
    Each interval between them is searched by itself, the longest sides first.
    """
    patch = work.patch

    def fits(patches: int) -> bool:
        return memory(replace(work, size=patches * patch)).total <= available

    starts = sorted({1, *_turns(work)})
    ends = [start - 1 for start in starts[1:]] + [LARGEST_SIZE // patch]
    for low, high in reversed(list(zip(starts, ends, strict=True))):
        if not fits(low):
            continue
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if fits(middle) else (low, middle - 1)
        return low * patch
    return 0


def _turns(work: Work) -> list[int]:
    """Sides in patches from which less is kept: an attention changes its implementation, the MLP is chunked."""
    largest = LARGEST_SIZE // work.patch

    def implementation(patches: int) -> str:
        return replace(work, size=patches * work.patch).attention.implementation

    turns = []
    if implementation(1) != implementation(largest):
        turns.append(bisect_left(range(1, largest), True, key=lambda n: implementation(n) != implementation(1)) + 1)
    if work.mlp_chunk is not None:
        turns.append(isqrt(work.mlp_chunk // work.batch_size) + 1)
    return [turn for turn in turns if turn <= largest]


def free_memory(gpu: bool) -> int | None:
    """Return the free bytes of the GPU, or of the machine; None if unknown.

    Raises:
        UserError: A GPU was requested and there is none.
    """
    if gpu:
        import torch

        if not torch.cuda.is_available():
            raise UserError("Got --device gpu, but none is here: add --memory with the GiB of the one that is meant.")
        return int(torch.cuda.mem_get_info()[0])
    return available_memory()
