import copy
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file
from tests.training.conftest import small_options
from torch import nn
from torch.nn import functional as F

from softfree.inference.run import Run
from softfree.inference.run_directory import Calibration
from softfree.training.distillation import Teacher
from softfree.training.loop import resume, train
from softfree.training.losses import Distillation
from softfree.training.module import ClassifierModule
from softfree_runtime.core.errors import UserError
from softfree_runtime.core.task import Task

THREE, FINDINGS = Task("multiclass", ("a", "b", "c")), Task("multilabel", ("a", "b", "c"))


@pytest.fixture
def logits():
    torch.manual_seed(0)
    return torch.randn(4, 3, requires_grad=True), torch.randn(4, 3)


@pytest.fixture(scope="module")
def trained_teacher(tmp_path_factory, make_small_table):
    folder = tmp_path_factory.mktemp("teacher")
    table = make_small_table(folder / "data")
    return train(small_options(table, folder / "teacher", model="softmax_vit_nano_patch16")).run


@pytest.fixture
def teacher_run(trained_teacher, tmp_path):
    """A copy of the test's own."""
    return Run.load(shutil.copytree(trained_teacher.folder, tmp_path / "teacher"))


def weights(run: Run):
    return load_file(run.folder / "model.safetensors")


def same(a: Run, b: Run) -> bool:
    first, second = weights(a), weights(b)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_the_loss_of_classes_is_the_divergence_from_the_teacher(logits):
    student, teacher = logits
    for temperature in (1.0, 3.0):
        p, q = (teacher / temperature).softmax(1), (student / temperature).softmax(1)
        wanted = temperature**2 * (p * (p / q).log()).sum(1).mean()
        torch.testing.assert_close(Distillation(THREE, temperature)(student, teacher), wanted)
    assert Distillation(THREE, 2.0)(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_the_loss_of_findings_asks_each_for_the_teachers_probability(logits):
    student, teacher = logits
    p, q = (teacher / 2).sigmoid(), (student / 2).sigmoid()
    wanted = -4 * (p * q.log() + (1 - p) * (1 - q).log()).mean()
    torch.testing.assert_close(Distillation(FINDINGS, 2.0)(student, teacher), wanted)
    (slope,) = torch.autograd.grad(Distillation(FINDINGS, 2.0)(student, student.detach()), student)
    assert slope.abs().max() < 1e-6


def test_a_high_temperature_keeps_the_slope(logits):
    student, teacher = logits
    slopes = [
        torch.autograd.grad(Distillation(THREE, temperature)(student, teacher), student)[0].norm()
        for temperature in (50.0, 100.0)
    ]
    torch.testing.assert_close(slopes[0], slopes[1], rtol=0.05, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_the_step_weighs_labels_and_teacher_on_the_same_images(options_for, share, monkeypatch):
    torch.manual_seed(0)
    student, model = nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5))
    options = options_for(teacher_weight=share, teacher_temperature=3.0)
    module = ClassifierModule(student, THREE, options, None, [], 0, Teacher(model))
    monkeypatch.setattr(module, "log", lambda *_, **__: None)
    images, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 1])
    loss = module.training_step({"image": images, "target": targets, "index": [0, 1, 2, 3]}, 0)
    taught = Distillation(THREE, 3.0)(student(images), model[0](images))  # in evaluation, nothing is dropped
    torch.testing.assert_close(loss, (1 - share) * F.cross_entropy(student(images), targets) + share * taught)
    loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_training_neither_holds_saves_nor_copies_its_teacher(options_for):
    model = nn.Linear(3, 3)
    module = ClassifierModule(nn.Linear(3, 3), THREE, options_for(), None, [], 0, Teacher(model))
    assert not any(name.startswith("teacher") for name in module.state_dict())
    assert len(list(module.parameters())) == 2
    assert module.train().teacher.model.training is False
    assert copy.deepcopy(module).teacher.model is model


def test_a_student_becomes_its_teacher(options_for, teacher_run):
    """With all the weight on the teacher, labels play no part: outputs come closer to it than without."""
    usual = {"epochs": 6, "augment": False}
    alone = train(options_for("alone", **usual)).run
    taught = train(options_for("taught", teacher=teacher_run.folder, teacher_weight=1.0, **usual)).run
    torch.manual_seed(0)
    images = torch.randn(64, 1, 32, 32)
    with torch.no_grad():
        wanted = teacher_run.model(images).softmax(1)
        gaps = [(run.model(images).softmax(1) - wanted).abs().mean() for run in (alone, taught)]
    assert gaps[1] < 0.7 * gaps[0]


def test_without_weight_the_teacher_changes_nothing(options_for, teacher_run):
    alone = train(options_for("alone", epochs=2)).run
    taught = train(options_for("taught", teacher=teacher_run.folder, teacher_weight=0.0, epochs=2)).run
    assert same(alone, taught)


def test_resume_goes_on_with_the_teacher(options_for, teacher_run, monkeypatch):
    """With an average of the weights, which copies the module."""
    extra = {"ema": 0.9}
    whole = train(options_for("whole", teacher=teacher_run.folder, **extra)).run
    original = ClassifierModule.training_step

    def interrupted(self, batch, number):
        if (self.current_epoch, number) == (2, 1):
            raise KeyboardInterrupt
        return original(self, batch, number)

    monkeypatch.setattr(ClassifierModule, "training_step", interrupted)
    with pytest.raises(UserError, match="stopped by Ctrl-C"):
        train(options_for("broken", teacher=teacher_run.folder, **extra))
    monkeypatch.undo()
    moved = teacher_run.folder.rename(teacher_run.folder.with_name("moved"))
    with pytest.raises(UserError, match=r"no longer exists; .*--resume RUN --teacher FOLDER"):
        resume(options_for("broken").out)
    with pytest.raises(UserError, match="has other weights than the teacher that this run was started with"):
        resume(options_for("broken").out, teacher=whole.folder)
    broken = resume(options_for("broken").out, teacher=moved).run
    assert same(whole, broken)
    assert weights(whole).keys() == weights(train(options_for("alone", epochs=1)).run).keys()
    assert not same(whole, train(options_for("without", **extra)).run)
    checkpoint = torch.load(broken.folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert not any("teacher" in name for name in checkpoint["state_dict"])
    assert broken.config["options"]["teacher"] == str(moved.resolve())


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (
            ("task", "classes"),
            ["low", "higher"],
            "has task classes low, higher, this run high, low: train it on the same",
        ),
        (("task", "kind"), "multilabel", "has task kind multilabel, this run binary"),
        (("preprocessing", "size"), 64, "has preprocessing size 64, this run 32: use the same"),
        (("preprocessing", "resize_mode"), "crop", "has preprocessing resize_mode crop, this run pad"),
        (("table", "split"), "patients drawn", "another split of this table"),
    ],
    ids=lambda value: ".".join(value) if isinstance(value, tuple) else "",
)
def test_a_teacher_of_something_else_is_refused_before_anything_is_written(
    options_for, teacher_run, where, value, message
):
    path = teacher_run.folder / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[where[0]][where[1]] = value
    path.write_text(yaml.safe_dump(config))
    teacher_run.directory.write_calibration(Calibration())  # that of the same task as the configuration
    options = options_for("student", teacher=teacher_run.folder)
    with pytest.raises(UserError, match=message):
        train(options)
    assert not options.out.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher_weight": 1.5}, "--teacher-weight 1.5: expected a fraction from 0 to 1"),
        ({"teacher_weight": float("nan")}, "--teacher-weight nan"),
        ({"teacher_temperature": 0.0}, "--teacher-temperature 0.0: expected more than 0"),
    ],
    ids=str,
)
def test_shares_and_temperatures_that_make_no_sense(options_for, changes, message):
    with pytest.raises(UserError, match=message):
        train(options_for("student", **changes))


def test_a_teacher_that_is_nowhere(options_for, tmp_path):
    with pytest.raises(UserError, match="is not a run directory"):
        train(options_for("student", teacher=tmp_path / "nowhere"))
    assert not options_for("student").out.exists()
