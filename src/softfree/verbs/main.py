"""The main job: demo, check, train, evaluate, predict, models."""

from __future__ import annotations

import json

from jsonargparse import Namespace

from softfree import options
from softfree.errors import UserError
from softfree.verbs.parser import Parser, Verb, add, add_json, add_table, fill


def _demo_arguments(parser: Parser) -> None:
    add(options.DemoOptions)(parser)


def _demo(parsed: Namespace) -> None:
    chosen = fill(options.DemoOptions, parsed)
    if chosen.slide:
        from softfree.demo_slide import OUT, demo_slide

        if chosen.out == options.DemoOptions.out:
            chosen.out = OUT
        demo_slide(chosen)
        return
    from softfree.demo import demo

    demo(chosen)


def _check_arguments(parser: Parser) -> None:
    add_table(parser)
    parser.add_class_arguments(options.CheckOptions, None)
    add_json(parser)


def _check(parsed: Namespace) -> int:
    from softfree.data.audit import audit
    from softfree.data.samples import as_samples
    from softfree.data.table import read_table
    from softfree.runs import kept_split

    chosen = fill(options.CheckOptions, parsed)
    table = read_table(
        parsed.table,
        label=chosen.label,
        labels=chosen.labels,
        positive=chosen.positive,
        images=chosen.images,
        seed=chosen.seed,
        strict_patients=False,
        known=kept_split(chosen.split_from),
    )
    if "mpp" in table.frame:
        table = as_samples(table, "slide")
    shown = chosen.progress and not parsed.json
    found = audit(table, workers=chosen.workers, progress=shown, strict=chosen.strict)
    if parsed.json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        found.print()
    return 1 if found.errors else 0


def _train_arguments(parser: Parser) -> None:
    add_table(parser, required=False)
    for group in options.TrainOptions.__mro__[1:-1]:
        parser.add_class_arguments(group, None)
    parser.add_argument(
        "--resume",
        type=str,
        help="Go on with this run directory, whose options hold; TABLE, --images, --teacher say where those lie now.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _train(parsed: Namespace) -> None:
    if parsed.table is None and parsed.resume is None:
        raise UserError("softfree train needs a TABLE, or --resume RUN")
    from pathlib import Path

    from softfree.summary import print_run
    from softfree.training.loop import resume, train

    if parsed.resume is not None:
        moved = (parsed.table, parsed.images, parsed.teacher)
        run = resume(Path(parsed.resume), *(None if path is None else Path(str(path)) for path in moved))
    else:
        run = train(fill(options.TrainOptions, parsed, table=Path(parsed.table)))
    print_run(run)


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    add_table(parser, required=False)
    parser.add_class_arguments(options.EvaluateOptions, None, skip={"table"})
    add_json(parser)


def _evaluate(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.reporting import evaluate
    from softfree.runs import Run
    from softfree.summary import evaluation_to_dict, print_evaluation

    table = None if parsed.table is None else Path(parsed.table)
    result = evaluate(Run.load(parsed.run), fill(options.EvaluateOptions, parsed, table=table))
    if parsed.json:
        print(json.dumps(evaluation_to_dict(result), indent=2, allow_nan=False))
    else:
        print_evaluation(result)


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory, or a file of softfree export.")
    parser.add_argument("inputs", nargs="+", type=str, help="Pictures, folders of them, or tables with a column path.")
    parser.add_class_arguments(options.PredictOptions, None)
    add_json(parser)


def _predict(parsed: Namespace) -> int:
    chosen = fill(options.PredictOptions, parsed)
    if parsed.run.lower().endswith(".onnx"):  # works where torch is not installed
        if chosen.precision != "32":
            raise UserError(f"--precision {chosen.precision}: an exported file has its own; leave it out")
        from softfree.runtime import predict_to_file as predict_exported

        how = {"frame": chosen.frame, "images": chosen.images, "batch": chosen.batch, "as_json": parsed.json}
        return predict_exported(parsed.run, parsed.inputs, chosen.out, **how)
    from softfree.prediction import predict_to_file

    return predict_to_file(parsed.run, parsed.inputs, chosen, as_json=parsed.json)


def _models_arguments(parser: Parser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", type=str, help="Shell pattern, such as 'seqnorm_*'.")
    add_json(parser)


def _models(parsed: Namespace) -> None:
    from softfree.summary import print_models

    print_models(parsed.pattern, as_json=parsed.json)


VERBS = {
    "demo": Verb("train, measure and explain on computed pictures; needs no file", _demo_arguments, _demo),
    "check": Verb("audit a table before training", _check_arguments, _check),
    "train": Verb("train a classifier on a table", _train_arguments, _train),
    "evaluate": Verb("metrics with intervals, subgroups, comparison of two runs", _evaluate_arguments, _evaluate),
    "predict": Verb("probabilities for new pictures", _predict_arguments, _predict),
    "models": Verb("list the named models", _models_arguments, _models),
}
