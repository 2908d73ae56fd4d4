"""A document of headings, paragraphs, lists, tables and code, as Markdown, HTML or DOCX."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from softfree.evaluation.report import environment
from softfree_runtime.core.files import replacing, write_atomically

MARK = "For the author"
FORMATS = ("md", "html", "docx")
_SPECIAL = re.compile(r"([\\`*\[\]<>|]|(?<![^\W_])_|_(?![^\W_]))")  # underscores within a word mark nothing
_SHADE = "FFF2CC"  # behind what is left for the author


class Author(str):
    """What only the author knows; marked in each format."""

    __slots__ = ()


Cell = tuple[str, ...]
"""Paragraphs of a cell; those that are :class:`Author` are marked."""


@dataclass(frozen=True)
class Heading:
    """A heading of the second level."""

    text: str


@dataclass(frozen=True)
class Paragraph:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Bullets:
    """A list."""

    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    """Lines of code."""

    text: str


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        columns: Headings.
        rows: Cells of each row.
        widths: Share of each column, for paper.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    widths: Sequence[float]


Block = Heading | Paragraph | Bullets | Code | Table


@dataclass(frozen=True)
class Document:
    """A document.

    Attributes:
        name: Of its files, without an ending.
        title: Its title.
        notice: What readers must know first; empty for nothing.
        blocks: The content.
        head: YAML at the top of the Markdown, without its dashes; empty for none.
    """

    name: str
    title: str
    notice: str
    blocks: Sequence[Block] = field(default=())
    head: str = ""

    def to_markdown(self) -> str:
        """Return the document as GitHub's Markdown."""
        parts = [f"# {_escaped(self.title)}"]
        if self.notice:
            parts.append(f"> {_escaped(self.notice)}")
        parts += [_block_to_markdown(block) for block in self.blocks]
        head = f"---\n{self.head.strip()}\n---\n\n" if self.head else ""
        return head + "\n\n".join(parts) + "\n"

    def to_html(self) -> str:
        """Return the document as a page that needs no other file."""
        template = environment().get_template("document.html.j2")
        return template.render(
            document=self,
            mark=MARK,
            kind_of=lambda block: type(block).__name__,
            is_author=lambda text: isinstance(text, Author),
        )

    def write(self, folder: Path, formats: Sequence[str] = FORMATS) -> list[Path]:
        """Write the document in each of the formats, and return the files.

        Raises:
            ModuleNotFoundError: DOCX without python-docx.
        """
        files = []
        for ending in formats:
            path = folder / f"{self.name}.{ending}"
            if ending == "docx":
                self._write_docx(path)
            else:
                write_atomically(path, self.to_markdown() if ending == "md" else self.to_html())
            files.append(path)
        return files

    def _write_docx(self, path: Path) -> None:
        import docx

        word = docx.Document()
        _prepare_page(word)
        word.core_properties.title, word.core_properties.author = self.title, ""
        word.add_heading(self.title, 0)
        if self.notice:
            word.add_paragraph(self.notice, style="Intense Quote")
        for block in self.blocks:
            _add_to_docx(word, block)
        with replacing(path) as temporary, temporary.open("wb") as file:
            word.save(file)


def _escaped(text: str) -> str:
    return _SPECIAL.sub(r"\\\1", text).replace("\n", " ")


def _text_to_markdown(text: str) -> str:
    return f"**{MARK}:** {_escaped(text)}" if isinstance(text, Author) else _escaped(text)


def _block_to_markdown(block: Block) -> str:
    if isinstance(block, Heading):
        return f"## {_escaped(block.text)}"
    if isinstance(block, Paragraph):
        return _text_to_markdown(block.text)
    if isinstance(block, Bullets):
        return "\n".join(f"- {_text_to_markdown(item)}" for item in block.items)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    lines = [block.columns, ["---"] * len(block.columns)]
    lines += [["<br>".join(map(_text_to_markdown, cell)) for cell in row] for row in block.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _prepare_page(word: Any) -> None:
    """Set A4 with narrow margins, and a font that every machine has."""
    from docx.shared import Cm, Pt

    (section,) = word.sections
    section.page_width, section.page_height = Cm(21), Cm(29.7)
    section.left_margin = section.right_margin = Cm(2)
    section.top_margin = section.bottom_margin = Cm(2)
    word.styles["Normal"].font.name, word.styles["Normal"].font.size = "Arial", Pt(10)


def _add_to_docx(word: Any, block: Block) -> None:
    from docx.shared import Cm, Pt

    if isinstance(block, Heading):
        word.add_heading(block.text, 1)
    elif isinstance(block, Paragraph):
        _add_text(word.add_paragraph(), block.text)
    elif isinstance(block, Bullets):
        for item in block.items:
            _add_text(word.add_paragraph(style="List Bullet"), item)
    elif isinstance(block, Code):
        run = word.add_paragraph().add_run(block.text)
        run.font.name, run.font.size = "Courier New", Pt(9)
    else:
        table = word.add_table(1, len(block.columns), style="Table Grid")
        table.autofit = False
        for cell, name in zip(table.rows[0].cells, block.columns, strict=True):
            cell.paragraphs[0].add_run(name).bold = True
        _repeat_on_each_page(table.rows[0])
        for row in block.rows:
            for cell, texts in zip(table.add_row().cells, row, strict=True):
                for number, text in enumerate(texts):
                    _add_text(cell.paragraphs[0] if number == 0 else cell.add_paragraph(), text)
        for row in table.rows:
            for cell, share in zip(row.cells, block.widths, strict=True):
                cell.width = Cm(17 * share / sum(block.widths))
                for paragraph in cell.paragraphs:
                    paragraph.paragraph_format.space_after = Pt(2)
                    for run in paragraph.runs:
                        run.font.size = Pt(9)


def _add_text(paragraph: Any, text: str) -> None:
    if isinstance(text, Author):
        marked = paragraph.add_run(f"{MARK}: ")
        marked.bold = True
        _shade(marked)
        _shade(paragraph.add_run(str(text)))
    else:
        paragraph.add_run(text)


def _shade(run: Any) -> None:
    from docx.oxml import OxmlElement
    from docx.oxml.ns import qn

    shade = OxmlElement("w:shd")
    for name, value in (("val", "clear"), ("color", "auto"), ("fill", _SHADE)):
        shade.set(qn(f"w:{name}"), value)
    run._r.get_or_add_rPr().append(shade)


def _repeat_on_each_page(row: Any) -> None:
    from docx.oxml import OxmlElement

    row._tr.get_or_add_trPr().append(OxmlElement("w:tblHeader"))
