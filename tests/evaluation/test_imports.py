import subprocess
import sys

import pytest


@pytest.mark.parametrize("module", ["evaluation", "evaluation.metrics", "evaluation.report"])
def test_no_torch_and_little_at_first(module: str) -> None:
    code = f"import sys, softfree.{module}; print(*sys.modules)"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    assert not {"torch", "monai", "timm", "softfree.models", "softfree.training"} & loaded
    if module != "evaluation.report":
        assert "matplotlib" not in loaded
    if module == "evaluation":
        assert "numpy" not in loaded
