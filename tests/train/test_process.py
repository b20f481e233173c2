import os
import signal
import threading

import pytest
import torch

from paligemma.train.process import Stopped, environment, peak_memory, repeatable, signals_heard

CPU = torch.device("cpu")


def test_settings_hold_inside_and_come_back():
    before = torch.get_num_threads()
    with repeatable(CPU, 2):
        assert torch.are_deterministic_algorithms_enabled()
        assert torch.get_num_threads() == 2
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == before


def test_signals_are_remembered_and_a_second_interrupt_acts_at_once():
    before = signal.getsignal(signal.SIGINT)  # ignored where the suite runs in the background of a shell
    with signals_heard() as came:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
        assert came == [signal.SIGTERM, signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_other_threads_leave_signals_alone():
    handlers = []

    def work():
        with signals_heard():
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]


def test_the_exit_status_says_which_signal_it_was():
    assert Stopped(signal.SIGTERM, 7).exit_status == 143
    assert str(Stopped(signal.SIGINT, 7)) == "interrupted after step 7, which is saved; resume to go on"


def test_what_bits_depend_on_and_memory():
    assert environment(CPU)["threads"] == str(torch.get_num_threads())
    assert environment(CPU)["torch"] == torch.__version__
    assert 20e6 < peak_memory(CPU) < 1e12
