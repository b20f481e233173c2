import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from paligemma.errors import InputError, UsageError
from paligemma.metrics import Calibration, expected_calibration_error, fit, reliability
from paligemma.metrics.calibration import log_odds


def overconfident(temperature, shift, count=20_000, seed=0):
    """Scores whose true chance of being right is `Calibration(temperature, shift)` of them."""
    rng = np.random.default_rng(seed)
    scores = rng.uniform(0.05, 0.999, count)
    chance = Calibration(temperature=temperature, shift=shift).apply(scores)
    return scores, rng.uniform(size=count) < chance


@pytest.mark.parametrize(("temperature", "shift"), [(1.0, 0.0), (2.5, -0.7), (0.6, 1.0)])
def test_the_distortion_that_was_put_in_is_found(temperature, shift):
    fitted = fit(*overconfident(temperature, shift))
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)
    assert fitted.shift == pytest.approx(shift, abs=0.06)
    assert fitted.examples == 20_000


def test_the_error_falls_to_noise_on_other_examples():
    fitted = fit(*overconfident(2.5, -0.7))
    scores, correct = overconfident(2.5, -0.7, seed=1)
    before = expected_calibration_error(scores, correct)
    after = expected_calibration_error(fitted.apply(scores), correct)
    assert before > 0.1
    assert after < 0.015


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.floats(0.2, 5), st.floats(-3, 3))
def test_order_is_kept_and_scores_stay_shares(scores, temperature, shift):
    mended = Calibration(temperature=temperature, shift=shift).apply(scores)
    assert ((mended >= 0) & (mended <= 1)).all()
    assert (np.diff(mended[np.argsort(scores, kind="stable")]) >= -1e-12).all()


def test_the_default_changes_nothing():
    assert Calibration().apply([0.0, 0.3, 1.0]).tolist() == [0.0, 0.3, 1.0]
    assert Calibration()(0.3) == 0.3


def test_certain_scores_stay_finite():
    assert np.isfinite(log_odds([0.0, 1.0])).all()
    fitted = fit([0.0, 1.0] * 20, [False, True] * 20)
    assert 0 < fitted(0.0) < 0.5 < fitted(1.0) < 1


def test_scores_that_rank_backwards_are_levelled():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.1, 0.9, 400)
    fitted = fit(scores, rng.uniform(size=400) > scores)
    assert fitted.apply([0.1, 0.9]) == pytest.approx([0.5, 0.5], abs=0.1)


@pytest.mark.parametrize("correct", [[True] * 30, [False] * 30, [True, False]])
def test_too_little_to_learn_from(correct):
    with pytest.raises(InputError, match="expected at least 20 with both right and wrong"):
        fit([0.5] * len(correct), correct)


def test_the_curve_by_hand():
    curve = reliability([0.12, 0.18, 0.95, 1.0], [False, True, True, True])
    assert [(b.low, b.boxes, round(b.score, 3), b.right) for b in curve] == [(0.1, 2, 0.15, 0.5), (0.9, 2, 0.975, 1.0)]
    assert expected_calibration_error([0.12, 0.18, 0.95, 1.0], [False, True, True, True]) == pytest.approx(0.1875)
    assert np.isnan(expected_calibration_error([], []))


def test_there_and_back_as_plain_data():
    made = Calibration(temperature=1.5, shift=-0.2, examples=40)
    assert Calibration.from_dict(made.to_dict()) == made
    with pytest.raises(UsageError, match=r"unknown key 'temprature'.*temperature"):
        Calibration.from_dict({"temprature": 1.5})
    with pytest.raises(UsageError, match="expected a number"):
        Calibration.from_dict({"shift": "0"})
    with pytest.raises(UsageError, match="temperature above 0"):
        Calibration(temperature=0)
