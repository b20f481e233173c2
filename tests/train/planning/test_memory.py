import numpy as np
import pytest
import torch

from paligemma.train.planning import memory
from paligemma.train.planning.memory import Gauge

SIZE = 80_000_000


def test_the_most_held_inside_is_told():
    gauge = Gauge(torch.device("cpu"))
    if gauge.__enter__().peak() is None:
        pytest.skip("this system does not tell")
    with gauge:
        filled = np.ones(SIZE, dtype=np.uint8)
        del filled
        assert 0.9 * SIZE < gauge.peak() < 1.3 * SIZE
    with gauge:
        assert gauge.peak() < 0.5 * SIZE


def test_what_was_there_before_is_added():
    with Gauge(torch.device("cpu"), held=123) as gauge:
        peak = gauge.peak()
    assert peak is None or peak >= 123


def test_nothing_is_told_where_the_system_tells_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_RESET", tmp_path / "no" / "file")
    with Gauge(torch.device("cpu")) as gauge:
        assert gauge.peak() is None
