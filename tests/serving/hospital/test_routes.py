"""Rules: what matches, and one clear line for what is wrong in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydicom.dataset import Dataset

from softfree.serving.hospital.routes import Routes, Target, described, read_routes
from softfree_runtime.core.errors import UserError
from softfree_runtime.readers.quiet import quiet

MODELS = {"chest": Target(explains=True), "breast": Target(), "pair": Target(views=("L", "R")),
          "brain": Target(channels=True)}  # fmt: skip
PAIR = "model: pair, match: {Modality: MG}, views: {L: {Laterality: L}, R: {Laterality: R}}"
RULES = """
- {model: none, match: {ImageType: DERIVED}}
- model: chest
  match: {Modality: [CR, DX], BodyPartExamined: "CHEST*", ViewPosition: [PA, AP, ""]}
  explain: true
- {model: [chest, breast], match: {Modality: MG, SeriesNumber: 3}}
"""


def rules(text: str, folder: Path) -> Routes:
    (folder / "rules.yaml").write_text(text)
    return read_routes(folder / "rules.yaml", MODELS)


def header(**elements: object) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


@pytest.mark.parametrize(
    ("elements", "number"),
    [
        ({"Modality": "CR", "BodyPartExamined": "CHEST", "ViewPosition": "PA"}, 1),
        ({"Modality": "DX", "BodyPartExamined": "chest_abdomen", "ViewPosition": ""}, 1),
        ({"Modality": "DX", "BodyPartExamined": "CHEST"}, 1),
        ({"Modality": "DX", "BodyPartExamined": "CHEST", "ImageType": ["DERIVED", "PRIMARY"]}, 0),
        ({"Modality": "MG", "SeriesNumber": 3}, 2),
        ({"Modality": "DX", "BodyPartExamined": "CHEST", "ViewPosition": "LL"}, -1),
        ({"Modality": "DX"}, -1),
        ({"Modality": "MG", "SeriesNumber": 31}, -1),
        ({}, -1),
    ],
)
def test_first_rule_that_matches_decides(elements: dict[str, object], number: int, tmp_path: Path) -> None:
    with quiet():
        assert rules(RULES, tmp_path).number_for(header(**elements)) == number


def test_rules_know_what_they_need(tmp_path: Path) -> None:
    routes = rules(RULES, tmp_path)
    assert [rule.models for rule in routes.rules] == [(), ("chest",), ("chest", "breast")]
    assert [rule.explain for rule in routes.rules] == [False, True, False]
    assert set(routes.keywords) == {"Modality", "BodyPartExamined", "ViewPosition", "ImageType", "SeriesNumber"}
    assert routes.modalities == ["CR", "DX", "MG"]
    assert rules("- {model: chest, match: {Modality: 'C?'}}", tmp_path).modalities is None
    assert rules("- {model: chest, match: {StationName: A}}", tmp_path).modalities is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has nothing; expected a list of rules such as: - {model: chest, match: {Modality: [CR, DX]"),
        ("[]", "has nothing; expected a list of rules"),
        ("model: chest", "expected a list of rules"),
        ("- chest", "rule 1 is 'chest'; expected one such as: {model: chest"),
        ("- {model: chest}", "rule 1: match is 'None'; expected patterns by keyword"),
        ("- {model: chest, match: {}}", "rule 1: match is '{}'; expected patterns by keyword"),
        ("- {model: chset, match: {Modality: CR}}", "rule 1: Unknown model 'chset': did you mean chest?"),
        ("- {match: {Modality: CR}}", "rule 1: model is 'None'; expected the name of a served model"),
        ("- {model: chest, mtach: {Modality: CR}}", "rule 1: Unknown key 'mtach': did you mean match?"),
        (
            "- {model: chest, Modality: CR}",
            "rule 1: Unknown key 'Modality': choose one of: explain, match, model, needs, quiet, views, whole_study.;"
            " patterns of DICOM elements belong below match",
        ),
        ("- {model: chest, match: {Modalty: CR}}", "match has 'Modalty'; expected a keyword of the DICOM standard"),
        ("- {model: chest, match: {PixelData: a}}", "match has PixelData, which has no text to match"),
        (
            "- {model: chest, match: {Modality: NO}}",
            "rule 1: match.Modality is 'False'; expected a pattern such as CHEST*",
        ),
        ("- {model: chest, match: {Modality: []}}", "rule 1: match.Modality is '[]'; expected a pattern"),
        ("- {model: chest, match: {Modality: CR}, explain: 1}", "rule 1: explain is '1'; expected true or false"),
        ("- {model: breast, match: {Modality: CR}, explain: true}", "explain is true, but breast makes no maps; serve"),
        ("- {model: chest", "cannot be read as YAML"),
        (
            "- {model: chest, match: {Modality: CR}, views: {L: {Laterality: L}}}",
            "views are for models of cases; chest",
        ),
        (
            "- {model: pair, match: {Modality: CR}, views: {M: {Laterality: L}}}",
            "Unknown view 'M': choose one of: L, R",
        ),
        (
            "- {model: pair, match: {Modality: CR}, views: {L: {Lateral: L}}}",
            "view L has 'Lateral'; expected a keyword",
        ),
        (
            "- {model: pair, match: {Modality: CR}, views: [L]}",
            "views is \"['L']\"; expected {L_CC: {ViewPosition: CC}}",
        ),
        (
            "- {model: chest, match: {Modality: CR}, whole_study: true}",
            "whole_study is for models of cases, and of volumes whose channels are series; chest takes single images",
        ),
        ("- {model: none, match: {Modality: CR}, whole_study: true}", "whole_study is true, but its model is none"),
        (f"- {{{PAIR}, whole_study: 1}}", "rule 1: whole_study is '1'; expected true or false"),
        (f"- {{{PAIR}, needs: M}}", "rule 1: needs: Unknown view 'M': choose one of: L, R"),
        ("- {model: pair, match: {Modality: MG}, needs: L}", "needs names views; add views, which say what each"),
        (f"- {{{PAIR}, quiet: 300}}", "quiet is for whole_study; for single series use the option --quiet"),
        (f"- {{{PAIR}, whole_study: true, quiet: 0}}", "quiet is '0'; expected seconds above 0, such as 300"),
    ],
)
def test_mistakes_get_one_line(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        rules(text, tmp_path)
    assert message in str(error.value)
    assert str(error.value).startswith("--route ")
    assert "\n" not in str(error.value)


def test_missing_file_gets_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^--route .*rules.yaml cannot be read: No such file"):
        read_routes(tmp_path / "rules.yaml", MODELS)


def test_logs_show_codes_only() -> None:
    with quiet():
        free_text = header(Modality="CR", BodyPartExamined="Doe, Jane", ViewPosition="PA")
    assert described(free_text) == "Modality CR, BodyPartExamined not a code, ViewPosition PA"
    assert described(header()) == "Modality absent, BodyPartExamined absent, ViewPosition absent"


def test_views_of_a_case(tmp_path: Path) -> None:
    text = "- {model: pair, match: {Modality: MG}, views: {L: {ImageLaterality: L}, R: {ImageLaterality: [R, B]}}}"
    routes = rules(text, tmp_path)
    (rule,) = routes.rules
    sides = [rule.view_of(header(Modality="MG", ImageLaterality=side)) for side in ("L", "R", "B", "U")]
    assert sides == ["L", "R", "R", None]
    assert "ImageLaterality" in routes.keywords


def test_rules_that_collect_a_study(tmp_path: Path) -> None:
    text = f"""
- {{model: none, match: {{Modality: MG, ImageType: DERIVED}}}}
- {{{PAIR}, whole_study: true, needs: all, quiet: 300}}
- {{model: brain, match: {{Modality: MR}}, whole_study: true}}
- {{model: chest, match: {{Modality: CR}}}}
"""
    routes = rules(text, tmp_path)
    _, pair, brain, _ = routes.rules
    assert (pair.needs, pair.quiet, brain.needs, brain.quiet) == (("L", "R"), 300.0, (), None)
    assert pair.absent(pair.needs, ["R", ""]) == ["L"]
    found = [routes.whole_study_for(header(Modality=modality)) for modality in ("MG", "MR", "CR", "CT")]
    assert found == [1, 2, None, None]
    assert routes.whole_study_for(header(Modality="MG", ImageType=["DERIVED"])) is None
    assert [routes.quiet_of(number) for number in (1, 2, 9)] == [300.0, None, None]
