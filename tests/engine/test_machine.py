import pytest
import torch

from paligemma.engine.machine import FP8, TYPES, free_memory, matrix_rate, measured, read_rate, usable
from paligemma.linear.cuda import has_fp8

CPU, CARD = torch.device("cpu"), torch.device("cuda")


def test_rates_are_measured():
    assert 1e8 < read_rate(CPU, size=2**22, repetitions=2) < 1e13
    for dtype in TYPES.values():
        assert 1e7 < matrix_rate(CPU, dtype, side=64, repetitions=2) < 1e15


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available() or not has_fp8(CARD), reason="no card here multiplies fp8")
def test_fp8_is_the_faster_on_cards_that_have_it():
    assert matrix_rate(CARD, FP8) > 1.2 * matrix_rate(CARD, torch.bfloat16)


@pytest.mark.parametrize("types", [("fp32",), ("bf16", "int8")])
def test_only_what_is_asked_for_is_measured(monkeypatch, types):
    monkeypatch.setattr("paligemma.engine.machine.SIDE", {"cpu": 64})
    monkeypatch.setattr("paligemma.engine.machine.READ_BYTES", {"cpu": 2**20})
    found = measured(CPU, types, repetitions=1)
    assert tuple(found.matrix) == types
    assert found.read > 0


def test_larger_products_take_longer_but_not_at_a_lower_rate():
    small, large = (matrix_rate(CPU, torch.float32, side=side, repetitions=5) for side in (8, 256))
    assert large > 2 * small  # what a call costs is no part of the limit


def test_free_memory():
    free = free_memory(CPU)
    assert free is None or 2**20 < free < 2**50


def test_a_card_is_never_used_whole():
    assert 0.85 * 24 * 2**30 < usable(24 * 2**30) < 24 * 2**30
    assert usable(2**28) == 0
