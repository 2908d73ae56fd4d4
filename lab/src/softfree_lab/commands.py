"""The commands of softfree-lab: benchmarks and studies. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from jsonargparse import Namespace

from softfree.cli.parser import Command, Parser, add_json, add_options, add_table, adder, fill
from softfree_lab.bench.options import (
    AttentionBenchOptions,
    EdgeBenchOptions,
    LoaderBenchOptions,
    MapBenchOptions,
    ModelBenchOptions,
    OrderBenchOptions,
    StreamBenchOptions,
)
from softfree_lab.studies.options import (
    AblationOptions,
    AttentionMapOptions,
    ConvergenceOptions,
    CoverageOptions,
    ExplainStudyOptions,
    RobustnessOptions,
)
from softfree_runtime.core.errors import UserError

EXPORT_EXTRA = ("onnx", "onnxscript", "onnxruntime", "openvino")


def _bench_loader_arguments(parser: Parser) -> None:
    add_table(parser)
    add_options(parser, LoaderBenchOptions)


def _bench_loader(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.core.environment import describe_machine
    from softfree_lab.bench.loader import bench_loader

    print(bench_loader(fill(LoaderBenchOptions, parsed), Path(parsed.table)).round(1).to_string(index=False))
    print(describe_machine())


def _speed(kind: type, function: str) -> tuple[Callable[[Parser], None], Callable[[Namespace], None]]:
    """Arguments and action of a benchmark of speed."""

    def arguments(parser: Parser) -> None:
        add_options(parser, kind)

    def act(parsed: Namespace) -> None:
        from softfree_lab.bench import speed

        print(getattr(speed, function)(fill(kind, parsed), lambda line: print(line, file=sys.stderr)), end="")

    return arguments, act


def _bench_stream(parsed: Namespace) -> None:
    from softfree_lab.bench.stream import bench_stream

    print(bench_stream(fill(StreamBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


def _bench_maps(parsed: Namespace) -> None:
    from softfree_lab.bench.maps import bench_maps

    print(bench_maps(fill(MapBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


def _bench_edge(parsed: Namespace) -> None:
    try:
        from softfree_lab.bench.edge import bench_edge
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in EXPORT_EXTRA:
            raise UserError(f"bench edge needs {error.name}; get it with: pip install softfree[export]") from None
        raise
    print(bench_edge(fill(EdgeBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


def _study_ablation_arguments(parser: Parser) -> None:
    parser.add_argument(
        "recipes", nargs="+", type=str, help="YAML files of options of softfree train, each with its table or phantoms."
    )
    add_options(parser, AblationOptions)


def _study_ablation(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree_lab.studies.ablation import study_ablation

    options = fill(AblationOptions, parsed)
    print(study_ablation(options, [Path(recipe) for recipe in parsed.recipes]), end="")


def _study_sizes_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory of a binary task.")
    parser.add_argument("--table", type=str, help="Where the run's table is now, if it was moved.")
    add_json(parser)


def _study_sizes(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.inference.run import Run
    from softfree_lab.studies.confound import print_sizes, study_sizes

    moved = None if parsed.table is None else Path(parsed.table)
    result = study_sizes(Run.load(parsed.run), moved=moved, progress=not parsed.json)
    if parsed.json:
        print(json.dumps(result.to_dict(), indent=2))
    else:
        print_sizes(result)


def _study_robustness_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Run directories of one task.")
    add_options(parser, RobustnessOptions)
    add_json(parser)


def _study_robustness(parsed: Namespace) -> None:
    from softfree_lab.studies.robustness import study_robustness
    from softfree_lab.studies.robustness_report import to_markdown

    options = fill(RobustnessOptions, parsed, progress=parsed.progress and not parsed.json)
    result = study_robustness(parsed.runs, options)
    if parsed.json:
        print(json.dumps(json.loads(result.rows.to_json(orient="records")), indent=2))
    else:
        print(to_markdown(result.rows, result.summary), end="")


def _study_convergence_arguments(parser: Parser) -> None:
    parser.add_argument("images", nargs="+", type=str, help="Images, folders of images, or tables with a column path.")
    add_options(parser, ConvergenceOptions)


def _study_convergence(parsed: Namespace) -> None:
    from softfree_lab.studies.convergence import study_convergence, to_markdown

    print(to_markdown(study_convergence(fill(ConvergenceOptions, parsed), parsed.images)), end="")


def _study_attention_maps_arguments(parser: Parser) -> None:
    parser.add_argument("image", type=str, help="An image.")
    parser.add_argument("runs", nargs="+", type=str, help="Run directories, one per attention.")
    add_options(parser, AttentionMapOptions)


def _study_attention_maps(parsed: Namespace) -> None:
    from softfree_lab.studies.attention_maps import study_attention_maps

    options = fill(AttentionMapOptions, parsed)
    study_attention_maps(parsed.image, parsed.runs, options)
    print(options.out)


def _study_explain_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Run directories of one task on images.")
    add_options(parser, ExplainStudyOptions)
    add_json(parser)


def _study_explain(parsed: Namespace) -> int:
    from softfree_lab.studies.explain import study_explain
    from softfree_lab.studies.explain_report import to_markdown

    options = fill(ExplainStudyOptions, parsed, progress=parsed.progress and not parsed.json)
    result = study_explain(parsed.runs, options)
    if parsed.json:
        print(json.dumps(json.loads(result.summary.to_json(orient="records")), indent=2))
    else:
        print(to_markdown(result.rows, result.summary, result.unreadable), end="")
    for line in result.unreadable:
        print(f"softfree: {line}", file=sys.stderr)
    return 1 if result.unreadable else 0


def _study_coverage(parsed: Namespace) -> None:
    from softfree_lab.studies.coverage import study_coverage, to_markdown

    print(to_markdown(study_coverage(fill(CoverageOptions, parsed))), end="")


def _bench_plan(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree_lab.bench.plan_check import check_plan, print_check

    result = check_plan(out=None if parsed.out is None else Path(parsed.out))
    if parsed.json:
        print(json.dumps(result.to_dict("records"), indent=2))
    else:
        print_check(result)


def _bench_plan_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=str, help="CSV file to write, with a JSON file about the machine beside it.")
    add_json(parser)


def _demo_slide(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.demo.options import DemoOptions
    from softfree_lab.demo_slide import demo_slide

    demo_slide(DemoOptions(out=Path(parsed.out), seed=parsed.seed))


def _demo_slide_arguments(parser: Parser) -> None:
    parser.add_argument("--out", type=str, default="softfree-slide-demo", help="Folder to create.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the slides and of the training.")


COMMANDS: dict[str, dict[str, Command]] = {
    "Demonstration": {
        "demo slide": Command(
            "show why attention must span a whole slide, on computed slides", _demo_slide_arguments, _demo_slide
        ),
    },
    "Benchmarks": {
        "bench plan": Command(
            "compare the memory that softfree plan predicts with measured peaks", _bench_plan_arguments, _bench_plan
        ),
        "bench loader": Command(
            "compare data loading throughput with training throughput", _bench_loader_arguments, _bench_loader
        ),
        "bench attention": Command(
            "measure time and memory of attentions by sequence length",
            *_speed(AttentionBenchOptions, "bench_attention"),
        ),
        "bench model": Command(
            "measure time and memory of models by image side", *_speed(ModelBenchOptions, "bench_model")
        ),
        "bench stream": Command("measure time and memory of streamed images", adder(StreamBenchOptions), _bench_stream),
        "bench maps": Command("measure time and memory of explanation maps", adder(MapBenchOptions), _bench_maps),
        "bench edge": Command(
            "measure latency, memory and energy of exported models", adder(EdgeBenchOptions), _bench_edge
        ),
        "bench orders": Command(
            "find the sequence length from which SeqNorm's Gram order is fastest",
            *_speed(OrderBenchOptions, "bench_orders"),
        ),
    },
    "Studies": {
        "study ablation": Command(
            "compare variants of a recipe over data sets and seeds",
            _study_ablation_arguments,
            _study_ablation,
        ),
        "study robustness": Command(
            "measure robustness to blur, noise, compression and other corruptions",
            _study_robustness_arguments,
            _study_robustness,
        ),
        "study convergence": Command(
            "measure the residual of SOFT's pseudo-inverse after each iteration",
            _study_convergence_arguments,
            _study_convergence,
        ),
        "study attention-maps": Command(
            "show what one patch attends to, for several attentions",
            _study_attention_maps_arguments,
            _study_attention_maps,
        ),
        "study explain": Command(
            "evaluate explanation maps: deletion, insertion, random weights, known findings",
            _study_explain_arguments,
            _study_explain,
        ),
        "study coverage": Command(
            "simulate how often the intervals of a report contain the true value",
            adder(CoverageOptions),
            _study_coverage,
        ),
        "study sizes": Command(
            "test whether a run has learned the image size instead of the images", _study_sizes_arguments, _study_sizes
        ),
    },
}
