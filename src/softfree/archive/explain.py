"""``softfree explain RUN INPUTS --out FOLDER --archive``: maps of many inputs."""

from __future__ import annotations

from collections.abc import Sequence

from softfree.archive.bulk import Given, do_all
from softfree.archive.options import ExplainArchiveOptions, given_bulk_options
from softfree.archive.remote import is_remote
from softfree.archive.task import Resources
from softfree.archive.tasks.explain import Explain


def is_for_archive(inputs: Sequence[str], options: ExplainArchiveOptions) -> bool:
    """Whether a command is for an archive: it says so, has an option or an address of one, or goes on with one."""
    begun = (options.out / "archive.json").is_file()
    return options.archive or begun or bool(given_bulk_options(options)) or any(map(is_remote, inputs))


def explain_archive(run: str, inputs: Sequence[str], options: ExplainArchiveOptions) -> int:
    """Explain all inputs, in a folder; return the exit status: 0, or 1 if some inputs failed or are left.

    Args:
        run: A run directory or a study.
        inputs: Files, folders, tables and addresses.
        options: All settings; ``out`` is the folder.

    Raises:
        UserError: Impossible options, or a folder that was begun with others.
    """
    task = Explain.create(run, options, Resources.of(options).threads)
    return do_all(task, Given(inputs, options.out, options.frame, options.image_root, options.progress), options)
