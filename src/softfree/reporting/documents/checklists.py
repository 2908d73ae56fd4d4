"""The sheets of TRIPOD+AI (27 items) and CLAIM 2024 (44 items): each item with the facts that answer it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import yaml

from softfree.reporting.documents.document import Author, Block, Cell, Document, Heading, Paragraph, Table
from softfree.reporting.documents.facts import Facts

UNKNOWN = Author("not recorded by this run")


@dataclass(frozen=True)
class Item:
    """One item of a checklist.

    Attributes:
        item: Its number, as published.
        asks: What to report, in short.
        facts: Names of the methods of :class:`Facts` that answer it.
        author: What only the author can add; empty if the facts suffice.
    """

    item: str
    asks: str
    facts: Sequence[str] = ()
    author: str = ""

    def sentences(self, facts: Facts) -> list[str]:
        """Return what the run knows."""
        return [sentence for name in self.facts for sentence in getattr(facts, name)()]


@dataclass(frozen=True)
class Checklist:
    """A checklist.

    Attributes:
        name: Of its files, and of the file with its items.
        title: Of the sheet.
        source: Where it was published.
    """

    name: str
    title: str
    source: str

    @cached_property
    def sections(self) -> dict[str, list[Item]]:
        """The items by section."""
        content = yaml.safe_load((Path(__file__).parent / f"{self.name}.yaml").read_text(encoding="utf-8"))
        return {title: [Item(**item) for item in items] for title, items in content.items()}

    def fill(self, facts: Facts) -> Document:
        """Answer the items with the facts of a run."""
        blocks = list(self._blocks(facts))
        return Document(self.name, f"{self.title}: {facts.title}", facts.run.notice or "", blocks)

    def _blocks(self, facts: Facts) -> Iterator[Block]:
        items = [item for section in self.sections.values() for item in section]
        known = [bool(item.sentences(facts)) for item in items]
        whole = sum(answered and not item.author for answered, item in zip(known, items, strict=True))
        yield Paragraph(
            f"{self.source}. Items are worded in short; the published checklist prevails. Of {len(items)} rows, this"
            f" run answers {whole}, and {sum(known) - whole} in part; {len(items) - sum(known)} are for the author."
        )
        for title, section in self.sections.items():
            yield Heading(title)
            yield Table(("Item", "What to report", "Answer"), [_row(item, facts) for item in section], (1, 4, 9))


def _row(item: Item, facts: Facts) -> tuple[Cell, Cell, Cell]:
    sentences = item.sentences(facts)
    answer: list[str] = [" ".join(sentences)] if sentences else []
    if item.author or not sentences:
        answer.append(Author(item.author) if item.author else UNKNOWN)
    return (item.item,), (item.asks,), tuple(answer)


TRIPOD_AI = Checklist("tripod_ai", "TRIPOD+AI", "TRIPOD+AI, 27 items (Collins et al., BMJ 2024;385:e078378)")
CLAIM = Checklist(
    "claim_2024",
    "CLAIM 2024",
    "CLAIM, 2024 update, 44 items (Tejani et al., Radiology: Artificial Intelligence 2024;6(4):e240300)",
)
