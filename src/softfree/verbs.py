"""What each verb of the command line takes and does. Everything heavy is imported when a verb runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from softfree import options
from softfree.errors import UserError


class Parser(ArgumentParser):
    """A parser whose errors are one line on standard error and exit status 2."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong, without the usage that would hide it."""
        text = " ".join(str(message).split())
        raise UserError(f"{text}; see: {self.prog} --help")


@dataclass(frozen=True)
class Verb:
    """A verb: what it is for, its arguments, and what it does with the parsed ones."""

    help: str
    arguments: Callable[[Parser], None]
    act: Callable[[Namespace], int | None]


def _add(*groups: type) -> Callable[[Parser], None]:
    def add(parser: Parser) -> None:
        for group in groups:
            parser.add_class_arguments(group, None, skip={"table"} if "table" in _names(group) else set())

    return add


def _names(group: type) -> set[str]:
    assert is_dataclass(group)
    return {field.name for field in fields(group)}


def _fill(kind: type, parsed: Namespace, **given: Any) -> Any:
    """An options object from the parsed arguments of the same names."""
    values = {name: parsed[name] for name in _names(kind) if name in parsed}
    return kind(**(values | given))


def _table(parser: Parser, *, required: bool = True) -> None:
    parser.add_argument(
        "table", nargs=None if required else "?", type=str, help="CSV or Parquet file, one row a picture."
    )


def _json(parser: Parser) -> None:
    parser.add_argument("--json", type=bool, default=False, help="Print the result as JSON, for programs.")


def _demo_arguments(parser: Parser) -> None:
    _add(options.DemoOptions)(parser)


def _demo(parsed: Namespace) -> None:
    from softfree.demo import demo

    demo(_fill(options.DemoOptions, parsed))


def _check_arguments(parser: Parser) -> None:
    _table(parser)
    parser.add_class_arguments(options.CheckOptions, None)
    _json(parser)


def _check(parsed: Namespace) -> int:
    from softfree.data.audit import audit
    from softfree.data.table import read_table

    chosen = _fill(options.CheckOptions, parsed)
    table = read_table(
        parsed.table,
        label=chosen.label,
        labels=chosen.labels,
        positive=chosen.positive,
        images=chosen.images,
        seed=chosen.seed,
        strict_patients=False,
    )
    found = audit(table, workers=chosen.workers, progress=chosen.progress and not parsed.json)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        found.print()
    return 1 if found.errors else 0


def _train_arguments(parser: Parser) -> None:
    _table(parser, required=False)
    for group in options.TrainOptions.__mro__[1:-1]:
        parser.add_class_arguments(group, None)
    parser.add_argument("--resume", type=str, help="Go on with this run directory; all other options are its own.")
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _train(parsed: Namespace) -> None:
    if parsed.table is None and parsed.resume is None:
        raise UserError("softfree train needs a TABLE, or --resume RUN")
    from pathlib import Path

    from softfree.summary import print_run
    from softfree.training.loop import resume, train

    if parsed.resume is not None:
        run = resume(Path(parsed.resume))
    else:
        run = train(_fill(options.TrainOptions, parsed, table=Path(parsed.table)))
    print_run(run)


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    _table(parser, required=False)
    parser.add_class_arguments(options.EvaluateOptions, None, skip={"table"})
    _json(parser)


def _evaluate(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.reporting import evaluate
    from softfree.runs import Run
    from softfree.summary import evaluation_to_dict, print_evaluation

    table = None if parsed.table is None else Path(parsed.table)
    result = evaluate(Run.load(parsed.run), _fill(options.EvaluateOptions, parsed, table=table))
    if parsed.json:
        print(json.dumps(evaluation_to_dict(result), indent=2, allow_nan=False))
    else:
        print_evaluation(result)


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    parser.add_argument("inputs", nargs="+", type=str, help="Pictures, folders of them, or tables with a column path.")
    parser.add_class_arguments(options.PredictOptions, None)
    _json(parser)


def _predict(parsed: Namespace) -> int:
    from softfree.prediction import predict_to_file

    chosen = _fill(options.PredictOptions, parsed)
    return predict_to_file(parsed.run, parsed.inputs, chosen, as_json=parsed.json)


def _plan_arguments(parser: Parser) -> None:
    _add(options.PlanOptions)(parser)
    _json(parser)


def _plan(parsed: Namespace) -> None:
    from softfree.planning import make_plan
    from softfree.planning.text import print_check, print_plan

    chosen = _fill(options.PlanOptions, parsed)
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


def _models_arguments(parser: Parser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", type=str, help="Shell pattern, such as 'seqnorm_*'.")
    _json(parser)


def _models(parsed: Namespace) -> None:
    from softfree.summary import print_models

    print_models(parsed.pattern, as_json=parsed.json)


def _study_attentions_arguments(parser: Parser) -> None:
    _table(parser)
    for group in options.AttentionStudyOptions.__mro__[:-1]:
        own = {field for parent in group.__mro__[1:-1] for field in _names(parent)}
        parser.add_class_arguments(group, None, skip=own)
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _study_attentions(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.studies.attentions import study_attentions, to_markdown

    chosen = _fill(options.AttentionStudyOptions, parsed)
    print(to_markdown(study_attentions(chosen, Path(parsed.table)), len(chosen.seeds)), end="")


def _study_sizes_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory of a binary task.")
    _json(parser)


def _study_sizes(parsed: Namespace) -> None:
    from softfree.runs import Run
    from softfree.studies.confound import study_sizes
    from softfree.summary import print_sizes

    found = study_sizes(Run.load(parsed.run), progress=not parsed.json)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2))
    else:
        print_sizes(found)


def _bench_loader_arguments(parser: Parser) -> None:
    _table(parser)
    parser.add_class_arguments(options.LoaderBenchOptions, None)


def _bench_loader(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.bench.loader import bench_loader
    from softfree.machine import describe_machine

    print(bench_loader(_fill(options.LoaderBenchOptions, parsed), Path(parsed.table)).round(1).to_string(index=False))
    print(describe_machine())


def _speed(kind: type, function: str) -> tuple[Callable[[Parser], None], Callable[[Namespace], None]]:
    """Arguments and action of a benchmark of speed."""

    def arguments(parser: Parser) -> None:
        for group in kind.__mro__[:-1]:
            own = {field for parent in group.__mro__[1:-1] for field in _names(parent)}
            parser.add_class_arguments(group, None, skip=own)

    def act(parsed: Namespace) -> None:
        from softfree.bench import speed

        print(getattr(speed, function)(_fill(kind, parsed), lambda line: print(line, file=sys.stderr)), end="")

    return arguments, act


VERBS = {
    "demo": Verb("train, measure and explain on computed pictures; needs no file", _demo_arguments, _demo),
    "check": Verb("audit a table before training", _check_arguments, _check),
    "train": Verb("train a classifier on a table", _train_arguments, _train),
    "evaluate": Verb("metrics with intervals, subgroups, comparison of two runs", _evaluate_arguments, _evaluate),
    "predict": Verb("probabilities for new pictures", _predict_arguments, _predict),
    "study attentions": Verb(
        "several attentions and seeds with one recipe", _study_attentions_arguments, _study_attentions
    ),
    "study sizes": Verb("whether a run has learnt the pictures or their size", _study_sizes_arguments, _study_sizes),
    "bench loader": Verb("whether reading keeps up with training", _bench_loader_arguments, _bench_loader),
    "bench attention": Verb(
        "time and memory of attentions over sequence lengths", *_speed(options.AttentionBenchOptions, "bench_attention")
    ),
    "bench model": Verb(
        "time and memory of models over picture sides", *_speed(options.ModelBenchOptions, "bench_model")
    ),
    "bench orders": Verb(
        "from which length SeqNorm's Gram order is the fastest", *_speed(options.OrderBenchOptions, "bench_orders")
    ),
    "plan": Verb("memory and work of a training or inference before it runs", _plan_arguments, _plan),
    "models": Verb("list the named models", _models_arguments, _models),
}
