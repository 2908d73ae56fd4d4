"""Rows of a table as samples of one kind."""

from __future__ import annotations

from softfree.data.table import Table
from softfree_runtime.core.errors import UserError
from softfree_runtime.sources.joined_source import WITH_RESOLUTION, with_resolution


def as_samples(table: Table, kind: str, *, group: bool = False) -> Table:
    """Bring the resolution that a column ``mpp`` names to slides and bags, and join the bags of a patient.

    Args:
        table: its rows.
        kind: of the samples, see :data:`softfree.data.modalities.base.KINDS`.
        group: make one bag of all rows of a patient.

    Raises:
        UserError: ``group`` for samples that cannot be joined, or rows of a patient that disagree.
    """
    if group and kind != "bag":
        raise UserError(f"--group joins bags of tile features, not samples of kind {kind}; leave it out")
    if kind not in WITH_RESOLUTION:
        return table
    if not group:
        return with_resolution(table)
    from softfree.data.groups import group_by_patient

    return group_by_patient(table)
