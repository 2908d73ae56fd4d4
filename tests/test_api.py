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


# An image run is used, then a table of each kind that needs more is checked.
USES = """
import softfree.training.loop
from softfree.cli.main import main
run, table, out, *tables = sys.argv[1:]
assert main(["check", table, "--progress", "false"]) == 0
assert main(["predict", run, table, "--json", "--out", out]) == 0
for table in tables:
    assert main(["check", table, "--no-progress"]) == 2
"""


def test_images_need_no_extra_and_others_name_theirs_in_one_line(run: Run, tmp_path: Path) -> None:
    extras = {".nii.gz": "volumes", ".svs": "slides", ".h5": "slides"}
    for number, ending in enumerate(extras):
        folder = tmp_path / str(number)
        folder.mkdir()
        for name in "ab":
            (folder / f"{name}{ending}").write_bytes(b"nothing" + name.encode())
        rows = "".join(f"{name}{ending},{name},{name},train\n" for name in "ab")
        (folder / "t.csv").write_text("path,label,patient_id,split\n" + rows)
    arguments = [str(run.folder), run.config["options"]["table"], str(tmp_path / "predictions.csv")]
    arguments += [str(tmp_path / str(number) / "t.csv") for number in range(len(extras))]
    done = subprocess.run([sys.executable, "-c", BLOCKED + USES, *arguments], capture_output=True, text=True)
    assert (done.returncode, "readable" in done.stdout, '"p_high"' in done.stdout) == (0, True, True), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("softfree: error: ")]
    for extra, line in zip(extras.values(), lines, strict=True):
        assert f"pip install 'softfree[{extra}]'" in line
