"""Recording on an accelerator; elsewhere test_ragged.py has a recorder of its own."""

import pytest
import torch

from paligemma.engine.graphs import CudaGraphs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine"),
]


@pytest.mark.parametrize("compiled", [False, True])
def test_a_recorded_function_reads_what_is_there_when_it_is_replayed(compiled):
    graphs = CudaGraphs(torch.device("cuda"), compiled=compiled)
    given, kept = torch.ones(3, device="cuda"), torch.zeros(3, device="cuda")

    def run():
        kept.add_(given)
        return kept * 2

    replay = graphs.record(run)
    kept.zero_()
    first = replay()
    assert first.tolist() == [2, 2, 2]
    given.fill_(10)
    assert replay() is first
    assert first.tolist() == [22, 22, 22]


def test_two_recordings_take_turns():
    graphs = CudaGraphs(torch.device("cuda"))
    x = torch.arange(4.0, device="cuda")
    one, two = graphs.record(lambda: x.exp().cumsum(0)), graphs.record(lambda: (x * 3).sin().flip(0))
    for _ in range(3):
        x += 1
        a, b = one(), two()
        torch.testing.assert_close(a, x.exp().cumsum(0))
        torch.testing.assert_close(b, (x * 3).sin().flip(0))
        x.sub_(0.5)
