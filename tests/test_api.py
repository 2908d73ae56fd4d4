"""The public functions, and what must be installed for which of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import softfree
from softfree.inference.run import Run

BLOCKED = """
import sys
from softfree_runtime.core.extras import EXTRA_OF
sys.modules.update(dict.fromkeys(EXTRA_OF))
"""


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", BLOCKED + code, *arguments], capture_output=True, text=True)


def test_import_is_light_and_offers_the_public_names() -> None:
    code = "import sys, softfree; print([n for n in ('torch', 'numpy', 'pandas') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert all(callable(getattr(softfree, name)) for name in softfree.__all__ if name != "__version__")


def test_functions_do_what_the_commands_do(run: Run, tmp_path: Path) -> None:
    files = [str(file) for file in sorted(Path(run.config["options"]["table"]).parent.rglob("*.png"))[:3]]
    rows = softfree.predict(run.folder, files)
    assert rows["status"].tolist() == ["ok"] * 3
    assert softfree.evaluate(run).scores.targets.shape[0] == 8
    (explained,) = softfree.explain(run, files[:1], out=str(tmp_path / "maps"), method="gradient")
    assert len(explained.maps) == 1
    assert softfree.plan(model="seqnorm_vit_nano_patch16", size=224).parameters > 1e6
    assert softfree.create_model("sima_vit_nano_patch16", num_classes=3).num_classes == 3


def test_images_need_no_extra(run: Run, tmp_path: Path) -> None:
    table = run.config["options"]["table"]
    code = "from softfree.cli.main import main\nimport softfree.training.loop\n"
    code += "assert main(['check', sys.argv[1], '--progress', 'false']) == 0\n"
    code += "assert main(['predict', sys.argv[2], sys.argv[1], '--json', '--out', sys.argv[3]]) == 0\n"
    done = python(code, table, str(run.folder), str(tmp_path / "predictions.csv"))
    assert (done.returncode, "readable" in done.stdout, '"p_high"' in done.stdout) == (0, True, True), done.stderr


def test_what_is_not_installed_is_one_line_with_the_command(tmp_path: Path) -> None:
    """One process checks a table of each kind, one after the other."""
    extras = {".nii.gz": "volumes", ".svs": "slides", ".h5": "slides"}
    for number, ending in enumerate(extras):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in "ab":
            (folder / f"{name}{ending}").write_bytes(b"nothing" + name.encode())
        rows = "".join(f"{name}{ending},{name},{name},train\n" for name in "ab")
        (folder / "t.csv").write_text("path,label,patient_id,split\n" + rows)
    code = "from softfree.cli.main import main\nfor t in sys.argv[1:]: assert main(['check', t, '--no-progress']) == 2"
    done = python(code, *(str(tmp_path / str(number) / "t.csv") for number in range(len(extras))))
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("softfree: error: ")]
    for extra, line in zip(extras.values(), lines, strict=True):
        assert f"pip install 'softfree[{extra}]'" in line
