"""One model of several targets: each has the results that a run of it alone has, from training to the light runtime."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from softfree.cli.main import main
from softfree.evaluation.metrics import measure
from softfree.evaluation.scores import Scores
from softfree.evaluation.survival_metrics import c_index
from softfree.inference.run import Run
from softfree.training.loop import resume
from softfree.training.module import ClassifierModule
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.outputs import probabilities
from softfree_runtime.core.targets import Targets
from softfree_runtime.core.task import Task

TRAIN = {
    "model": "seqnorm_vit_nano_patch16", "size": 32, "epochs": 2, "lr": 0.003, "batch-size": 8, "accelerator": "cpu",
    "model-options": {"depth": 1, "embed_dim": 32, "num_heads": 2, "patch_size": 8},
}  # fmt: skip
QUICK = [part for name, value in TRAIN.items() for part in (f"--{name}", json.dumps(value).strip('"'))]
TARGETS = """
- {name: ill, kind: classes, column: label, positive: low}
- {name: grade, kind: ordinal, column: grade, classes: [none, mild, severe]}
- {name: volume, kind: regression, column: ml, weight: 2}
- {name: signs, kind: findings, columns: [one, two]}
- {name: death, kind: survival, time: days, event: died, cuts: [100, 250, 600], horizons: [200, 400]}
- {name: relapse, kind: survival, time: weeks, event: back, loss: cox}
"""
NAMES = ["ill", "grade", "volume", "signs", "death", "relapse"]
TIMES = {"death": ["days", "died"], "relapse": ["weeks", "back"]}

pytestmark = pytest.mark.usefixtures("without_figures")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 small images with six targets, most unknown in some rows; beside it ``targets.yaml``."""
    folder, rng = tmp_path_factory.mktemp("targets"), np.random.default_rng(0)
    rows = []
    for number in range(48):
        ml, high = rng.uniform(2000, 4000), number // 2 % 2
        pixels = rng.integers(0, 60, (40, 40), dtype=np.uint8)
        pixels[:20] += np.uint8((ml - 2000) / 15)
        pixels[20 * high : 20 * high + 20, :20] += 60
        Image.fromarray(pixels).save(folder / f"{number}.png")
        split = "train" if number < 24 else "val" if number < 36 else "test"
        grade = ["none", "mild", "severe"][int((ml - 2000) // 667)]
        signs = rng.integers(0, 2, 2)
        rows.append((f"{number}.png", ["low", "high"][high], grade, round(ml, 1), *signs, f"p{number}", split))
    columns = ["path", "label", "grade", "ml", "one", "two", "patient_id", "split"]
    frame = pd.DataFrame(rows, columns=columns).astype(object)
    for name in ("grade", "ml", "one"):
        frame[name] = frame[name].where(rng.random(48) > 0.2)
    for time, event in TIMES.values():  # brighter images have a higher hazard
        at, end = rng.exponential(300, 48), rng.uniform(100, 900, 48)
        frame[time] = np.minimum(at, end).round(1)
        frame[event] = (at <= end).astype(int)
        frame.loc[rng.random(48) < 0.2, [time, event]] = None
    frame.to_csv(folder / "table.csv", index=False)
    (folder / "targets.yaml").write_text(TARGETS)
    return folder / "table.csv"


def arguments(table: Path, *further: str) -> list[str]:
    return ["train", str(table), "--targets", str(table.with_name("targets.yaml")), *QUICK, "--no-progress", *further]


@pytest.fixture(scope="module")
def run(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("runs") / "run"
    assert main(arguments(table, "--out", str(out))) == 0
    return Run.load(out)


def test_a_run_has_a_run_directory_for_each_target(run: Run, table: Path) -> None:
    assert isinstance(run.task, Targets)
    assert list(run.parts) == NAMES
    kinds = ["binary", "ordinal", "regression", "multilabel", "survival", "survival"]
    assert [part.task.kind for part in run.parts.values()] == kinds
    frame = pd.read_csv(table).set_index(pd.Index(range(48)))
    columns = {"ill": ["label"], "grade": ["grade"], "volume": ["ml"], "signs": ["one", "two"], **TIMES}
    for name, part in run.parts.items():
        own = part.directory.read_predictions().set_index("row")
        known = frame[columns[name]].notna().any(axis=1) & (frame["split"] != "train")
        assert own.index.tolist() == frame.index[known].tolist()
        assert part.directory.read_metrics()["n"] == (frame["split"][own.index] == "test").sum()
        assert not part.directory.weights.exists()
        assert {"val_loss"} < set(part.directory.read_history().columns)
    mean = run.config["target"]["volume"]
    known = frame.loc[(frame["split"] == "train") & frame["ml"].notna(), "ml"].astype(float)
    assert mean == pytest.approx({"mean": known.mean(), "standard_deviation": known.std(ddof=0)})


def test_each_target_has_the_metrics_of_its_own_outputs(run: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    images = torch.stack([torch.as_tensor(run.preprocessing.load(table.with_name(path))) for path in frame["path"]])
    with torch.inference_mode():
        logits = run.model(images).double().numpy()
    test = (frame["split"] == "test") & frame["grade"].notna()
    part = run.parts["grade"]
    truth = frame["grade"].map({"none": 0, "mild": 1, "severe": 2})[test].to_numpy(int)
    scores = probabilities(logits[test, 2:4], part.task, part.calibration.temperature)
    expected = measure(Scores(Task("ordinal", ("none", "mild", "severe")), scores, truth, np.arange(len(truth))), None)
    found = part.directory.read_metrics()["metrics"]
    for name in ("auroc", "quadratic_kappa", "mae"):
        assert found[name]["value"] == pytest.approx(expected[name].value, abs=1e-6)
    test = (frame["split"] == "test") & frame["ml"].notna()
    standard = run.config["target"]["volume"]
    values = logits[test, 4] * standard["standard_deviation"] + standard["mean"]
    errors = np.abs(values - frame["ml"][test].astype(float))
    metrics = run.directory.read_metrics()
    assert metrics["metrics"]["volume.mae"]["value"] == pytest.approx(errors.mean(), rel=1e-5)
    assert metrics["metrics"]["grade.auroc"] == found["auroc"]
    for name, part in run.parts.items():  # the sliced model has the outputs of the whole
        with torch.inference_mode():
            own = part.model(images).double().numpy()
        np.testing.assert_allclose(own, logits[:, run.task.output_slices()[name]], atol=1e-6)


def test_survival_targets_have_the_times_and_metrics_of_their_own_rows(run: Run, table: Path) -> None:
    frame = pd.read_csv(table)
    death, relapse = (run.parts[name] for name in TIMES)
    assert death.task == Task("survival", ("days",), (100.0, 250.0, 600.0))
    assert relapse.task == Task("survival", ("weeks",))
    assert death.config["options"] | {"label": "days", "event": "died", "loss": "hazard"} == death.config["options"]
    train = frame[(frame["split"] == "train") & (frame["back"] == 1)]["weeks"]
    expected = [float(f"{value:.3g}") for value in np.quantile(train, [0.25, 0.5, 0.75])]
    assert run.config["target"]["death"] == {"horizons": [200.0, 400.0]}
    assert run.config["target"]["relapse"]["horizons"] == expected
    images = torch.stack([torch.as_tensor(run.preprocessing.load(table.with_name(path))) for path in frame["path"]])
    with torch.inference_mode():
        logits = run.model(images).double().numpy()
    for name, part in (("death", death), ("relapse", relapse)):
        time, event = TIMES[name]
        test = ((frame["split"] == "test") & frame[time].notna()).to_numpy()
        outputs = logits[test][:, run.task.output_slices()[name]]
        survival = part.calibration.survival
        assert survival is not None
        expected = c_index(survival.risks(outputs, part.task), frame.loc[test, [time, event]].to_numpy())
        assert run.directory.read_metrics()["metrics"][f"{name}.c_index"]["value"] == pytest.approx(expected)
        assert part.directory.read_history()["val_c_index"].between(0, 1).all()  # type: ignore[index]
        assert "Log-rank test between them" in part.directory.report.read_text(encoding="utf-8")
    # Survival at 200 is that at the cut 100, and half of the next interval, whose hazard is constant.
    held = death.directory.read_predictions()
    logits = death.calibration.survival.calibrated(held[["logit_hazard_1", "logit_hazard_2"]])  # type: ignore[union-attr]
    steps = np.logaddexp(0, logits)
    np.testing.assert_allclose(held["survival_200"], np.exp(-steps @ [1, 2 / 3]), rtol=1e-6)
    validation = relapse.directory.read_predictions().query("split == 'val'")
    assert relapse.calibration.survival.center == pytest.approx(validation["logit_log_hazard"].mean())  # type: ignore[union-attr]
    page = run.directory.report.read_text(encoding="utf-8")
    assert "C-index " in page
    assert "the time to an event" in page


def test_the_page_over_all_leads_to_that_of_each_target(run: Run) -> None:
    page = run.directory.report.read_text(encoding="utf-8")
    for name in NAMES:
        assert f'<a href="targets/{name}/report.html">{name}</a>' in page
        assert run.directory.target(name).joinpath("report.html").is_file()
    assert "AUROC " in page
    assert "Mean absolute error " in page


def test_predictions_have_the_columns_of_each_target_and_agree_with_them(run: Run, table: Path, tmp_path: Path) -> None:
    assert main(["predict", str(run.folder), str(table), "--out", str(tmp_path / "p.csv")]) == 0
    rows = pd.read_csv(tmp_path / "p.csv")
    own = [f"ill.{name}" for name in ("p_high", "p_low", "raw_high", "raw_low", "predicted", "set", "abstain")]
    own += [f"grade.{kind}_{name}" for kind in ("p", "raw") for name in ("none", "mild", "severe")]
    own += ["grade.predicted", "grade.set", "grade.abstain", "volume.value", "volume.low", "volume.high"]
    own += [f"signs.{name}" for name in ("p_one", "p_two", "raw_one", "raw_two", "predicted", "set_one", "set_two")]
    own += ["signs.abstain", "death.risk", "death.survival_200", "death.survival_400", "relapse.risk"]
    own += [f"relapse.survival_{time:g}" for time in run.config["target"]["relapse"]["horizons"]]
    assert rows.columns.tolist() == ["path", "status", "reason", *own, "distance", "unusual"]
    for name, part in run.parts.items():
        alone = part.predict(str(table))
        for column in alone.columns.difference(["path", "status", "reason", "distance", "unusual"]):
            one, other = alone[column], rows[f"{name}.{column}"]
            if pd.api.types.is_float_dtype(one):
                np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
            else:
                assert one.fillna("").astype(str).tolist() == other.fillna("").astype(str).tolist()
        held = part.directory.read_predictions().set_index("row")
        column = {"volume": "value", "ill": "p_low", "grade": "p_mild", "signs": "p_two"}.get(name, "risk")
        np.testing.assert_allclose(rows.loc[held.index, f"{name}.{column}"], held[column], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_an_exported_file_gives_the_same_columns_without_torch(run: Run, table: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.metadata import Metadata
    from softfree_runtime.phantoms import check_file
    from softfree_runtime.prediction import predict
    from softfree_runtime.session import Model

    file = tmp_path / "model.onnx"
    assert main(["export", str(run.folder), "--out", str(file)]) == 0
    light, rows = pd.DataFrame(predict(file, str(table))), run.predict(str(table))
    assert light.columns.tolist() == rows.columns.tolist()
    for column in rows:
        if pd.api.types.is_float_dtype(rows[column]):
            np.testing.assert_allclose(light[column].astype(float), rows[column], rtol=1e-4, atol=1e-4)
        else:
            assert light[column].astype(str).tolist() == rows[column].astype(str).tolist()
    assert check_file(file).same
    metadata = Model(file).metadata
    assert list(metadata.targets) == NAMES
    assert "# Target volume" in metadata.card
    assert "volume.mae" in metadata.metrics
    texts = metadata.to_strings()
    without = json.loads(texts["targets"])
    without[4]["survival"] = None
    with pytest.raises(UserError, match=r"target 'death': .*survival is missing"):
        Metadata.from_strings(texts | {"targets": json.dumps(without)}, "x.onnx")
    broken = json.loads(texts["targets"])
    broken[2]["scale"] = None
    with pytest.raises(UserError, match="the scale of target 'volume' is missing"):
        Metadata.from_strings(texts | {"targets": json.dumps(broken)}, "x.onnx")
    broken[0]["temperature"] = -1.0
    broken[2]["scale"] = json.loads(texts["targets"])[2]["scale"]
    with pytest.raises(UserError, match=r"temperature is -1\.0; expected a number above 0"):
        Metadata.from_strings(texts | {"targets": json.dumps(broken)}, "x.onnx")


@pytest.mark.slow
def test_fewer_bits_are_checked_for_each_target_with_classes(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    from softfree_runtime.prediction import predict
    from softfree_runtime.session import Model

    file = tmp_path / "targets.yaml"
    file.write_text("\n".join(TARGETS.splitlines()[k] for k in (1, 2, 4)))  # ill, grade, signs
    words = [str(file) if word.endswith("targets.yaml") else word for word in arguments(table)]
    assert main([*words, "--out", str(tmp_path / "run")]) == 0
    run, half = Run.load(tmp_path / "run"), tmp_path / "half.onnx"
    fewer = ["export", str(run.folder), "--precision", "fp16", "--out", str(half)]
    assert main([*fewer, "--max-shift", "0.000000001"]) == 2
    assert not half.exists()
    assert main(fewer) == 0
    loss = Model(half).metadata.loss
    assert list(loss) == ["ill", "grade", "signs"]
    frame = pd.read_csv(table)
    for name, column in (("ill", "label"), ("grade", "grade")):
        assert loss[name]["n"] == ((frame["split"] == "test") & frame[column].notna()).sum()
        stored = run.directory.read_metrics()["metrics"][f"{name}.auroc"]["value"]
        assert loss[name]["before"] == pytest.approx(stored, abs=1e-6)
        assert 0 < loss[name]["largest_shift"] < 0.01
    light, rows = pd.DataFrame(predict(half, str(table))), run.predict(str(table))
    np.testing.assert_allclose(light["grade.p_mild"].astype(float), rows["grade.p_mild"], atol=0.01)
    assert main(["export", str(run.folder), "--int8", "static", "--margin", "0.9", "--max-shift", "1"]) == 0
    assert (run.folder / "model_int8.onnx").is_file()
    assert Model(run.folder / "model_int8.onnx").metadata.quantized == "static"


def test_a_target_is_evaluated_compared_explained_and_checked_like_a_run(
    run: Run, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["evaluate", str(run.folder), "--json", "--compare-with", str(run.folder)]
    assert main([*whole, "--out", str(tmp_path / "e")]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert list(printed["targets"]) == NAMES
    for name, part in run.parts.items():
        stored = part.directory.read_metrics()["metrics"]
        main_metric = {"volume": "mae", "death": "c_index", "relapse": "c_index"}.get(name, "auroc")
        assert printed["targets"][name]["metrics"][main_metric] == stored[main_metric]
        assert printed["targets"][name]["comparison"]["differences"][main_metric]["value"] == 0
        assert (tmp_path / "e" / "targets" / name / "report.html").is_file()
    assert main(["evaluate", str(run.folder), str(table), "--out", str(tmp_path / "x"), "--split", "test"]) == 0
    assert main(["check", str(run.folder)]) == 0
    assert main(["check", str(run.directory.target("grade"))]) == 0
    image = str(table.with_name("40.png"))
    capsys.readouterr()
    for target, explained in (("grade.severe", "severe"), ("ill", None)):
        out = ["--target", target, "--out", str(tmp_path / "maps"), "--json"]
        assert main(["explain", str(run.folder), image, *out]) == 0
        row = json.loads(capsys.readouterr().out)[0]
        assert row["target"] == (explained or row["predicted"])
    assert main(["report", str(run.folder), "--no-docx", "--out", str(tmp_path / "d")]) == 0
    text = (tmp_path / "d" / "volume" / "methods.md").read_text(encoding="utf-8")
    assert "trained on 6 targets together" in text
    assert "with the weights ill 1, grade 1, volume 2, signs 1, death 1, relapse 1" in text


def test_an_interrupted_training_goes_on_exactly_without_its_file_of_targets(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "targets.yaml"
    file.write_text(TARGETS)
    words = [str(file) if word.endswith("targets.yaml") else word for word in arguments(table, "--patience", "5")]
    assert main([*words, "--out", str(tmp_path / "whole")]) == 0
    original = ClassifierModule.training_step

    def interrupted(self: ClassifierModule, batch: object, number: int) -> object:
        if (self.current_epoch, number) == (1, 1):
            raise KeyboardInterrupt
        return original(self, batch, number)  # type: ignore[arg-type]

    monkeypatch.setattr(ClassifierModule, "training_step", interrupted)
    assert main([*words, "--out", str(tmp_path / "broken")]) == 2
    monkeypatch.undo()
    file.unlink()
    broken, whole = resume(tmp_path / "broken").run, Run.load(tmp_path / "whole")
    assert broken.weights_digest() == whole.weights_digest()
    for name in NAMES:
        first, second = (one.parts[name].directory for one in (whole, broken))
        pd.testing.assert_frame_equal(first.read_predictions(), second.read_predictions())
        assert first.read_history().equals(second.read_history())
        assert json.loads(first.calibration.read_text()) == json.loads(second.calibration.read_text())
    with pytest.raises(UserError, match="is one of several targets of a run: resume"):
        resume(broken.directory.target("grade"))


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["explain", "RUN", "IMAGE"], "works on one target: add --target with one of ill, grade, volume, signs"),
        (["explain", "RUN", "IMAGE", "--target", "death"], "softfree explain does not work on survival"),
        (["explain", "RUN", "IMAGE", "--target", "grad"], "Unknown target 'grad': did you mean grade?"),
        (["compare", "RUN", "RUN/targets/ill"], "compare runs of one task"),
        (["compare", "RUN/targets/grade", "RUN/targets/ill"], "compare runs of one task"),
        (
            ["export", "RUN", "--precision", "fp16"],
            "fp16 is checked by its loss of AUROC, which target 'volume', a regression, does not have; export fp32",
        ),
        (["export", "RUN", "--int8", "weights"], "weights is checked by its loss of AUROC, which target 'volume'"),
        (["evaluate", "RUN", "--label", "grade"], "--label: "),
        (["evaluate", "RUN", "--prevalence", "0.1"], "target 'grade': "),
        (["train", "TABLE", "--targets", "FILE", "--label", "grade"], "--targets names a file with several"),
        (["train", "TABLE", "--targets", "FILE", "--task", "ordinal"], "--targets names a file with several"),
        (["train", "TABLE", "--targets", "FILE", "--teacher", "RUN"], "--teacher is for a run of one target"),
        (["train", "TABLE", "--targets", "FILE", "--mixup", "0.2", "--preset", "photo"], "--mixup is for a run of one"),
        (["train", "TABLE", "--targets", "none.yaml"], "cannot be read: No such file"),
        (["check", "TABLE", "--targets", "FILE"], "softfree check works on one target"),
    ],
)
def test_what_works_on_one_target_says_so_in_a_line(
    run: Run, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], why: str
) -> None:
    places = {"TABLE": table, "FILE": table.with_name("targets.yaml"), "IMAGE": table.with_name("40.png")}
    words = [str(places.get(word, word.replace("RUN", str(run.folder)))) for word in command]
    out = [] if command[0] == "check" else ["--out", str(tmp_path / "new")]
    if command[0] == "export":
        out = ["--out", str(tmp_path / "new.onnx")]
    assert main([*words, *out]) == 2
    error = capsys.readouterr().err
    assert why in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_target_unknown_in_a_split_is_refused(
    table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = pd.read_csv(table)
    for split, words in (("train", "split train"), ("val", "split val")):
        frame.assign(ml=frame["ml"].where(frame["split"] != split)).to_csv(table.with_name("few.csv"), index=False)
        assert main([*arguments(table.with_name("few.csv")), "--out", str(tmp_path / "new")]) == 2
        assert f"target 'volume' has no known cell in the rows of {words}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "words", "why"),
    [
        ({"died": None}, [], "target 'death': TABLE: a row has a time (column 'days') and no cell in column 'died'"),
        ({"days": None}, [], "target 'death': TABLE: a row has an event (column 'died') and no time in column 'days'"),
        ({"days": -3}, [], "target 'death': TABLE: '-3.0' in column 'days' (line 2); expected a finite number"),
        ({"died": 2}, [], "target 'death': TABLE: '2' in column 'died' (line 2); expected 1 (the event happened"),
        ("no event", [], "target 'death': TABLE: column 'died' has no event (1) among "),
        ("no event in val", [], "target 'death': TABLE has no event in split val, so that no epoch can be judged"),
        (None, ["--batch-size", "1"], "target 'relapse': --batch-size 1: the loss cox compares the samples of a batch"),
        (None, ["--cuts", "[50]"], "with --targets write 'cuts: [50.0]' below the target, in FILE"),
        (None, ["--loss", "cox"], "with --targets write 'loss: cox' below the target, in FILE"),
        ({"targets": "horizons: [9999]"}, [], "target 'death': horizons 9999: expected times above 0 and up to 600"),
    ],
)
def test_bad_survival_of_a_target_is_one_line_that_names_it(
    table: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    change: dict[str, object] | str | None,
    words: list[str],
    why: str,
) -> None:
    frame, targets = pd.read_csv(table).astype({"died": object}), TARGETS
    if isinstance(change, str):
        frame["died"] = frame["died"].where(frame["died"].isna() | ((frame["split"] != "val") & ("val" in change)), 0)
    for column, value in change.items() if isinstance(change, dict) else ():
        if column == "targets":
            targets = TARGETS.replace("horizons: [200, 400]", str(value))
            continue
        frame.loc[0, ["days", "died"]] = [5, 1]
        frame.loc[0, column] = value
    for name in ("died", "back"):
        frame[name] = frame[name].astype("Int64")
    file = tmp_path / "targets.yaml"
    file.write_text(targets)
    frame.to_csv(table.with_name("bad.csv"), index=False)
    command = ["train", str(table.with_name("bad.csv")), "--targets", str(file), *QUICK, "--no-progress", *words]
    assert main([*command, "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert why.replace("TABLE", str(table.with_name("bad.csv"))).replace("FILE", str(file)) in error
    assert not (tmp_path / "new").exists()


def test_a_target_unknown_in_all_test_rows_is_evaluated_on_validation(table: Path, tmp_path: Path) -> None:
    frame = pd.read_csv(table)
    frame.assign(ml=frame["ml"].where(frame["split"] != "test")).to_csv(table.with_name("some.csv"), index=False)
    assert main([*arguments(table.with_name("some.csv")), "--out", str(tmp_path / "new")]) == 0
    run = Run.load(tmp_path / "new")
    assert run.directory.read_metrics()["targets"]["volume"]["split"] == "val"
    assert "volume was evaluated on split val" in run.directory.report.read_text(encoding="utf-8")
