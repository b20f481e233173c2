"""What holds for every test: one thread, no colour, an empty model cache, no network and no unpickling.

The last two are watched by an audit hook, which nothing in this process can evade or swallow: a violation raises where
it happens and fails the test in which it happened.
"""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator

# Set before torch and huggingface_hub are imported, which read them once; processes that tests start inherit them.
_CACHE = tempfile.mkdtemp(prefix="paligemma-tests-")
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)
os.environ.update(
    HF_HOME=_CACHE,
    HF_HUB_OFFLINE="1",
    HF_HUB_DISABLE_TELEMETRY="1",
    NO_COLOR="1",
    OMP_NUM_THREADS="1",  # torch.get_num_threads() == 1: tiny sizes, and sums in one order
    TOKENIZERS_PARALLELISM="false",
    TORCHINDUCTOR_CACHE_DIR=os.path.join(_CACHE, "compiled"),
    TORCHINDUCTOR_FORCE_DISABLE_CACHES="1",  # torch reads what it compiled once back by pickle
)
for _name in ("HF_TOKEN", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_CACHE", "FORCE_COLOR"):
    os.environ.pop(_name, None)

import hypothesis  # noqa: E402
import pytest  # noqa: E402

# No deadlines, the machine may be busy; in CI the same examples every time, elsewhere new ones.
hypothesis.settings.register_profile("house", deadline=None, derandomize="CI" in os.environ)
hypothesis.settings.load_profile("house")

_LOOPBACK = ("localhost", "127.", "::1", "0.0.0.0")
_RESOLVE = {"socket.getaddrinfo": 0, "socket.gethostbyname": 0, "socket.connect": 1, "socket.sendto": 1}
_violations: list[str] = []
_network_allowed = False


def _host(address: object) -> str | None:
    """The host of an address; None for a local (UNIX) socket or "any"."""
    host = address[0] if isinstance(address, tuple) and address else address
    host = host.decode() if isinstance(host, bytes) else host
    return host if isinstance(host, str) and host and "/" not in host else None


def _watch(event: str, args: tuple[object, ...]) -> None:
    if event == "pickle.find_class":
        _refuse(f"unpickled {args[0]}.{args[1]}: no file this project reads may be a pickle")
    elif event in _RESOLVE and not _network_allowed:
        host = _host(args[_RESOLVE[event]])
        if host is not None and not host.startswith(_LOOPBACK):
            _refuse(f"reached for {host}: tests run without network (mark the test `network` if it needs one)")


def _refuse(what: str) -> None:
    _violations.append(what)
    raise RuntimeError(what)


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def forbidden(request: pytest.FixtureRequest) -> Iterator[list[str]]:
    """The violations of this test so far: any left at its end fail it, swallowed or not."""
    global _network_allowed
    _violations.clear()
    _network_allowed = request.node.get_closest_marker("network") is not None
    yield _violations
    _network_allowed = False
    assert not _violations, _violations
