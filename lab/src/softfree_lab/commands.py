"""The commands of softfree-lab: benchmarks and studies. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from softfree.cli.parser import Command, Parser, add_json, add_options, add_table, fill
from softfree.demo.options import DemoOptions
from softfree_lab.bench import options as bench
from softfree_lab.studies import options as studies
from softfree_runtime.core.errors import UserError

OPTIONAL = ("onnx", "onnxscript", "onnxruntime", "openvino", "httpx")


def _command(help: str, function: str, options: type, *positionals: tuple[str, str], json: bool = False) -> Command:
    """Make a command that calls one function and prints what it returns.

    Args:
        help: What the command does, in one line.
        function: Its module and name; it takes the options, then the positional arguments.
        options: Options class, whose fields become flags.
        positionals: Name and help of each positional argument; a name that ends in "+" takes one or more values, and
            "table" has a help text of its own.
        json: Add ``--json``.
    """

    def add_arguments(parser: Parser) -> None:
        for name, text in positionals:
            if name == "table":
                add_table(parser)
            else:
                parser.add_argument(name.rstrip("+"), nargs="+" if name.endswith("+") else None, type=str, help=text)
        add_options(parser, options, skip=())
        if json:
            add_json(parser)

    def run(parsed: Namespace) -> int:
        quiet = {"progress": False} if json and parsed.json else {}
        arguments = [parsed[name.rstrip("+")] for name, _ in positionals]
        return _print(_load(function)(fill(options, parsed, **quiet), *arguments), as_json=json and parsed.json)

    return Command(help, add_arguments, run)


def _load(function: str) -> Any:
    module, _, name = function.rpartition(".")
    try:
        return getattr(import_module(f"softfree_lab.{module}"), name)
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in OPTIONAL:
            raise UserError(f"this command needs {error.name}; get it with: pip install softfree[export]") from None
        raise


def _print(result: Any, *, as_json: bool) -> int:
    """Print Markdown, or a result that knows its own forms; images that could not be read make the exit status 1."""
    if isinstance(result, str):
        print(result, end="")
        return 0
    print(json.dumps(result.to_dict(), indent=2) if as_json else result.to_markdown(), end="\n" if as_json else "")
    unreadable = getattr(result, "unreadable", ())
    for line in unreadable:
        print(f"softfree: {line}", file=sys.stderr)
    return 1 if unreadable else 0


def _demo_slide(parsed: Namespace) -> None:
    from softfree_lab.demo_slide import demo_slide

    demo_slide(fill(DemoOptions, parsed))


RUNS = ("runs+", "Run directories of one task.")
IMAGES = ("images+", "Images, folders of images, or tables with a column path.")
RECIPES = ("recipes+", "YAML files of options of softfree train, each with its table or phantoms.")


def _demo_slide_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, default=Path("softfree-slide-demo"), help="Folder to create.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the slides and of training.")


COMMANDS: dict[str, dict[str, Command]] = {
    "Demonstration": {
        "demo slide": Command(
            "show why attention must span a whole slide, on computed slides", _demo_slide_arguments, _demo_slide
        ),
    },
    "Benchmarks": {
        "bench plan": _command(
            "compare the memory that softfree plan predicts with measured peaks",
            "bench.plan_check.bench_plan",
            bench.PlanBenchOptions,
            json=True,
        ),
        "bench loader": _command(
            "compare data loading throughput with training throughput",
            "bench.loader.bench_loader",
            bench.LoaderBenchOptions,
            ("table", ""),
        ),
        "bench attention": _command(
            "measure time and memory of attentions by sequence length",
            "bench.speed.bench_attention",
            bench.AttentionBenchOptions,
        ),
        "bench model": _command(
            "measure time and memory of models by image side", "bench.speed.bench_model", bench.ModelBenchOptions
        ),
        "bench throughput": _command(
            "measure the throughput of models beside their published accuracy",
            "bench.throughput.bench_throughput",
            bench.ThroughputBenchOptions,
        ),
        "bench gpu": _command(
            "measure correctness, sublayers, models and training on a GPU in ten minutes",
            "bench.gpu.run.bench_gpu",
            bench.GpuBenchOptions,
        ),
        "bench stream": _command(
            "measure time and memory of streamed images", "bench.stream.bench_stream", bench.StreamBenchOptions
        ),
        "bench maps": _command(
            "measure time and memory of saliency maps", "bench.maps.bench_maps", bench.MapBenchOptions
        ),
        "bench cases": _command(
            "measure time and memory of a case of several images",
            "bench.joined.bench_cases",
            bench.CasesBenchOptions,
        ),
        "bench archive": _command(
            "predictions of an archive: overhead, throughput, memory, kills, Ray, object store",
            "bench.archive.bench_archive",
            bench.ArchiveBenchOptions,
            ("run", "A run on images."),
            ("data", "Folder with images that crops of 512 x 512 pixels are taken from."),
        ),
        "bench edge": _command(
            "measure latency, memory and energy of exported models", "bench.edge.bench_edge", bench.EdgeBenchOptions
        ),
        "bench serve": _command(
            "measure a server next to softfree predict, under load, and killed",
            "bench.serve.bench_serve",
            bench.ServeBenchOptions,
        ),
        "bench orders": _command(
            "find the sequence length from which SeqNorm's Gram order is fastest",
            "bench.speed.bench_orders",
            bench.OrderBenchOptions,
        ),
    },
    "Studies": {
        "study ablation": _command(
            "compare variants of a recipe over data sets and seeds",
            "studies.ablation.study_ablation",
            studies.AblationOptions,
            RECIPES,
        ),
        "study robustness": _command(
            "measure robustness to blur, noise, compression and other corruptions",
            "studies.robustness.study_robustness",
            studies.RobustnessOptions,
            RUNS,
            json=True,
        ),
        "study curves": _command(
            "compare learning curves of one table, such as with and without pretraining",
            "studies.learning_curves.study_curves",
            studies.CurvesOptions,
            ("curves+", "Folders of softfree learning-curve."),
        ),
        "study ensemble": _command(
            "measure what the ensemble of a study and test-time augmentation gain and cost",
            "studies.ensemble.study_ensemble",
            studies.EnsembleOptions,
            ("study", "A study directory of softfree auto."),
            json=True,
        ),
        "study views": _command(
            "test a finding that only two images of a case show together",
            "studies.views.study_views",
            studies.ViewsOptions,
            json=True,
        ),
        "study variables": _command(
            "measure what a model gains from clinical variables with a known effect",
            "studies.variables.study_variables",
            studies.VariablesOptions,
            json=True,
        ),
        "study positions": _command(
            "test how soon a model knows where a finding is, by what its positions start from",
            "studies.positions.study_positions",
            studies.PositionsOptions,
            json=True,
        ),
        "study survival": _command(
            "compare survival models with the true hazard, on computed images",
            "studies.survival.study_survival",
            studies.SurvivalStudyOptions,
            json=True,
        ),
        "study convergence": _command(
            "measure the residual of SOFT's pseudo-inverse after each iteration",
            "studies.convergence.study_convergence",
            studies.ConvergenceOptions,
            IMAGES,
        ),
        "study attention-maps": _command(
            "show what one patch attends to, for several attentions",
            "studies.attention_maps.study_attention_maps",
            studies.AttentionMapOptions,
            ("image", "An image."),
            ("runs+", "Run directories, one per attention."),
        ),
        "study explain": _command(
            "evaluate saliency maps: deletion, insertion, random weights, known findings",
            "studies.explain.study_explain",
            studies.ExplainStudyOptions,
            RUNS,
            json=True,
        ),
        "study coverage": _command(
            "simulate how often the intervals of a report contain the true value",
            "studies.coverage.study_coverage",
            studies.CoverageOptions,
        ),
        "study unusual": _command(
            "measure how often images of other kinds are called unusual, and the coverage of conformal sets",
            "studies.unusual.study_unusual",
            studies.UnusualOptions,
            ("run", "A run directory on images."),
            json=True,
        ),
        "study long-range": _command(
            "train attentions on the Long Range Arena, beside published results, and measure their cost by length",
            "studies.long_range.study_long_range",
            studies.LongRangeOptions,
        ),
        "study sizes": _command(
            "test whether a run has learned the image size instead of the images",
            "studies.confound.study_sizes",
            studies.SizeStudyOptions,
            ("run", "A run directory of a binary task."),
            json=True,
        ),
    },
}
