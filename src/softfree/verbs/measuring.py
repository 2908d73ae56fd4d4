"""Speed and memory: plan and the benchmarks."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable

from jsonargparse import Namespace

from softfree import options
from softfree.errors import UserError
from softfree.options.measuring import EdgeBenchOptions, MapBenchOptions
from softfree.verbs.parser import Parser, Verb, add, add_json, add_table, fill, names

EXPORT_EXTRA = ("onnx", "onnxscript", "onnxruntime", "openvino")


def _plan_arguments(parser: Parser) -> None:
    add(options.PlanOptions)(parser)
    add_json(parser)


def _plan(parsed: Namespace) -> None:
    from softfree.planning import make_plan
    from softfree.planning.text import print_check, print_plan

    chosen = fill(options.PlanOptions, parsed)
    if chosen.check:
        from softfree.bench.plan_check import check_plan

        found = check_plan(out=chosen.out)
        if parsed.json:
            print(json.dumps(found.to_dict("records"), indent=2))
        else:
            print_check(found)
        return
    plan = make_plan(chosen)
    if parsed.json:
        print(json.dumps(plan.to_dict(), indent=2))
    else:
        print_plan(plan)


def _bench_loader_arguments(parser: Parser) -> None:
    add_table(parser)
    parser.add_class_arguments(options.LoaderBenchOptions, None)


def _bench_loader(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.bench.loader import bench_loader
    from softfree.machine import describe_machine

    print(bench_loader(fill(options.LoaderBenchOptions, parsed), Path(parsed.table)).round(1).to_string(index=False))
    print(describe_machine())


def _speed(kind: type, function: str) -> tuple[Callable[[Parser], None], Callable[[Namespace], None]]:
    """Arguments and action of a benchmark of speed."""

    def arguments(parser: Parser) -> None:
        for group in kind.__mro__[:-1]:
            own = {field for parent in group.__mro__[1:-1] for field in names(parent)}
            parser.add_class_arguments(group, None, skip=own)

    def act(parsed: Namespace) -> None:
        from softfree.bench import speed

        print(getattr(speed, function)(fill(kind, parsed), lambda line: print(line, file=sys.stderr)), end="")

    return arguments, act


def _bench_stream(parsed: Namespace) -> None:
    from softfree.bench.streams import bench_stream

    print(bench_stream(fill(options.StreamBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


def _bench_maps(parsed: Namespace) -> None:
    from softfree.bench.maps import bench_maps

    print(bench_maps(fill(MapBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


def _bench_edge(parsed: Namespace) -> None:
    try:
        from softfree.bench.edge import bench_edge
    except ModuleNotFoundError as error:
        if error.name and error.name.split(".")[0] in EXPORT_EXTRA:
            raise UserError(f"bench edge needs {error.name}; get it with: pip install softfree[export]") from None
        raise
    print(bench_edge(fill(EdgeBenchOptions, parsed), lambda line: print(line, file=sys.stderr)), end="")


VERBS = {
    "plan": Verb("memory and work of a training or inference before it runs", _plan_arguments, _plan),
    "bench loader": Verb("whether reading keeps up with training", _bench_loader_arguments, _bench_loader),
    "bench attention": Verb(
        "time and memory of attentions over sequence lengths", *_speed(options.AttentionBenchOptions, "bench_attention")
    ),
    "bench model": Verb(
        "time and memory of models over picture sides", *_speed(options.ModelBenchOptions, "bench_model")
    ),
    "bench stream": Verb(
        "time and memory of pictures of any size, streamed", add(options.StreamBenchOptions), _bench_stream
    ),
    "bench maps": Verb("time and memory of explanation maps, beside a forward pass", add(MapBenchOptions), _bench_maps),
    "bench edge": Verb(
        "latency, memory and energy of exported models, beside softmax", add(EdgeBenchOptions), _bench_edge
    ),
    "bench orders": Verb(
        "from which length SeqNorm's Gram order is the fastest", *_speed(options.OrderBenchOptions, "bench_orders")
    ),
}
