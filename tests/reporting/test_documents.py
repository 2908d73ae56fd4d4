"""The model card and the sheets say what the run knows, with the numbers of its files, and nothing about patients."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from huggingface_hub import ModelCard

from softfree.cli.main import main
from softfree.inference.run import Run
from softfree.reporting.documents.card import card_in_text, methods, model_card
from softfree.reporting.documents.checklists import CLAIM, TRIPOD_AI, Checklist
from softfree.reporting.documents.document import Author, Bullets, Code, Document, Heading, Paragraph, Table
from softfree.reporting.documents.evaluated import Evaluated, with_interval
from softfree.reporting.documents.facts import Facts
from softfree.reporting.documents.write import write_documents
from softfree.reporting.options import ReportOptions
from softfree_runtime.core.errors import UserError

TRIPOD_NUMBERS = """
    1 2 3a 3b 3c 4 5a 5b 6a 6b 6c 7 8a 8b 8c 9a 9b 9c 10 11 12a 12b 12c 12d 12e 12f 12g 13 14 15 16 17
    18a 18b 18c 18d 18e 18f 19 20a 20b 20c 21 22 23a 23b 24 25 26 27a 27b 27c
"""


def text_of_docx(path: Path) -> str:
    import docx

    document = docx.Document(str(path))
    cells = [cell.text for table in document.tables for row in table.rows for cell in row.cells]
    return "\n".join([*(paragraph.text for paragraph in document.paragraphs), *cells])


def test_the_facts_are_those_of_the_files(run: Run) -> None:
    facts = Facts(run)
    assert facts.data() == ["The data set has 32 images of 16 patients (16 high, 16 low)."]
    assert facts.splits() == [
        "Split: as given by the table.",
        "Training: 16 images of 8 patients (8 high, 8 low); validation: 8 images of 4 patients (4 high, 4 low);"
        " test: 8 images of 4 patients (4 high, 4 low).",
    ]
    metric = run.directory.read_metrics()["metrics"]["auroc"]
    (result,) = facts.results()
    assert result.startswith(f"Test split, 8 images of 4 patients: AUROC {metric['value']:.3f}")
    (threshold,) = run.calibration.thresholds.values()
    assert facts.output()[1].endswith(f"of the final model: low from {threshold:.3f}.")
    assert facts.output()[2] == "Conformal sets name the plausible classes, by validation samples."
    sets = run.directory.read_metrics()["conformal"]
    (coverage,) = facts.coverage()
    assert coverage.startswith(f"Conformal sets made for a coverage of {sets['target']:g}, test split: coverage")
    assert f"coverage {sets['all']['covered']:.3f}" in coverage
    assert "1 epoch with AdamW on the cross-entropy, 8 samples per step: learning rate 0.0005" in facts.training()[0]
    assert "seqnorm attention, 1 block of width 32 with 2 heads, patches of 8 x 8." in facts.model()[0]
    assert facts.ensemble() == ["The final model is a single one."]
    assert "The model was not evaluated on data of another source." in facts.warnings()
    assert any("No interval of the AUROC" in text or "no interval of the AUROC" in text for text in facts.warnings())


@pytest.mark.parametrize(
    ("checklist", "numbers"), [(TRIPOD_AI, TRIPOD_NUMBERS.split()), (CLAIM, [str(number) for number in range(1, 45)])]
)
def test_every_item_is_there_and_answered_or_left_to_the_author(
    run: Run, checklist: Checklist, numbers: list[str]
) -> None:
    items = [item for section in checklist.sections.values() for item in section]
    assert [item.item for item in items] == numbers
    assert all(callable(getattr(Facts, name)) for item in items for name in item.facts)
    tables = [block for block in checklist.fill(Facts(run)).blocks if isinstance(block, Table)]
    rows = [row for table in tables for row in table.rows]
    assert [row[0][0] for row in rows] == numbers
    for item, (_, _, answer) in zip(items, rows, strict=True):
        assert answer, item.item
        assert bool(item.author) <= isinstance(answer[-1], Author)


def test_all_files_are_written_without_patients_and_paths(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "documents"
    assert main(["report", str(run.folder), "--out", str(out)]) == 0
    written = [Path(line) for line in capsys.readouterr().out.split()]
    names = ("model_card", "methods", "tripod_ai", "claim_2024")
    assert written == [out / f"{name}.{ending}" for name in names for ending in ("md", "html", "docx")]
    auroc = f"{run.directory.read_metrics()['metrics']['auroc']['value']:.3f}"
    for path in written:
        text = text_of_docx(path) if path.suffix == ".docx" else path.read_text()
        assert auroc in text, path
        assert "For the author" in text
        for secret in ("patient0", "patient1", ".png", "table.csv", str(run.folder), str(tmp_path), "/home", "/tmp"):
            assert secret not in text, (path, secret)


def test_the_hub_reads_the_head_of_the_card(run: Run) -> None:
    card = ModelCard(model_card(Facts(run)).to_markdown())
    (auroc,) = [result for result in card.data.eval_results if result.metric_type == "roc_auc"]
    assert auroc.metric_value == pytest.approx(run.directory.read_metrics()["metrics"]["auroc"]["value"], abs=1e-4)
    assert auroc.dataset_name == "test split"
    assert card.data.library_name == "softfree"
    assert "## Results: test split" in card.text
    assert card_in_text(run).startswith(f"# {run.model_name}\n")


def test_another_table_is_external(run: Run, tmp_path: Path) -> None:
    table = run.table_path
    rows = pd.read_csv(table).drop(columns="split").tail(8).assign(patient_id=[f"new{n}" for n in range(8)])
    other = tmp_path / "other.csv"
    rows.to_csv(other, index=False)
    out = tmp_path / "elsewhere"
    arguments = ["--image-root", str(table.parent), "--out", str(out), "--progress=false", "--num-bootstrap", "20"]
    assert main(["evaluate", str(run.folder), str(other), *arguments]) == 0
    facts = Facts(run, [out])
    assert facts.external()[0].startswith("External data elsewhere, 8 images")
    assert facts.design()[0].endswith("and externally on 1 data set.")
    assert "The model was not evaluated on data of another source." not in facts.warnings()
    assert "External data elsewhere" in methods(facts).to_markdown()
    with pytest.raises(UserError, match=r"has no metrics.json; expected a folder made by softfree evaluate --out"):
        Facts(run, [tmp_path])
    content = json.loads((out / "metrics.json").read_text())
    (out / "metrics.json").write_text(json.dumps(content | {"classes": ["a", "b"]}))
    with pytest.raises(UserError, match="was evaluated for other classes"):
        Facts(run, [out])


def test_a_run_that_recorded_less_has_shorter_documents(
    tmp_path: Path, image_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = write_documents(image_run, ReportOptions(out=tmp_path / "out", docx=False))
    assert [path.suffix for path in files[:2]] == [".md", ".html"]
    sheet = (tmp_path / "out" / "claim_2024.md").read_text()
    assert re.search(r"^\| 29 \| .* \| \*\*For the author:\*\* not recorded by this run \|$", sheet, flags=re.M)
    monkeypatch.setattr("softfree.reporting.documents.write.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"DOCX needs python-docx: pip install 'softfree\[report\]', or leave it out"):
        write_documents(image_run, ReportOptions(out=tmp_path / "out"))


def test_a_document_in_each_format(tmp_path: Path) -> None:
    import docx

    table = Table(("What", "Answer"), [(("a|b",), ("<b> & *c*", Author("your part")))], (1, 3))
    blocks = [Heading("One"), Paragraph("x_1 and _y_"), Bullets(["p", Author("q")]), Code("run --me"), table]
    document = Document("sheet", "Sheet [1]", "Synthetic images", blocks, head="a: 1")
    assert document.to_markdown() == (
        "---\na: 1\n---\n\n# Sheet \\[1\\]\n\n> Synthetic images\n\n## One\n\nx_1 and \\_y\\_\n\n"
        "- p\n- **For the author:** q\n\n```\nrun --me\n```\n\n"
        "| What | Answer |\n| --- | --- |\n| a\\|b | \\<b\\> & \\*c\\*<br>**For the author:** your part |\n"
    )
    page = document.to_html()
    assert "<p>&lt;b&gt; &amp; *c*</p>" in page
    assert '<span class="author"><b>For the author:</b> your part</span>' in page
    assert not re.search(r"(src|href)=", page), "a page that needs no other file"
    *_, path = document.write(tmp_path)
    word = docx.Document(str(path))
    assert [(p.text, p.style.name) for p in word.paragraphs[:3]] == [
        ("Sheet [1]", "Title"), ("Synthetic images", "Intense Quote"), ("One", "Heading 1"),
    ]  # fmt: skip
    answer = word.tables[0].rows[1].cells[1]
    assert answer.text == "<b> & *c*\nFor the author: your part"
    assert answer.paragraphs[1].runs[0].bold
    assert 'w:fill="FFF2CC"' in answer.paragraphs[1]._p.xml
    assert word.core_properties.author == ""


@pytest.mark.parametrize("kind", ["volume", "slide"])
def test_other_kinds_have_documents(kind: str, request: pytest.FixtureRequest, write_run: Callable[..., Run]) -> None:
    run = request.getfixturevalue(f"{kind}_run")
    facts = Facts(run)
    assert f"classifier of {kind}s: well or ill" in facts.title
    assert "patches of" in facts.model()[0]
    assert TRIPOD_AI.fill(facts).to_html()


def test_a_reason_beside_an_interval_is_not_one_for_its_lack() -> None:
    metric = {"value": 0.4, "low": 0.3, "high": 0.5, "reason": "left out for lack of samples: c"}

    def warnings(**changes: Any) -> list[str]:
        results = {"task": "multiclass", "metrics": {"auroc": metric | changes}}
        return Evaluated("test split", False, results).warnings()

    assert warnings() == ["Test split: AUROC: left out for lack of samples: c."]
    assert warnings(low=None, high=None, reason="one class is missing") == [
        "Test split: no interval of the AUROC: one class is missing."
    ]


def test_a_value_that_is_undefined_says_so() -> None:
    assert with_interval({"value": None, "low": None, "high": None}) == "undefined"
    assert with_interval({"value": 0.5, "low": None, "high": None}) == "0.500"
    assert with_interval({"value": 0.5, "low": 0.4, "high": 0.625}) == "0.500 (95 % interval 0.400 to 0.625)"
