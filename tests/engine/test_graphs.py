"""Recording on an accelerator; test_ragged.py has a recorder for everywhere."""

import pytest
import torch

from paligemma.engine.graphs import CudaGraphs


class NoGraphs(CudaGraphs):
    """What cannot be recorded: needs no accelerator."""

    def __init__(self, error):
        self.error = error

    def captured(self, run):
        raise self.error


def test_what_cannot_be_recorded_runs_as_it_is_and_says_so():
    def run():
        return torch.ones(2)

    with pytest.warns(RuntimeWarning, match="without recorded passes, slower: operation not permitted"):
        assert NoGraphs(RuntimeError("operation not permitted\nmore")).record(run) is run
    with pytest.raises(torch.OutOfMemoryError):
        NoGraphs(torch.OutOfMemoryError("no memory")).record(run)


def on_an_accelerator(test):
    absent = pytest.mark.skipif(not torch.cuda.is_available(), reason="no accelerator on this machine")
    return pytest.mark.gpu(absent(test))


@on_an_accelerator
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


@on_an_accelerator
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
