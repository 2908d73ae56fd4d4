"""Peak memory of a training step or an inference, measured in a separate process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from softfree.core.precision import DTYPES
from softfree_runtime.core.errors import UserError
from softfree_runtime.preprocessing.case import HEADER

# The second step has the peak: AdamW creates its state at the end of the first.
STEPS = 2


def measure_peak(case: Mapping[str, Any]) -> tuple[int, int]:
    """Run a case in a child process with one thread.

    Args:
        case: The fields of :class:`softfree.planning.work.Work`, as plain values.

    Returns:
        The peak memory of the process and its memory just before the model was built, in bytes.

    Raises:
        UserError: The system has no /proc, or the child failed, for example because memory ran out.
    """
    if not Path("/proc/self/status").is_file():
        raise UserError("Peaks are read from /proc/self/status, which this system lacks: measure on Linux.")
    command = [sys.executable, "-m", "softfree_lab.bench.peaks", json.dumps(dict(case))]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    completed = subprocess.run(command, capture_output=True, text=True, env=environment)
    if completed.returncode:
        reason = (completed.stderr.strip().splitlines() or [f"it ended with status {completed.returncode}"])[-1]
        raise UserError(f"Measuring {dict(case)} failed: {reason}; free some memory or measure a smaller case.")
    memory = json.loads(completed.stdout.splitlines()[-1])
    return memory["peak"], memory["base"]


def _run(case: dict[str, Any]) -> dict[str, int]:
    """Build the model, run it, and return the memory before and at the peak."""
    import torch

    from softfree.planning.plan import build, sample_shape
    from softfree.planning.work import Work

    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = _status("VmRSS")
    compute = DTYPES[case["precision"]]
    dtype = compute if case["pure"] else torch.float32
    work = Work(**case)
    model: Any = build(work).to(dtype)
    model.set_grad_checkpointing(work.grad_checkpointing)
    pixels = torch.randn(work.batch_size, *sample_shape(work), dtype=dtype)
    if work.images is not None:
        pixels[..., -HEADER:] = 0
    autocast = torch.autocast("cpu", compute, enabled=compute is not dtype)
    if not case["inference"]:
        optimizer = torch.optim.AdamW(model.train().parameters())
        for _ in range(STEPS):
            with autocast:
                loss = model(pixels).float().logsumexp(1).sum()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            del loss
    else:
        model.eval()
        with torch.inference_mode(), autocast:
            for _ in range(STEPS):
                model(pixels)
    return {"peak": _status("VmHWM"), "base": base}


def _status(name: str) -> int:
    """Read a line of /proc/self/status in bytes: VmRSS is the current memory, VmHWM its peak."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise UserError(f"/proc/self/status has no line {name}: measure on Linux.")


if __name__ == "__main__":
    print(json.dumps(_run(json.loads(sys.argv[1]))))
