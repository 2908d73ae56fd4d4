"""A method from outside works everywhere, and no part of the library knows a method by name."""

from __future__ import annotations

import re
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import softfree_lab.bench.cases as bench
import softfree_lab.studies.variants as variants
from softfree.attention import ATTENTIONS, Attention, create_attention, import_plugins, register_attention, registry
from softfree.attention.base import Grid
from softfree.deployment.graph import make_graph
from softfree.models import create_model
from softfree.models import registry as models
from softfree.models.classifier import Classifier
from softfree.planning.memory import memory
from softfree.planning.work import Work
from softfree.saliency.maps import explain_tensor
from softfree.streaming import stream_forward
from softfree_runtime.core.errors import UserError

NAME = "linear_test"
SMALL = {"num_classes": 2, "embed_dim": 32, "num_heads": 2, "depth": 2, "img_size": 32, "in_chans": 1}


class LinearAttention(Attention):
    def mix(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, grid: Grid | None = None) -> Tensor:
        q, k = F.elu(q) + 1, F.elu(k) + 1
        if mask is not None:
            k = k.masked_fill(~mask, 0)
        total = q @ k.sum(2).unsqueeze(3)  # (B, H, N, 1)
        return (q @ (k.mT @ v)) / total.clamp(min=1e-6)


@pytest.fixture(scope="module", autouse=True)
def _registered(own_attentions: None) -> None:
    """Timm warns of a name that comes twice, so that all tests here share it."""
    register_attention(NAME)(LinearAttention)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return create_model(f"{NAME}_vit_nano_patch8", **SMALL).eval()


def test_models_plans_benchmarks_and_studies_know_it(model: Classifier) -> None:
    assert {f"{NAME}_vit3d_tiny", f"{NAME}_bag_base"} <= set(models.list_models())
    assert isinstance(model.blocks[0].attn, LinearAttention)
    small, large = (memory(Work(model=f"{NAME}_vit_nano_patch8", size=size)).kept for size in (256, 512))
    assert 3 < large / small < 5  # it grows with the number of tokens
    case = bench.BenchCase("attention", NAME, 100, width=32, heads=2)
    assert bench.numerical_error(case) < 1e-4
    bench.prepare(case)()
    assert variants.apply({"model": "seqnorm_vit_nano_patch8"}, variants.choose_variants(["zoo"]).variants[NAME]) == {
        "model": f"{NAME}_vit_nano_patch8"
    }


@pytest.mark.parametrize("method", ["gradient", "gradcam", "integrated", "occlusion", "split"])
def test_it_is_explained(model: Classifier, method: str) -> None:
    values = explain_tensor(model, torch.randn(1, 32, 32), method=method).values
    assert values.shape == (4, 4)
    assert abs(values).max() > 0


def test_attention_weights_are_refused_until_it_declares_them(
    model: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    sample = torch.randn(1, 32, 32)
    for method in ("rollout", "attention"):
        with pytest.raises(UserError, match=r"LinearAttention has no attention weights: .*gradient$"):
            explain_tensor(model, sample, method=method)
    monkeypatch.setattr(LinearAttention, "linear_in_values", True)
    assert explain_tensor(model, sample, method="rollout").values.sum() == pytest.approx(1)


def test_streaming_is_refused(model: Classifier) -> None:
    with pytest.raises(UserError, match="LinearAttention has no streaming form"):
        stream_forward(model, torch.randn(1, 32, 32))


def test_its_number_of_tokens_stays_free() -> None:
    """Without what is the same for all: ``docs/how-to/own-attention.md``, which is run by a test, has an export."""
    module, free = create_attention(NAME, 32, 2).eval(), torch.export.Dim.DYNAMIC
    assert not module.fixed_size
    program = torch.export.export(module, (torch.randn(2, 16, 32),), dynamic_shapes={"x": {1: free}})
    x = torch.randn(2, 24, 32)
    torch.testing.assert_close(program.module()(x), module(x))


@pytest.mark.cpu("compares with onnxruntime")
@pytest.mark.slow
def test_it_is_exported_for_any_size() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    model = create_model(f"{NAME}_vit_nano_patch8", **SMALL | {"depth": 1}).eval()
    graph = make_graph(model, 1, 32)
    assert graph.size is None
    assert graph.layers
    session = onnxruntime.InferenceSession(graph.proto.SerializeToString())
    pixels = torch.randn(2, 1, 48, 32)
    with torch.no_grad():
        want = model(pixels)
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0]), want)


def test_names_are_identifiers_and_unique() -> None:
    for name in ("Linear", "two words", "my_vit", ""):
        with pytest.raises(UserError, match="as the name of an attention"):
            register_attention(name)
    with pytest.raises(UserError, match=r"second attention named 'seqnorm'.*SeqNormAttention has that name"):
        register_attention("seqnorm")(LinearAttention)
    register_attention(NAME)(LinearAttention)  # a module that is imported again


def test_modules_named_by_the_environment_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plugged_in.py").write_text(
        "from softfree.attention import SimaAttention, register_attention\n"
        "@register_attention('plugged_in')\nclass PluggedIn(SimaAttention): pass\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv(registry.PLUGINS, "plugged_in, not_there")
    with pytest.raises(UserError, match=r"SOFTFREE_PLUGINS names 'not_there', which cannot be imported"):
        import_plugins()
    assert "plugged_in" in ATTENTIONS
    sys.modules.pop("plugged_in")


def test_packages_are_found_by_their_entry_points(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [
        EntryPoint("a", "colorsys", registry.ENTRY_POINTS),
        EntryPoint("b", "missing_one", registry.ENTRY_POINTS),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: [e for e in entries if e.group == group])
    sys.modules.pop("colorsys", None)
    with pytest.warns(RuntimeWarning, match="attentions of 'missing_one' are left out: ModuleNotFoundError"):
        import_plugins()
    assert "colorsys" in sys.modules


def test_no_other_file_knows_a_method() -> None:
    """To add one is one folder. Exceptions are about these methods themselves."""
    source = Path(registry.__file__).parents[1]
    exceptions = (
        "attention/__init__.py",  # what users import
        "conversion/",  # from softmax to SeqNorm
        "training/weights.py",  # the same at the start of training
        "models/pyramid.py",  # SOFT's own architecture
    )
    classes = re.compile(rf"\b(?:{'|'.join(method.__name__ for method in ATTENTIONS.values())})\b")
    folders = {path.name for path in (source / "attention").iterdir() if path.is_dir()}
    modules = re.compile(rf"softfree\.attention\.({'|'.join(folders)})\b")
    for path in source.rglob("*.py"):
        name = path.relative_to(source).as_posix()
        own = path.parent.name if path.parent.parent.name == "attention" else None
        if name.startswith(exceptions):
            continue
        code = re.sub(r'"""[\s\S]*?"""|#.*', "", path.read_text())
        others = {folder for folder in modules.findall(code) if folder != own}
        assert not others, f"{name} imports {others}"
        if own is None:
            assert not classes.search(code), f"{name} names {classes.findall(code)}"


def test_each_method_is_whole() -> None:
    folders = [path for path in (Path(registry.__file__).parent).iterdir() if (path / "__init__.py").exists()]
    assert len(folders) >= 8
    for folder in folders:
        assert {"module.py", "cost.py", "reference.py"} <= {path.name for path in folder.iterdir()}
