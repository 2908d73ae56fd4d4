import math

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from softfree.evaluation.paired_tests import corrected_resampled_t, holm


def test_holm_agrees_with_p_adjust_of_r() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.02]) == [0.02]


def test_what_has_no_p_value_does_not_count() -> None:
    first, missing, last = holm([0.02, math.nan, 0.03])
    assert (first, last) == (0.04, 0.04)
    assert math.isnan(missing)


def test_the_corrected_t_test_is_the_usual_one_with_another_variance() -> None:
    differences = [0.02, 0.05, -0.01, 0.04, 0.03]
    test = corrected_resampled_t(differences, held_out=20, training=80)
    usual = ttest_1samp(differences, 0)
    assert test.mean == pytest.approx(0.026)
    assert test.ratio == 0.25
    error = np.std(differences, ddof=1) * math.sqrt(1 / 5 + 1 / 4)
    assert test.high - test.mean == pytest.approx(2.776445 * error)  # t of 4 degrees of freedom
    assert test.mean - test.low == pytest.approx(test.high - test.mean)
    t = usual.statistic * math.sqrt((1 / 5) / (1 / 5 + 1 / 4))
    assert t == pytest.approx(test.mean / error)
    assert usual.pvalue < test.p < 0.4
    assert corrected_resampled_t(differences, 1e-9, 1).p == pytest.approx(usual.pvalue, rel=1e-6)


@pytest.mark.parametrize("differences", [[0.1], [0.1, 0.1, 0.1]])
def test_without_a_spread_there_is_no_test(differences: list[float]) -> None:
    test = corrected_resampled_t(differences, 1, 4)
    assert test.mean == pytest.approx(0.1)
    assert math.isnan(test.p)
    assert math.isnan(test.low)
