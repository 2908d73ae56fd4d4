import errno
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from multiprocessing import Pipe
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from lightning.fabric.utilities.rank_zero import _get_rank, rank_zero_only
from lightning.pytorch.strategies.launchers import subprocess_script as launcher
from PIL import Image
from safetensors.torch import load_file
from tests.processes import fork, needs_fork

from softfree.cli.main import main
from softfree.inference.run import Run
from softfree.inference.run_directory import RunDirectory
from softfree.training.checkpoints import read_checkpoint
from softfree.training.loop import resume, train
from softfree.training.module import ClassifierModule
from softfree_runtime.core.errors import UserError


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def same(a: Path, b: Path) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_holds_all_that_is_promised_and_no_names(options_with_figures):
    run = train(options_with_figures(epochs=8)).run
    folder = run.folder
    for name in (
        "config.yaml",
        "model.safetensors",
        "calibration.json",
        "metrics.json",
        "predictions.csv",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    assert (folder / "checkpoints" / "last.ckpt").is_file()
    assert (folder / "report.html").read_text().count("<svg role") >= 5  # the figures
    assert any((folder / "logs" / "tensorboard").iterdir())
    measured = json.loads((folder / "metrics.json").read_text())
    assert measured["split"] == "test"
    assert measured["n"] == 8
    assert measured["patients"] == 4
    auroc = measured["metrics"]["auroc"]
    assert {"value", "low", "high", "method", "n", "n_positive"} <= auroc.keys()
    assert auroc["value"] == 1.0  # top against bottom is easy
    history = RunDirectory(folder).read_history()
    assert history["epoch"].tolist() == list(range(8))
    assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]
    for path in folder.rglob("*"):
        if path.is_file():
            assert b"patient1" not in path.read_bytes(), f"{path} names a patient"
    predictions = pd.read_csv(folder / "predictions.csv")
    assert set(predictions["split"]) == {"val", "test"}
    assert "path" not in predictions


def simpler(folder: Path) -> dict[str, dict]:
    return json.loads((folder / "metrics.json").read_text())["baselines"]


def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(options_for):
    train(options_for("a", epochs=2))
    train(options_for("b", epochs=2))
    train(options_for("c", epochs=2, seed=1))
    assert same(options_for("a").out, options_for("b").out)
    assert not same(options_for("a").out, options_for("c").out)


@pytest.mark.parametrize(
    "extra",
    [{}, pytest.param({"ema": 0.9}, marks=pytest.mark.slow), {"patience": 5}, {"num_workers": 1, "start_size": 16}],
    ids=str,
)  # workers must learn of the size, too
def test_resume_goes_on_exactly(options_for, monkeypatch, extra):
    whole = train(options_for("whole", **extra)).run
    original = ClassifierModule.training_step

    def interrupted(self, batch, number):
        if (self.current_epoch, number) == (2, 1):
            raise KeyboardInterrupt
        return original(self, batch, number)

    monkeypatch.setattr(ClassifierModule, "training_step", interrupted)
    with pytest.raises(UserError, match="stopped by Ctrl-C; resume with: softfree train --resume"):
        train(options_for("broken", **extra))
    monkeypatch.undo()
    broken = options_for("broken").out
    with pytest.raises(UserError, match="training did not finish"):
        Run.load(broken)
    last = broken / "checkpoints" / "last.ckpt"
    checkpoint = read_checkpoint(last)
    checkpoint["callbacks"]["ResourceUsage"]["seconds"] += 1000  # as if the first session had been long
    torch.save(checkpoint, last)
    resume(broken)
    cost, before = RunDirectory(broken).read_cost(), checkpoint["callbacks"]["ResourceUsage"]
    assert 1000 < before["seconds"] < cost["seconds"] + 0.1, "rounded"
    assert before["cpu_seconds"] < cost["cpu_seconds"] + 0.1
    assert not cost["resumed"]
    assert same(whole.folder, broken)
    assert list(simpler(broken)["models"]) == ["32 x 32 pixels"]
    assert simpler(broken) == simpler(whole.folder)
    assert RunDirectory(broken).read_history()["epoch"].tolist() == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_that_was_killed_after_its_report_is_not_finished(options_for, monkeypatch):
    def kill(*_):
        raise InterruptedError

    options = options_for(epochs=1)
    directory = RunDirectory(options.out)
    with monkeypatch.context() as patch:
        patch.setattr(RunDirectory, "write_digests", kill)
        with pytest.raises(InterruptedError):
            train(options)
    assert directory.report.is_file()
    assert directory.phantoms.is_file()
    assert not directory.is_finished()
    assert resume(options.out).evaluation is not None
    assert directory.digests.is_file()
    assert directory.is_finished()
    assert resume(options.out).evaluation is None
    for path in (directory.digests, directory.phantoms):  # as an earlier version left it
        path.unlink()
    assert directory.is_finished()


@pytest.mark.slow
def test_a_killed_run_goes_on_exactly(options_for):
    options = options_for("killed", epochs=30)
    arguments = [
        "train", str(options.table), "--out", str(options.out), "--size", "32", "--batch-size", "4", "--epochs", "30",
        "--model", options.model, "--lr", "2e-3", "--progress=false",
        "--model-options", "{depth: 2, embed_dim: 32, num_heads: 2, patch_size: 8}",
    ]  # fmt: skip
    process = subprocess.Popen([sys.executable, "-m", "softfree", *arguments])
    while not (options.out / "checkpoints" / "last.ckpt").is_file():
        assert process.poll() is None, "the training ended too soon"
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (options.out / "model.safetensors").exists()
    resume(options.out)
    whole = train(options_for("whole", epochs=30)).run
    assert same(whole.folder, options.out)
    assert simpler(whole.folder) == simpler(options.out)


def test_moved_and_killed_after_its_best_epoch_a_training_keeps_it(options_for, monkeypatch):
    patient = {"patience": 2, "epochs": 8, "lr": 2e-2}
    whole = train(options_for("whole", **patient)).run
    history = whole.directory.read_history()["val_auroc"].tolist()
    best = history.index(max(history))
    original = ClassifierModule.training_step

    def interrupted(self, batch, number):
        if (self.current_epoch, number) == (best + 1, 1):
            raise KeyboardInterrupt
        return original(self, batch, number)

    with monkeypatch.context() as patched:
        patched.setattr(ClassifierModule, "training_step", interrupted)
        with pytest.raises(UserError, match="Ctrl-C"):
            train(options_for("broken", **patient))
    moved = options_for("elsewhere").out
    options_for("broken").out.rename(moved)
    resume(moved)
    assert same(whole.folder, moved)
    (moved / "model.safetensors").unlink()  # as after a kill before the weights were written
    resume(moved)
    assert same(whole.folder, moved)
    assert RunDirectory(moved).read_history()["val_auroc"].tolist() == history
    before = {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()}
    resume(moved)  # nothing is left to do, and nothing changes
    assert {path: path.read_bytes() for path in moved.rglob("*") if path.is_file()} == before
    (moved / "model.safetensors").unlink()
    (moved / "checkpoints" / "best.ckpt").unlink()
    with pytest.raises(UserError, match=r"best\.ckpt, the epoch that --patience keeps, is missing or damaged"):
        resume(moved)  # the last epoch's weights would be others


def test_patience_without_an_auroc_ends_nothing_and_says_so(options_for, small_table, capsys):
    rows = pd.read_csv(small_table)
    rows[(rows["split"] == "train") | (rows["label"] == "low")].to_csv(small_table, index=False)
    run = train(options_for(patience=1, epochs=3)).run
    assert run.directory.read_history()["epoch"].tolist() == [0, 1, 2]
    assert " ".join(capsys.readouterr().err.split()).count("--patience has no effect") == 1
    last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(value, last[f"model.{name}"]) for name, value in weights(run.folder).items())


def test_a_table_that_was_moved_is_named_to_go_on(options_for, small_table, monkeypatch):
    options = options_for(epochs=1)
    whole = train(options).run
    moved = small_table.parent.with_name("moved")
    small_table.parent.rename(moved)
    with pytest.raises(UserError, match="softfree train TABLE --resume"):
        resume(options.out)
    for name in ("model.safetensors", "report.html"):
        (options.out / name).unlink()
    resume(options.out, moved / small_table.name)
    assert same(whole.folder, options.out)
    (options.out / "report.html").unlink()
    resume(options.out)  # the path is remembered
    (moved / small_table.name).write_text((moved / small_table.name).read_text().replace("high", "tall"))
    with pytest.raises(UserError, match="has changed"):
        resume(options.out, moved / small_table.name)


@pytest.mark.parametrize(
    ("batch_size", "cut", "extra"),
    [
        (4, (1, 4), {"class_weights": True, "drop_path": 0.5}),
        pytest.param(4, (1, 4), {"label_smoothing": 0.2}, marks=pytest.mark.slow),
        (4, (1, 4), {"preset": "photo", "mixup": 0.5, "cutmix": 0.5}),
        # Fewer images than a step, and a last batch that is smaller.
        pytest.param(32, (3, 6), {"drop_path": 0.5, "grad_checkpointing": True}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_step_is_the_same_however_it_is_cut_into_batches(options_for, small_table, batch_size, cut, extra):
    table = pd.read_csv(small_table)
    table[(table["label"] == "low") | (table.index % 3 == 0) | (table["split"] != "train")].to_csv(
        small_table, index=False
    )
    common = {"epochs": 2, **extra}
    whole = train(options_for("whole", batch_size=batch_size, **common)).run
    parts = train(options_for("cut", batch_size=cut[0], grad_accum=cut[1], **common)).run
    without = common | {name: type(value)(0) for name, value in extra.items() if name != "preset"}
    plain = train(options_for("plain", batch_size=batch_size, **without)).run
    first, second, third = weights(whole.folder), weights(parts.folder), weights(plain.folder)
    assert max(float((first[name] - second[name]).abs().max()) for name in first) < 2e-4
    assert max(float((third[name] - second[name]).abs().max()) for name in first) > 2e-3


def test_a_failed_start_leaves_nothing_in_the_way(options_for, monkeypatch):
    options = options_for()
    monkeypatch.setattr("softfree.training.loop.read_samples", lambda *_: pytest.fail("images were read"))
    for change in ({"model": "seqnorm_vit_tinny_patch16"}, {"accelerator": "cud"}, {"weights": "no/such.safetensors"}):
        with pytest.raises(UserError):
            train(options_for(**change))
        assert not options.out.exists()
    monkeypatch.setattr("softfree.training.loop.read_samples", lambda *_: (_ for _ in ()).throw(UserError("no file")))
    with pytest.raises(UserError, match="no file"):
        train(options)
    monkeypatch.undo()
    old = os.umask(0o027)
    try:
        run = train(options_for(epochs=1)).run
    finally:
        os.umask(old)
    for name in ("model.safetensors", "config.yaml", "metrics.json", "report.html"):
        assert (run.folder / name).stat().st_mode & 0o777 == 0o640, name


def test_a_training_tells_how_it_goes_a_line_an_epoch(options_for, capsys):
    train(options_for(epochs=2, start_size=16, progress=True))
    stderr = capsys.readouterr().err
    assert "images   16 pixels from epoch 1 on, 32 pixels from epoch 2 on" in stderr
    assert "data     16 train, 8 val, 8 test samples of 16 patients; binary: high, low" in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("epoch ")]
    assert [line.split(":")[0] for line in lines] == ["epoch 1/2", "epoch 2/2"]
    assert re.fullmatch(r"epoch 1/2: loss 0\.\d{3}, validation 0\.\d{3}, AUROC [01]\.\d{3}, \d+ s left", lines[0])
    assert all(len(line) <= 80 for line in stderr.splitlines() if not line.startswith("expected"))


def test_a_loss_that_is_not_finite_names_step_and_files(options_for):
    with pytest.raises(UserError, match=r"the loss is nan at epoch \d, step \d+; .*batch: .*\.png"):
        train(options_for(lr=1e30, grad_clip=0))


def test_a_folder_in_use_is_refused(options_for):
    options = options_for()
    options.out.mkdir()
    (options.out / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="already exists and is not empty"):
        train(options)
    assert (options.out / "notes.txt").read_text() == "mine"


def test_a_full_disk_is_one_line(options_for, monkeypatch):
    def full(self, *args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="No space left on device; free some space"):
        train(options_for())


def test_a_disk_that_fills_up_while_training_is_one_line(options_for, monkeypatch):
    def full(self, trainer, filepath):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("lightning.pytorch.callbacks.ModelCheckpoint._save_checkpoint", full)
    with pytest.raises(UserError, match="No space left on device; free some space, then resume with"):
        train(options_for())


class Evil:
    def __reduce__(self):
        return os.system, ("touch /tmp/softfree-was-here",)


def test_a_checkpoint_with_a_pickle_inside_is_not_opened(options_for, monkeypatch):
    options = options_for()
    monkeypatch.setattr(RunDirectory, "write_weights", lambda *_: (_ for _ in ()).throw(UserError("stop")))
    with pytest.raises(UserError, match="stop"):
        train(options)
    monkeypatch.undo()
    checkpoint = options.out / "checkpoints" / "last.ckpt"
    (options.out / "checkpoints" / "previous.ckpt").unlink()
    torch.save({"state_dict": Evil()}, checkpoint)
    with pytest.raises(UserError, match="contains more than weights, and was not opened"):
        resume(options.out)
    checkpoint.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match=r"not opened|damaged"):
        resume(options.out)
    assert not Path("/tmp/softfree-was-here").exists()


def test_unreadable_images_are_left_out_and_counted(options_for, capsys):
    options = options_for(epochs=1)
    folder = options.table.parent
    (folder / "00.png").write_bytes(b"")
    (folder / "16.png").unlink()  # validation
    (folder / "31.png").write_bytes((folder / "30.png").read_bytes()[:200])  # test
    run = train(options).run
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert config["table"]["unreadable"] == 2
    predictions = pd.read_csv(run.folder / "predictions.csv")
    assert predictions.set_index("row").loc[16, "status"] == "missing"
    assert predictions.set_index("row").loc[31, "status"] == "corrupt"
    assert "2 samples cannot be read and are skipped" in capsys.readouterr().err
    assert "1 of 8 samples of this split were unreadable" in (run.folder / "report.html").read_text()
    assert simpler(run.folder)["models"]["32 x 32 pixels"]["n"] == 7


@pytest.mark.parametrize(
    "extra", [{}, {"num_workers": 1, "cache": "memory"}, {"resize_mode": "native", "batch_size": 1}], ids=str
)
def test_what_the_size_tells_and_copies_across_splits_are_named(options_for, capsys, extra):
    """Images of one class are wider, and a noisy copy of a training image is in test."""
    options = options_for(epochs=1, **extra)
    table = pd.read_csv(options.table)
    for path, label in zip(table["path"], table["label"], strict=True):
        image = Image.open(options.table.parent / path)
        image.resize((40 + 8 * (label == "high"), 48)).save(options.table.parent / path)
    copied = np.asarray(Image.open(options.table.parent / "03.png"))
    noise = np.random.default_rng(0).integers(0, 5, copied.shape, dtype=np.uint8)
    Image.fromarray(copied + noise).save(options.table.parent / "31.png")
    run = train(options).run
    size = simpler(run.folder)["models"]["height, width and aspect ratio alone"]
    assert (size["value"], size["n"]) == (1.0, 8)
    assert any("ratio alone reaches AUROC 1.000, no less than" in said for said in simpler(run.folder)["warnings"])
    said = "1 pair of identical or nearly identical images in different splits, so that scores are optimistic:"
    said += " rows 3 (train) and"
    pairs = pd.read_csv(run.folder / "near_duplicates.csv")
    assert pairs.drop(columns="similarity").values.tolist() == [[3, "train", 31, "test"]]
    assert f"{said} 31 (test); all are in near_duplicates.csv" in capsys.readouterr().err
    assert f"{said} 31 (test)" in (run.folder / "report.html").read_text()


def test_a_table_whose_every_file_is_bad_is_refused(options_for):
    options = options_for()
    for path in options.table.parent.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="none of the 16 samples of split train can be read"):
        train(options)


def test_several_findings_with_unknowns(options_for, small_table):
    table = pd.read_csv(small_table)
    table["top"] = (table["label"] == "high").astype(object)
    table["bottom"] = (table["label"] == "low").astype(float)
    table.loc[table.index % 5 == 0, "bottom"] = np.nan
    table["top"] = table["top"].astype(int)
    table.to_csv(small_table, index=False)
    run = train(options_for(labels=["top", "bottom"], class_weights=True, epochs=2)).run
    measured = json.loads((run.folder / "metrics.json").read_text())
    assert measured["task"] == "multilabel"
    assert {"auroc", "auroc/top", "auroc/bottom"} <= measured["metrics"].keys()
    assert measured["baselines"]["models"]["32 x 32 pixels"]["value"] == 1.0


def test_color_with_mixup_smoothing_and_accumulation(options_for, small_table):
    for path in small_table.parent.glob("*.png"):
        Image.open(path).convert("RGB").save(path)
    run = train(
        options_for(preset="photo", mixup=0.2, label_smoothing=0.1, grad_accum=2, layer_decay=0.8, epochs=2)
    ).run
    assert run.preprocessing.channels == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "--epochs 0: expected 1 or more"),
        ({"warmup_fraction": 1.5}, "--warmup-fraction 1.5"),
        ({"mixup": 0.2}, "--mixup and --cutmix are for the color presets"),
        ({"precision": "fp16"}, "--precision fp16 needs a GPU"),
        ({"batch_size": 3, "devices": 2}, "cannot be shared by 2 devices"),
        ({"resize_mode": "native"}, "use --batch-size 1"),
        ({"size": 8}, "expected at least 16 pixels"),
        ({"model": "seqnorm_vit_tinny_patch16"}, "seqnorm_vit_tiny_patch16"),
        ({"accelerator": "gpu"}, "see --accelerator"),
        ({"weights": "no/such.safetensors"}, "no/such.safetensors"),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_in_one_line(options_for, change, message):
    if change.get("accelerator") == "gpu" and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        train(options_for(**change))
    assert "\n" not in str(caught.value)


def test_native_sizes_train_one_by_one(options_for):
    run = train(options_for(resize_mode="native", batch_size=1, grad_accum=4, epochs=1)).run
    first = run.predict(np.full((30, 70), 90, np.uint8))
    assert first["status"].tolist() == ["ok"]


def _train_two(arguments: list[str]) -> None:
    """Train in two processes, started as by the command line."""
    done = subprocess.run([sys.executable, "-m", "softfree", *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def _torchrun_two(arguments: list[str]) -> None:
    """The same with torchrun, as ``ray job submit`` would start it."""
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "softfree"]
    done = subprocess.run([sys.executable, "-m", *launcher, *arguments], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr


def _srun_two(arguments: list[str]) -> None:
    """The same with the variables that SLURM sets for each task."""
    common = {
        "SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "train", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2",
        "SLURM_NODEID": "0", "SLURM_JOB_NODELIST": "127.0.0.1", "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip
    tasks = [
        subprocess.Popen(
            [sys.executable, "-m", "softfree", *arguments],
            env=os.environ | common | {"SLURM_PROCID": str(number), "SLURM_LOCALID": str(number)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        errors = [task.communicate(timeout=900)[1] for task in tasks]
        assert [task.returncode for task in tasks] == [0, 0], errors
    finally:
        for task in tasks:
            task.kill()


def _fork_two(arguments: list[str]) -> None:
    """The same in copies of this process; the second waits until Lightning, in the first, would start it."""
    receiving, sending = Pipe(duplex=False)

    def first():
        def popen(command, env, cwd):
            sending.send(env)
            return SimpleNamespace(poll=lambda: None, returncode=None)

        launcher.subprocess = SimpleNamespace(Popen=popen)
        sys.exit(main(arguments))

    def second():
        os.environ.update(receiving.recv())
        rank_zero_only.rank = _get_rank()  # as on import
        sys.exit(main(arguments))

    processes = [fork(first), fork(second)]
    try:
        for process in processes:
            process.join(120)
        assert [process.exitcode for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()


@pytest.mark.parametrize(
    "train_two",
    [
        pytest.param(_fork_two, marks=needs_fork),
        *(pytest.param(train_two, marks=pytest.mark.slow) for train_two in (_train_two, _torchrun_two, _srun_two)),
    ],
    ids=["forks", "command", "torchrun", "slurm"],
)
def test_two_processes_give_what_one_gives(options_for, train_two):
    common = {"drop_path": 0.0, "batch_size": 4, "epochs": 2}
    one = train(options_for("one", **common)).run
    options = options_for("two", **common)
    train_two([
        "train", str(options.table), "--out", str(options.out), "--size", "32", "--batch-size", "4", "--epochs", "2",
        "--model", options.model, "--lr", "2e-3", "--drop-path", "0", "--progress=false", "--accelerator", "cpu",
        "--model-options", "{depth: 2, embed_dim: 32, num_heads: 2, patch_size: 8}",
        "--devices", "2", "--strategy", "ddp",
    ])  # fmt: skip
    for name, value in weights(one.folder).items():
        # Adam divides by the gradient's size, so that parameters without influence carry rounding on.
        torch.testing.assert_close(weights(options.out)[name], value, rtol=1e-3, atol=1e-3)
    first, second = one.directory.read_history(), RunDirectory(options.out).read_history()
    np.testing.assert_allclose(first["val_loss"], second["val_loss"], rtol=1e-4)
    np.testing.assert_allclose(first["val_auroc"], second["val_auroc"], atol=1e-9)
