"""The guards of tests/conftest.py hold: no network, no unpickling, one thread, an empty model cache."""

import collections
import os
import pickle
import socket
from pathlib import Path

import pytest


def test_the_network_is_closed(forbidden):
    with pytest.raises(RuntimeError, match="without network"):
        socket.create_connection(("example.org", 80), timeout=1)
    with pytest.raises(RuntimeError, match="without network"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert len(forbidden) == 2
    forbidden.clear()


def test_loopback_is_open():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        assert client.getpeername() == server.getsockname()


def test_unpickling_a_name_is_refused(forbidden):
    data = pickle.dumps(collections.OrderedDict)
    with pytest.raises(RuntimeError, match="unpickled collections"):
        pickle.loads(data)
    forbidden.clear()


@pytest.mark.filterwarnings("ignore")  # torch's own, on loading its compiler
def test_nothing_compiled_is_read_back_by_pickle():
    """torch keeps what it compiles in a cache of pickles; a product alone needs no compiler of C++."""
    import torch

    for _ in range(2):
        torch._dynamo.reset()
        product = torch.compile(torch.mm, fullgraph=True)(torch.ones(3, 4), torch.ones(4, 5))
        assert torch.equal(product, torch.full((3, 5), 4.0))


def test_one_thread():
    import torch

    assert torch.get_num_threads() == 1


def test_the_model_cache_is_this_runs_own():
    from huggingface_hub import constants

    assert constants.HF_HUB_OFFLINE
    assert Path(constants.HF_HUB_CACHE).is_relative_to(os.environ["HF_HOME"])
