from __future__ import annotations

import pytest

from softfree import attention
from softfree.planning import attentions
from softfree.planning.work import Work
from softfree_runtime.core.errors import UserError


def test_an_attention_without_a_formula_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(attentions.ATTENTIONS, "sima")
    with pytest.raises(UserError, match="'sima', which has no formula"):
        Work(model="sima_vit_tiny_patch16")


def test_formulas_belong_to_methods_that_exist() -> None:
    assert set(attentions.ATTENTIONS) <= set(attention.ATTENTIONS)
