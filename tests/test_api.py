"""The public functions, and what must be installed for which of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import softfree
from softfree.core.choices import checked
from softfree.core.options import TrainOptions
from softfree.inference.run import Run
from softfree_runtime.core.errors import UserError

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


@pytest.mark.parametrize(
    ("function", "options", "message"),
    [
        (softfree.export, {"precision": "float16"}, "precision 'float16': expected fp32 or fp16"),
        (softfree.export, {"format": "ONNX"}, "format 'ONNX': expected onnx, openvino or executorch"),
        (softfree.export, {"int8": None}, "int8 None: expected none, static or weights"),
        (softfree.explain, {"inputs": [], "stream": True}, "stream True: expected auto, always or never"),
        (softfree.predict, {"inputs": [], "precision": "half"}, "precision 'half': expected fp32, bf16 or fp16"),
        (softfree.evaluate, {"split": "all"}, "split 'all': expected train, val, test or None"),
        (softfree.train, {"out": "new", "lr": "5e-4"}, "lr '5e-4': expected find or a number"),
        (softfree.pretrain, {"out": "new", "channels": 2}, "channels 2: expected 1, 3 or None"),
        (softfree.plan, {"device": "cuda"}, "device 'cuda': expected cpu or gpu"),
        (softfree.train, {"out": "new", "epochs": "ten"}, "epochs 'ten': expected a whole number"),
        (softfree.train, {"out": "new", "size": None}, "size None: expected a whole number"),
        (softfree.train, {"out": "new", "shape": [8, "big"]}, "shape [8, 'big']: expected a list of whole numbers"),
        (
            softfree.train,
            {"out": "new", "model_options": 3},
            "model_options 3: expected a mapping, such as {name: value}",
        ),
        (softfree.auto, {"out": "new", "seed": -1}, "--seed -1: expected a whole number from 0 to 4294967295"),
    ],
)
def test_choices_are_those_of_the_commands(
    function: Callable[..., Any], options: dict[str, Any], message: str, run: Run
) -> None:
    first = () if function is softfree.plan else (run.folder,)
    with pytest.raises(UserError) as error:
        function(*first, **options)
    assert str(error.value) == message


def test_each_kind_of_choice_is_taken() -> None:
    for more in (
        {"lr": "find", "channels": 3},
        {"lr": 1, "channels": None, "loss": "huber"},
        {"epochs": np.int64(3), "shape": (8, 8, 8), "window": np.array([0.0, 1.0]), "positive": 1, "augment": 0},
    ):
        options = TrainOptions(table=Path("t.csv"), out=Path("new"), **more)  # type: ignore[arg-type]
        assert checked(options) is options


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
