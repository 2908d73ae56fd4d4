"""CSV and Parquet tables: separators, encodings, quotes, rows, ids and labels."""

from __future__ import annotations

import codecs
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet
from tests.corpus.case import Made, Outcome, case

CELLS = [["path", "label", "split"], ["a.png", "x", "train"], ["b.png", "y", "val"], ["c.png", "x", "test"]]
RIGHT = {"task.classes": ("x", "y"), "targets": np.array([0, 1, 0]), "frame.path": ["a.png", "b.png", "c.png"]}


def lines(separator: str = ",", cells: list[list[str]] = CELLS, end: str = "\n") -> str:
    return "".join(separator.join(row) + end for row in cells)


def beside(*column: str) -> list[list[str]]:
    """``CELLS`` with another column, its name first."""
    return [[*row, cell] for row, cell in zip(CELLS, column, strict=True)]


def table(property: str, content: str | bytes, outcome: Outcome = "read", says: str = "", **expected: object) -> None:
    """Register a text table; ``expected`` is ``RIGHT`` where nothing else is given, dots written as two underscores."""

    def make(folder: Path) -> Made:
        (folder / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
        right = {name.replace("__", "."): value for name, value in expected.items()} or RIGHT
        return Made(folder / "t.csv", {} if outcome == "refused" else right)

    case("Tables", property, "table", outcome, says=says)(make)


def labeled(words: list[str], name: str = "label") -> str:
    """A table of one patient a row with these labels, every third row in each split."""
    rows = [f"{n}.png,{word},{('train', 'val', 'test')[n % 3]}" for n, word in enumerate(words)]
    return "\n".join([f"path,{name},split", *rows]) + "\n"


def owned(ids: list[str], splits: list[str]) -> str:
    """A table whose rows have these patients and splits, labels taking turns."""
    rows = [f"{n}.png,{'xy'[n % 2]},{who},{split}" for n, (who, split) in enumerate(zip(ids, splits, strict=True))]
    return "\n".join(["path,label,patient_id,split", *rows]) + "\n"


# Separators and line endings.
for name, separator in {"commas": ",", "semicolons": ";", "tabs": "\t", "pipes": "|"}.items():
    table(name, lines(separator))
    table(f"{name}, Windows line endings", lines(separator, end="\r\n"))
table("old Mac line endings", lines(end="\r"))
table("no final line ending", lines().rstrip("\n"))
table("blank lines, lines of only spaces or separators", lines().replace("b.png", "\n   \n,,\nb.png"))
table("a first line sep=; as Excel writes it", "sep=;\n" + lines(";"))
table('a quoted first line "sep=;"', '"sep=;"\r\n' + lines(";", end="\r\n"))
table("a first line sep= with a tab", "SEP=\t\n" + lines("\t"))
table("decimal commas between semicolons", lines(";", beside("age", "63,5", "7", "8,25")), "corrected",
      "'age': decimal commas", frame__age=[63.5, 7.0, 8.25])  # fmt: skip
table("ambiguous thousands or decimals", lines(";", beside("dose", "1,234", "2,500", "3,000")),
      frame__dose=["1,234", "2,500", "3,000"])  # fmt: skip
table("more commas than semicolons in a header", lines(";", beside("a,b,c,d", "1", "2", "3")))
table("a control byte at the end, as in DOS files", lines() + "\x1a")

# Encodings.
UMLAUTS = lines().replace("x", "gutartig").replace("y", "bösartig")
GERMAN = {"task__classes": ("bösartig", "gutartig"), "targets": np.array([1, 0, 1])}
for name, encoding in {
    "UTF-8": "utf-8",
    "UTF-8 with a byte order mark": "utf-8-sig",
    "UTF-16 with a byte order mark": "utf-16",
}.items():
    table(name, UMLAUTS.encode(encoding), **GERMAN)
for end in ("le", "be"):
    table(f"UTF-16 ({end}) without a byte order mark", UMLAUTS.encode(f"utf-16-{end}"), **GERMAN)
    table(
        f"UTF-32 ({end}) with a byte order mark",
        getattr(codecs, f"BOM_UTF32_{end.upper()}") + UMLAUTS.encode(f"utf-32-{end}"),
        **GERMAN,
    )
table("Latin-1", UMLAUTS.encode("latin-1"), "corrected", "Windows-1252", **GERMAN)
table("Windows-1252 with characters of its own", lines().replace("y", "œdème – 5 µm").encode("cp1252"), "corrected",
      "Windows-1252", task__classes=("x", "œdème – 5 µm"))  # fmt: skip
FOREIGN = {
    "gbk": ("肺炎", "正常"),
    "gb18030": ("脑瘤", "无"),
    "shift_jis": ("肺炎", "せいじょう"),
    "euc_jp": ("腫瘍", "正常"),
    "big5": ("肺炎", "正常"),
    "euc_kr": ("폐렴", "정상"),
    "cp1251": ("пневмония", "норма"),
    "koi8_r": ("пневмония", "норма"),
    "cp1253": ("πνευμονία", "υγιής"),
    "cp1255": ("דלקת", "תקין"),
    "cp850": ("bösartig", "größer"),
    "mac_roman": ("große", "Drüse"),
}
for encoding, (one, other) in FOREIGN.items():
    text = lines().replace("x", one).replace("y", other)
    table(f"{encoding}, which cannot be detected", text.encode(encoding), "refused", "save it as UTF-8")
table("UTF-8 with one byte of Latin-1", UMLAUTS.encode() + b"d.png,gutartig,train\xa0\xe9\n",
      "refused", "line 5")  # fmt: skip
table("UTF-16 truncated within a character", UMLAUTS.encode("utf-16")[:-1], "refused", "damaged UTF-16")
table("a NUL byte in a cell", lines().replace("b.png", "b\0.png"), "refused", "NUL byte in line 3")
table("an Excel workbook", b"PK\x03\x04" + bytes(100), "refused", "save it as CSV")
table("an old Excel workbook", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "refused", "save it as CSV")
table("gzip", b"\x1f\x8b\x08\x00" + bytes(range(100)), "refused", "gzip")

# Quotes.
FOUR = {"targets": np.array([0, 1, 0, 1])}


def noted(property: str, *notes: str, outcome: Outcome = "read", says: str = "", **expected: object) -> None:
    """Register four rows whose last cells are ``notes`` as they stand, then q, r, s."""
    cells = [*notes, *"pqrs"[len(notes) :]]
    rows = [f"{n}.png,{'xy'[n % 2]},train,{cell}" for n, cell in enumerate(cells)]
    table(property, "\n".join(["path,label,split,note", *rows]) + "\n", outcome, says, **(expected or FOUR))


noted("a quoted separator", '"5 mm, left"', frame__note=["5 mm, left", "q", "r", "s"])
noted("a doubled quote in a quoted cell", '"2"" margin"', frame__note=['2" margin', "q", "r", "s"])
noted("a quote within an unquoted cell", '2" margin', frame__note=['2" margin', "q", "r", "s"])
noted("a quoted line ending", '"left\nright"', frame__note=["left\nright", "q", "r", "s"])
noted("a quoted separator and line ending", '"left, upper\nlobe"', frame__note=["left, upper\nlobe", "q", "r", "s"])
noted("a space before a quoted cell", ' "5 mm, left"', frame__note=["5 mm, left", "q", "r", "s"])
table("spaces around quoted cells", lines(" , ", [[f'"{cell}"' for cell in row] for row in CELLS]))
table("all cells quoted", lines(cells=[[f'"{cell}"' for cell in row] for row in CELLS]))
table('numbers kept as text by ="..."', owned(['="01"', '="02"', '="03"'], ["train", "val", "test"]),
      frame__patient_id=["01", "02", "03"])  # fmt: skip
noted("two stray quotes around whole rows", '"5 mm', "q", '2" margin', outcome="refused", says="lines 2 to 4")
noted("two stray quotes that close a cell", '"5 mm', 'q"', outcome="refused", says="line 3, which looks like a row")
noted("a stray quote that is never closed", "p", '"5 mm', outcome="refused", says="lines 3 to 5")
noted("an unescaped quote within a quoted cell", '"2" margin"', outcome="refused", says="line 2")

# Rows and columns.
table("a row with an extra cell", lines().replace("val", "val,more"), "refused", "line 3: 4 cells")
table("a row without its split", lines().replace(",val", ""), "refused", "line 3: 2 cells")
table("a file truncated within a row", lines().removesuffix(",test\n"), "refused", "line 4: 2 cells")
table("rows without an unused last cell", lines().replace("split", "split,note"), "corrected", "fewer cells")
table("a column without a name, as pandas writes its index", "".join(
    f"{'' if n == 0 else n},{','.join(row)}\n" for n, row in enumerate(CELLS)))  # fmt: skip
table("two columns with the same name", lines().replace("split", "label"), "refused", "two columns are called 'label'")
table("two columns whose names differ only in a space", lines().replace("split", "label "), "refused", "two columns")
for name in ("Patient_ID", "patient", "Subject ID", "participant_id", "MRN"):
    table(f"a column {name}", lines(cells=beside(name, "1", "2", "3")), "refused", "rename it to patient_id")
table("a column Split", lines().replace("split", "Split"), "refused", "rename it to split")
table("a split column with another name", owned(list("abcdefghijkl"), ["train", "Validation", "test"] * 4).replace(
    "split", "subset"), "corrected", "column 'subset' seems to hold splits but is not used",
    task__classes=("x", "y"))  # fmt: skip
table("only a header", "path,label\n", "refused", "without rows")
table("an empty first line", "\n" + lines(), "refused", "first line is empty")
table("no header", lines(cells=CELLS[1:]), "refused", "no column 'path'")

# Labels.
table("labels in two Unicode forms", labeled(["ad\u00e9nome", "x", "ade\u0301nome"] * 2), "corrected",
      "look the same", task__classes=("ad\u00e9nome", "x"), targets=np.array([0, 1, 0] * 2))  # fmt: skip
table("labels with unusual spaces", labeled(["a b", "x", "a\u00a0b", "a  b", "x", "a\u200b b"]), "corrected",
      "written in 4 ways", task__classes=("a b", "x"))  # fmt: skip
TWICE = {"1": "1.0", "True": "TRUE", "yes": "1", "01": "1", "Pneumonia": "pneumonia", "no tumor": "no_tumor"}
for one, other in TWICE.items():
    table(f"labels {one} and {other}", labeled([one, "0", other] * 2), "refused", f"'{one}' (lines 2, 5) and '{other}'")
table("genotypes that differ in case", labeled(["AA", "Aa", "aa"] * 2), task__classes=("AA", "Aa", "aa"))
table("grades that look like yes and no", labeled(["1", "2", "3"] * 2), task__classes=("1", "2", "3"))
for word in ("nan", "NaN", "<NA>", "#N/A", "null", "?", "-"):
    table(f"label {word}", labeled(["x", "y", word] * 2), targets=np.array([0, 1, 0, 1]),
          left_out={f"no label but {word!r}": 2})  # fmt: skip
for word in ("None", "NA", "unknown"):
    table(f"label {word}", labeled(["x", "y", word] * 2), "corrected", f"label {word!r} (2 rows) is treated as a class",
          task__classes=tuple(sorted(["x", "y", word])))  # fmt: skip

# Patients.
THIRDS = ["train", "val", "test"]
FORMS = {
    "leading zeros": ("0001", "1"),
    "zeros after letters": ("P007", "P7"),
    "a trailing .0": ("12", "12.0"),
    "case": ("p07", "P07"),
    "Unicode composition": ("M\u00fcller", "Mu\u0308ller"),
    "a no-break space": ("pat 7", "pat\u00a07"),
    "a zero-width space": ("p7", "p7\u200b"),
    "double spaces": ("pat 7", "pat  7"),
    "full-width digits": ("p7", "p\uff17"),
    "empty parts of a DICOM name": ("Doe^Jo", "Doe^Jo^^"),
}
THIRDS = ["train", "val", "test"]
for name, (one, other) in FORMS.items():
    ids = [one, "q1", "q2", other, "q1", "q2"]
    table(f"patient ids that differ in {name}, in one split", owned(ids, THIRDS * 2), "corrected",
          "treated as 1 patient (lines 2, 5)", frame__patient=[0, 1, 2, 0, 1, 2])  # fmt: skip
    apart = owned(ids, [*THIRDS, "val", "val", "test"])
    table(f"patient ids that differ in {name}, in two splits", apart, "refused", "differ only in form")
table("short distinct patient ids", owned(["1", "10", "100", "a1", "b1", "1a"], ["train"] * 6),
      frame__patient=list(range(6)))  # fmt: skip
for word in ("nan", "unknown", "N/A", "anonymous", "ANON", "-", "<NA>", "xxx"):
    table(f"patient id {word} in some rows", owned(["a", word, word, "b", "c", "d"], THIRDS * 2), "corrected",
          "identifies nobody", frame__patient=list(range(6)))  # fmt: skip
table("patient id 0000 in half of the rows", owned(["0000"] * 6 + list("abcdef"), THIRDS * 4), "corrected",
      "'0000' identifies nobody", frame__patient=list(range(12)))  # fmt: skip
table("patient ids counted from 0", owned(["0", "1", "2"] * 2, THIRDS * 2), frame__patient=[0, 1, 2] * 2)
table("patient id unknown in most rows", owned(["unknown"] * 4 + ["a", "b"], THIRDS * 2), "refused",
      "identifies nobody, in 4 of 6 rows")  # fmt: skip

# Paths.
for path in ("../a.png", "/etc/passwd", "sub/../../a.png", ".", "sub/.."):
    table(f"path {path}", lines().replace("b.png", path), "refused", "line 3 leads out of")
table("a path with a backslash", lines().replace("b.png", "sub\\b.png"), "refused", "backslash in the path of line 3")
table("paths with ./ and //", lines().replace("b.png", ".//sub/./b.png"), frame__row=[0, 1, 2])


def other(property: str, outcome: Outcome, says: str = "") -> Any:
    return case("Tables", property, "table", outcome, says=says)


@other("a pipe", "refused", "not a regular file")
def pipe(folder: Path) -> Made:
    os.mkfifo(folder / "t.csv")
    return Made(folder / "t.csv")


@other("Parquet", "read")
def sound_parquet(folder: Path) -> Made:
    pd.DataFrame(CELLS[1:], columns=CELLS[0]).to_parquet(folder / "t.parquet")
    return Made(folder / "t.parquet", RIGHT)


@other("Parquet with text that is not UTF-8", "refused", "damaged Parquet")
def parquet_of_bytes(folder: Path) -> Made:
    text = pa.StringArray.from_buffers(2, pa.py_buffer(np.array([0, 5, 11], np.int32)), pa.py_buffer(b"a.pngb\xe9.png"))
    parquet.write_table(pa.table({"path": text, "label": ["x", "y"]}), folder / "t.parquet")
    return Made(folder / "t.parquet")


@other("Parquet with binary paths", "read")
def parquet_of_binary(folder: Path) -> Made:
    columns = {name: pa.array([row[n].encode() for row in CELLS[1:]]) for n, name in enumerate(CELLS[0])}
    parquet.write_table(pa.table(columns), folder / "t.parquet")
    return Made(folder / "t.parquet", RIGHT)
