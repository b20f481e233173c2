import pytest
import torch

from paligemma.engine.threads import WORTH_SHARING, threads_for


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(("work", "device", "want"), [(0, "cpu", 1), (WORTH_SHARING, "cpu", 3), (0, "meta", 3)])
def test_little_work_is_done_by_one_thread(work, device, want):
    with threads_for(work, torch.device(device)):
        assert torch.get_num_threads() == want
    assert torch.get_num_threads() == 3


def test_the_callers_threads_come_back_after_an_error():
    with pytest.raises(ZeroDivisionError), threads_for(1, torch.device("cpu")):
        raise ZeroDivisionError
    assert torch.get_num_threads() == 3


def test_who_asked_for_one_thread_keeps_it():
    torch.set_num_threads(1)
    with threads_for(2 * WORTH_SHARING, torch.device("cpu")):
        assert torch.get_num_threads() == 1
