"""``softfree check``: a table before training, a run or an exported file on another machine."""

from __future__ import annotations

import json
from pathlib import Path

from jsonargparse import Namespace

from softfree.archive.options import CheckArchiveOptions, given_bulk_options
from softfree.cli.parser import Parser, add_json, add_options, fill
from softfree_runtime.core.errors import UserError


def check_arguments(parser: Parser) -> None:
    """Add the arguments of ``softfree check``."""
    what = "CSV or Parquet file with one row per image, or a folder with one subfolder per class. Or a run, a study"
    what += " or an exported .onnx file, to see whether it gives the same logits on this machine."
    parser.add_argument("table", type=str, help=what)
    add_options(parser, CheckArchiveOptions)
    add_json(parser)


def check(parsed: Namespace) -> int:
    """Audit a table, or compare the logits of phantoms with those of a run, a study or an exported file."""
    path, options = Path(parsed.table), fill(CheckArchiveOptions, parsed)
    exported = path.suffix.lower() == ".onnx"
    if not exported and not (path / "config.yaml").is_file():
        return _check_table(options, parsed)
    if options != CheckArchiveOptions(progress=options.progress):
        raise UserError(f"{path} is not a table: softfree check RUN takes only --json")
    if exported:  # works where torch is not installed
        from softfree_runtime.phantoms import check_file

        results = {parsed.table: check_file(path)}
    else:
        from softfree.inference.reproduction import reproduce

        results = reproduce(path)
    if parsed.json:
        print(json.dumps({name: result.to_dict() for name, result in results.items()}, indent=2, allow_nan=False))
    else:
        print("\n".join(f"{name}: {result}" for name, result in results.items()))
        if (path / "suspects.csv").is_file():
            print(f"Suspect labels, to be looked at: {path / 'suspects.csv'}")
    return 0 if all(result.same for result in results.values()) else 1


def _check_table(options: CheckArchiveOptions, parsed: Namespace) -> int:
    from softfree.data.audit.audit import audit
    from softfree.data.folds import folds_of
    from softfree.data.labels import label_options
    from softfree.data.samples import with_resolution
    from softfree.data.table import read_table
    from softfree.data.targets import refuse_targets
    from softfree.inference.run_directory import check_fold, known_split
    from softfree_runtime.core.files import replacing

    refuse_targets(options.targets, "softfree check")
    of_all_folds = options.fold_file is not None and options.fold is None
    if not of_all_folds:
        check_fold(options)
    if options.out is not None and options.out.suffix.lower() != ".csv":
        raise UserError(f"--out {options.out}: expected a name that ends in .csv")
    if options.folder is None and (given := given_bulk_options(options)):
        raise UserError(f"--{given[0]} is for large tables: name a folder with --folder, such as --folder facts/")
    table = read_table(
        parsed.table,
        **label_options(options),
        image_root=options.image_root,
        seed=options.seed,
        strict_patients=False,
        known=known_split(options),
    )
    progress = options.progress and not parsed.json
    table, probes = with_resolution(table), None
    if options.folder is not None:
        from softfree.archive.check import probe_archive

        probes = probe_archive(Path(parsed.table), table.frame, options, progress=progress)
        if probes is None:
            return 0
    report = audit(
        table,
        num_workers=options.num_workers,
        progress=progress,
        strict=options.strict,
        folds=folds_of(table, options.fold_file if of_all_folds else None),
        probes=probes,
    )
    if options.out is not None:
        with replacing(options.out) as temporary:
            report.near_duplicates.to_csv(temporary, index=False)
    if parsed.json:
        print(json.dumps(report.to_dict(), indent=2, allow_nan=False))
    else:
        report.print()
    return 1 if report.errors else 0
