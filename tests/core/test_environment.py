"""What is said of the machine and its software."""

import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from softfree.core.environment import describe_machine, peak_memory, versions


def test_the_machine_is_one_line_with_the_threads_in_use() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = describe_machine()
        torch.set_num_threads(2)
        two = describe_machine()
    finally:
        torch.set_num_threads(threads)
    assert "\n" not in one
    assert one.split(", ").count("1 thread") == 1
    assert one.replace("1 thread", "2 threads") == two
    assert describe_machine(threads=2) == two  # of processes that were told so
    assert f"{platform.system()} {platform.machine()}" in one


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="no /proc/cpuinfo here")
def test_the_processor_is_the_kernels() -> None:
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    if not models:
        pytest.skip("the kernel names no processor")
    processor = describe_machine().split(f", {torch.get_num_threads()} thread")[0]
    assert models[0].endswith(f": {processor}")


def test_versions_are_those_imported() -> None:
    result = versions()
    assert result["python"] == sys.version.split()[0]
    assert result["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert result["numpy"] == np.__version__
    assert result["softfree"] == version("softfree")
    assert "not installed" not in result.values()


def test_a_missing_package_is_said_to_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("softfree.core.environment.REPORTED", ("torch", "no-such-package-softfree"))
    result = versions()
    assert list(result) == ["python", "torch", "no-such-package-softfree"]
    assert result["no-such-package-softfree"] == "not installed"


@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the GPU's memory")
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="no /proc/self/status here")
def test_peak_memory_is_the_kernels_in_bytes() -> None:
    block = np.ones(2**23)  # touched, so that 64 MiB are held
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    held = int(status["VmHWM"].split()[0]) * 1024
    assert held > block.nbytes
    del block
    # What started this process may have held more, which the kernel hands on.
    assert 0.95 * held < peak_memory() < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_peak_memory_is_not_that_of_the_parent() -> None:
    """A child process starts from nothing, however large its parent."""
    ballast = np.ones(5 * 10**8, dtype=np.uint8)
    code = """
import sys
from types import SimpleNamespace
sys.modules["torch"] = SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: False))  # its import takes seconds
from softfree.core.environment import peak_memory
print(peak_memory())
"""
    child = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert child < peak_memory() - len(ballast) / 2
