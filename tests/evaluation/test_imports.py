import subprocess
import sys

CODE = """
import sys
for module in ("evaluation", "evaluation.metrics", "evaluation.report"):
    __import__(f"softfree.{module}")
    print(*sys.modules)
"""


def test_no_torch_and_little_at_first() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    package, metrics, report = (set(line.split()) for line in done.stdout.splitlines())
    assert not {"torch", "monai", "timm", "softfree.models", "softfree.training"} & report
    assert "matplotlib" not in metrics
    assert "numpy" not in package
