"""The commands of softfree: arguments and action. Heavy imports wait until a command runs."""

from __future__ import annotations

import json
import sys

from jsonargparse import Namespace

from softfree.archive.options import (
    ArchiveOptions,
    CacheOptions,
    ExplainArchiveOptions,
    check_exported,
    check_only_archives,
)
from softfree.cli.check import check, check_arguments
from softfree.cli.parser import Command, Parser, add_json, add_options, add_table, adder, fill
from softfree.conversion.options import ConvertOptions
from softfree.core.options import TrainOptions
from softfree.data.datasets.options import PrepareOptions
from softfree.demo.options import DemoOptions
from softfree.deployment.options import ExportOptions
from softfree.embeddings.options import ProbeOptions, SimilarOptions
from softfree.features.options import FeatureOptions
from softfree.planning.options import PlanOptions
from softfree.pretraining.options import PretrainOptions
from softfree.reporting.options import CompareOptions, EvaluateOptions, ReportOptions
from softfree.serving.options import ServeOptions
from softfree.study.options import AutoOptions, LearningCurveOptions, TuneOptions
from softfree_runtime.core.errors import UserError


def _demo(parsed: Namespace) -> None:
    options = fill(DemoOptions, parsed)
    from softfree.demo.demo import demo

    demo(options)


def _train_arguments(parser: Parser) -> None:
    add_table(parser, required=False)
    add_options(parser, TrainOptions)
    parser.add_argument(
        "--resume",
        type=str,
        help="Resume this run directory with its own options; TABLE, --image-root and --teacher name what was moved.",
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _train(parsed: Namespace) -> None:
    if parsed.table is None and parsed.resume is None:
        raise UserError("softfree train needs a TABLE, or --resume RUN")
    from pathlib import Path

    from softfree.reporting.terminal import print_training
    from softfree.training.loop import resume, train

    if parsed.resume is not None:
        moved = (parsed.table, parsed.image_root, parsed.teacher)
        result = resume(Path(parsed.resume), *(None if path is None else Path(str(path)) for path in moved))
    else:
        result = train(fill(TrainOptions, parsed, table=Path(parsed.table)))
    print_training(result.run, result.evaluation)


def _cache_arguments(parser: Parser) -> None:
    add_table(parser)
    add_options(parser, CacheOptions, skip={"order"})  # a training needs all of its images
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _cache(parsed: Namespace) -> int:
    from pathlib import Path

    from softfree.archive.cache import fill_cache

    return fill_cache(fill(CacheOptions, parsed, table=Path(parsed.table)))


def _auto_arguments(parser: Parser) -> None:
    add_table(parser)
    add_options(parser, AutoOptions)


def _auto(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.reporting.terminal import print_study
    from softfree.study.auto import auto

    result = auto(Path(parsed.table), fill(AutoOptions, parsed))
    if result is not None:
        print_study(result.run, result.evaluation, result.test)


def _learning_curve_arguments(parser: Parser) -> None:
    add_table(parser)
    add_options(parser, LearningCurveOptions)
    add_json(parser)


def _learning_curve(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.study.learning_curve import learning_curve
    from softfree.study.learning_curve_report import print_learning_curve

    curve = learning_curve(Path(parsed.table), fill(LearningCurveOptions, parsed))
    if parsed.json:
        print(json.dumps(curve.to_dict(), indent=2, allow_nan=False))
    else:
        print_learning_curve(curve)


def _tune_arguments(parser: Parser) -> None:
    add_table(parser)
    add_options(parser, TuneOptions)
    add_json(parser)


def _tune(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.study.tune import tune
    from softfree.study.tune_report import print_tuning

    result = tune(Path(parsed.table), fill(TuneOptions, parsed))
    if parsed.json:
        print(json.dumps(result.to_dict(), indent=2, allow_nan=False))
    else:
        print_tuning(result)


def _evaluate_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    add_table(parser, required=False)
    add_options(parser, EvaluateOptions, skip={"table"})
    add_json(parser)


def _evaluate(parsed: Namespace) -> None:
    from pathlib import Path

    from softfree.inference.run import Run
    from softfree.reporting.targets import evaluate_run
    from softfree.reporting.terminal import evaluation_to_dict, print_evaluation

    table = None if parsed.table is None else Path(parsed.table)
    result = evaluate_run(Run.load(parsed.run), fill(EvaluateOptions, parsed, table=table))
    if parsed.json:
        print(json.dumps(evaluation_to_dict(result), indent=2, allow_nan=False))
    else:
        print_evaluation(result)


def _compare_arguments(parser: Parser) -> None:
    parser.add_argument("runs", nargs="+", type=str, help="Run directories and studies of one table.")
    add_options(parser, CompareOptions)
    add_json(parser)


def _compare(parsed: Namespace) -> None:
    from softfree.reporting.comparison_files import write_comparison
    from softfree.reporting.run_comparison import compare_runs
    from softfree.reporting.terminal import print_run_comparison

    options: CompareOptions = fill(CompareOptions, parsed)
    comparison = compare_runs(parsed.runs, options)
    if options.out is not None:
        write_comparison(options.out, comparison)
    if parsed.json:
        print(json.dumps(comparison.to_dict(), indent=2, allow_nan=False))
    else:
        print_run_comparison(comparison)
        if options.out is not None:
            print(f"Page: {options.out / 'comparison.html'}")


def _report_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run or study.")
    add_options(parser, ReportOptions)


def _report(parsed: Namespace) -> None:
    from softfree.inference.run import Run
    from softfree.reporting.documents.write import write_documents

    run, options = Run.load(parsed.run), fill(ReportOptions, parsed)
    written = []
    if options.readings is not None:
        from softfree.serving.study_readings import report_readings

        written = report_readings(run, options.readings)
    for path in [*written, *write_documents(run, options)]:
        print(path)


def _predict_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory, or a file written by softfree export.")
    parser.add_argument("inputs", nargs="+", type=str, help="Images, folders of images, or tables with a column path.")
    add_options(parser, ArchiveOptions)
    add_json(parser)


def _predict(parsed: Namespace) -> int:
    options = fill(ArchiveOptions, parsed)
    is_exported = parsed.run.lower().endswith(".onnx")
    if is_exported:
        check_exported(options)
    if not options.out.suffix:  # a folder
        if parsed.json:
            raise UserError(f"--json: the rows of --out {options.out}, a folder, are in its predictions.parquet")
        from softfree.archive.predict import predict_archive

        return predict_archive(parsed.run, parsed.inputs, options)
    check_only_archives(options, parsed.inputs)
    if is_exported:  # works where torch is not installed
        from softfree_runtime import predict_to_file as predict_exported

        arguments = {
            "frame": options.frame,
            "image_root": options.image_root,
            "batch_size": options.batch_size,
            "as_json": parsed.json,
        }
        return predict_exported(parsed.run, parsed.inputs, options.out, **arguments)
    from softfree.inference.predict import check_output, predict_to_file
    from softfree.inference.run import Run

    check_output(options.out)  # before the run is loaded
    return predict_to_file(Run.load(parsed.run), parsed.inputs, options, as_json=parsed.json)


def _models_arguments(parser: Parser) -> None:
    parser.add_argument("pattern", nargs="?", default="*", type=str, help="Shell pattern, such as 'seqnorm_*'.")
    add_json(parser)


def _models(parsed: Namespace) -> None:
    from softfree.reporting.terminal import print_models

    print_models(parsed.pattern, as_json=parsed.json)


def _prepare_arguments(parser: Parser) -> None:
    parser.add_argument("name", nargs="?", type=str, help="A data set listed by --list.")
    parser.add_argument(
        "root", nargs="?", type=str, help="Folder of its official download (for MedMNIST also its .npz file)."
    )
    parser.add_argument(
        "--list", type=bool, default=False, help="List the data sets, where to obtain them, and their terms."
    )
    add_options(parser, PrepareOptions)
    add_json(parser)


def _prepare(parsed: Namespace) -> None:
    from softfree.data.datasets.registry import SETS, prepare_set

    if parsed.list:
        listed = [
            {key: getattr(dataset, key) for key in ("name", "image", "classes", "source", "terms")}
            for dataset in SETS.values()
        ]
        print(json.dumps(listed, indent=2) if parsed.json else "\n\n".join(map(_in_words, listed)))
        return
    if parsed.name is None or parsed.root is None:
        raise UserError("softfree prepare needs NAME and ROOT; softfree prepare --list shows the names")
    prepared = prepare_set(
        parsed.name, parsed.root, fill(PrepareOptions, parsed, progress=parsed.progress and not parsed.json)
    )
    for line in filter(None, [prepared.warning(), *prepared.notes]):
        print(f"softfree: {'warning' if line == prepared.warning() else 'note'}: {line}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(prepared.to_dict(), indent=2))
    else:
        rows = ", ".join(f"{name} {count}" for name, count in prepared.rows.items())
        patients = "" if prepared.patients is None else f", {prepared.patients} patients"
        cases = "" if prepared.cases is None else f", {prepared.cases} cases"
        print(f"{prepared.table}: {sum(prepared.rows.values())} rows ({rows}){patients}{cases}\n{prepared.command}")


def _in_words(listed: dict[str, str]) -> str:
    return f"{listed['name']}: {listed['image']}\n  {listed['classes']}\n  {listed['source']}\n  {listed['terms']}"


def _pretrain_arguments(parser: Parser) -> None:
    what = "CSV or Parquet file with a column path, or a folder of images; labels are ignored."
    parser.add_argument("table", nargs="?", type=str, help=what)
    add_options(parser, PretrainOptions)
    parser.add_argument("--resume", type=str, help="Resume this run directory with its own options.")
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")


def _pretrain(parsed: Namespace) -> None:
    if parsed.table is None and parsed.resume is None:
        raise UserError("softfree pretrain needs a TABLE or a folder, or --resume RUN")
    from pathlib import Path

    from softfree.pretraining.loop import pretrain, resume

    if parsed.resume is not None:
        folder = resume(Path(parsed.resume))
    else:
        folder = pretrain(fill(PretrainOptions, parsed, table=Path(parsed.table)))
    print(f"Pretrained weights are in {folder}; continue with: softfree train TABLE --weights {folder}")


def _features_arguments(parser: Parser) -> None:
    help_ = "Slides: a table with the columns path and, if files have none, mpp (micrometers per pixel). Images or" \
        " volumes: files, folders, tables, addresses."  # fmt: skip
    parser.add_argument("inputs", nargs="+", type=str, help=help_)
    add_options(parser, FeatureOptions)


def _features(parsed: Namespace) -> int:
    from softfree.archive.features import features_of

    return features_of(parsed.inputs, fill(FeatureOptions, parsed))


def _similar_arguments(parser: Parser) -> None:
    parser.add_argument("encoder", type=str, help="The run or encoder that made the features of the index.")
    parser.add_argument("images", nargs="*", type=str, help="Files, folders of files, or tables with a column path.")
    add_options(parser, SimilarOptions)
    add_json(parser)


def _similar(parsed: Namespace) -> int:
    from softfree.embeddings.similar_command import similar

    return similar(parsed.encoder, parsed.images or [], fill(SimilarOptions, parsed), as_json=parsed.json)


def _probe_arguments(parser: Parser) -> None:
    parser.add_argument("features", type=str, help="Folder that softfree features has written, of images or volumes.")
    add_table(parser)
    add_options(parser, ProbeOptions)
    add_json(parser)


def _probe(parsed: Namespace) -> None:
    from softfree.embeddings.probe import probe
    from softfree.embeddings.probe_output import print_probe, probe_to_dict

    options = fill(ProbeOptions, parsed)
    result = probe(parsed.features, parsed.table, options)
    if parsed.json:
        print(json.dumps(probe_to_dict(result, options), indent=2, allow_nan=False))
    else:
        print_probe(result, options)


def _explain_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    parser.add_argument("inputs", nargs="+", type=str, help="Files, folders of files, or tables with a column path.")
    add_options(parser, ExplainArchiveOptions)
    add_json(parser)


def _explain(parsed: Namespace) -> int:
    options = fill(ExplainArchiveOptions, parsed)
    from softfree.archive.explain import explain_archive, is_for_archive

    if is_for_archive(parsed.inputs, options):
        if parsed.json:
            raise UserError(f"--json: the rows of an archive are in {options.out / 'results.parquet'}")
        return explain_archive(parsed.run, parsed.inputs, options)
    from softfree.saliency.api import explain_to_files

    return explain_to_files(parsed.run, parsed.inputs, options, as_json=parsed.json)


def _export_arguments(parser: Parser) -> None:
    parser.add_argument("run", type=str, help="A run directory.")
    add_options(parser, ExportOptions)
    add_json(parser)


def _export(parsed: Namespace) -> int:
    from softfree.deployment.pipeline import export

    options: ExportOptions = fill(ExportOptions, parsed)
    exported = export(parsed.run, options)
    for reason in exported.unreadable:
        print(f"softfree: {reason}", file=sys.stderr)
    if parsed.json:
        print(json.dumps(exported.to_dict(), indent=2, allow_nan=False))
        return 1 if exported.unreadable else 0
    size = "any size" if exported.size is None else f"{' x '.join(map(str, exported.size))} only"
    print(f"{exported.path}: {exported.bytes / 1e6:.1f} MB, takes {size}")
    differences = "; ".join(f"{what}: {difference:.1e}" for what, difference in exported.parity.differences.items())
    print(f"Largest difference of a logit from the run's: {differences}")
    if exported.loss is not None:
        print(exported.loss.describe(options.margin))
    if exported.unreadable:
        print(f"{len(exported.unreadable)} samples for proof or calibration could not be read")
    return 1 if exported.unreadable else 0


def _serve_arguments(parser: Parser) -> None:
    parser.add_argument(
        "models",
        nargs="+",
        type=str,
        help="Run directories, studies, or files written by softfree export --format onnx; NAME=PATH to name one.",
    )
    add_options(parser, ServeOptions)


def _serve(parsed: Namespace) -> int:
    from softfree.serving.server import serve

    return serve(parsed.models, fill(ServeOptions, parsed))


def _convert_arguments(parser: Parser) -> None:
    parser.add_argument(
        "source", type=str, help="A run directory of a softmax model, or ViT weights: a file, a folder or a Hub name."
    )
    parser.add_argument(
        "--images",
        nargs="+",
        type=str,
        required=True,
        help="Images, folders of images, or a table with a column path, of which only the training rows are used.",
    )
    add_options(parser, ConvertOptions, skip={"images"})
    add_json(parser)


def _convert(parsed: Namespace) -> None:
    from softfree.conversion.convert import convert, print_conversion

    options = fill(ConvertOptions, parsed, progress=parsed.progress and not parsed.json)
    conversion = convert(parsed.source, options)
    if parsed.json:
        print(json.dumps(conversion.to_dict(), indent=2, allow_nan=False))
    else:
        print_conversion(conversion)


def _plan_arguments(parser: Parser) -> None:
    add_options(parser, PlanOptions)
    add_json(parser)


def _plan(parsed: Namespace) -> None:
    from softfree.planning.plan import make_plan, print_plan

    options = fill(PlanOptions, parsed)
    plan = make_plan(options)
    if parsed.json:
        print(json.dumps(plan.to_dict(), indent=2))
    else:
        print_plan(plan)


COMMANDS: dict[str, dict[str, Command]] = {
    "Start": {
        "demo": Command("train, evaluate and explain on computed images; needs no files", adder(DemoOptions), _demo),
        "prepare": Command("make a table of the official download of a public data set", _prepare_arguments, _prepare),
        "check": Command("audit a table before training, or a run after moving it", check_arguments, check),
    },
    "Train": {
        "plan": Command("estimate memory and work of training or inference", _plan_arguments, _plan),
        "models": Command("list the named models", _models_arguments, _models),
        "features": Command("encode images, volumes, or the tiles of whole slides", _features_arguments, _features),
        "probe": Command("try simple models on frozen features, with folds by patient", _probe_arguments, _probe),
        "pretrain": Command("pretrain an encoder on images without labels", _pretrain_arguments, _pretrain),
        "convert": Command("convert softmax weights to SeqNorm weights", _convert_arguments, _convert),
        "cache": Command("prepare the images of a training by many processes, before it", _cache_arguments, _cache),
        "train": Command("train a classifier on a table", _train_arguments, _train),
        "auto": Command("plan, cross-validate and ensemble: a whole study of a table", _auto_arguments, _auto),
        "tune": Command("search for options of train by their validation AUROC", _tune_arguments, _tune),
        "learning-curve": Command(
            "see how many patients are enough: train on growing parts of a table",
            _learning_curve_arguments,
            _learning_curve,
        ),
    },
    "Use": {
        "evaluate": Command(
            "report metrics with intervals, subgroups, comparison of two runs", _evaluate_arguments, _evaluate
        ),
        "compare": Command(
            "compare runs and studies on the same samples, with intervals and tests", _compare_arguments, _compare
        ),
        "report": Command("write a model card, TRIPOD+AI, CLAIM and a methods paragraph", _report_arguments, _report),
        "predict": Command("predict probabilities for new images", _predict_arguments, _predict),
        "similar": Command("find the nearest cases in an archive of features", _similar_arguments, _similar),
        "explain": Command("show what a prediction is based on", _explain_arguments, _explain),
        "export": Command(
            "export to ONNX, OpenVINO or ExecuTorch, checked against the run", _export_arguments, _export
        ),
        "serve": Command("serve models: a page, an API, a DICOM node", _serve_arguments, _serve),
    },
}
