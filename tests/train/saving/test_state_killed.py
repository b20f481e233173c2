"""Real runs that are killed for real: the folder ends with the same bytes as that of a run left alone."""

import hashlib
import os
import signal
import time

import pytest
from tests.failing_disk import ALL, Failing
from tests.train.tiny_run import run

STEPS = 6


class Deadly(Failing):
    """Ends the process at the `at`-th call that changes the disk, a write after half of its bytes."""

    def fail(self):
        os.kill(os.getpid(), signal.SIGKILL)


def train(out, files=None):
    run(out, files, steps=STEPS, save_every=1)


def forked(call):
    """The process id of a copy of this process that does `call` and ends."""
    child = os.fork()
    if child:
        return child
    try:
        call()
    finally:
        os._exit(0)


def sums(out):
    files = [path for path in out.rglob("*") if path.is_file() and path.name not in ("run.lock", "timings.jsonl")]
    found = {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}
    return {name: total for name, total in found.items() if "manifest" not in name}  # it has the length of timings


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    """Checksums of a run that is left alone, how many calls it makes, and how long it takes."""
    out, files = tmp_path_factory.mktemp("whole") / "run", Failing(only=ALL)
    train(out, files)  # the first one imports
    began = time.monotonic()
    train(out.with_name("again"))
    assert sums(out) == sums(out.with_name("again"))
    return sums(out), files.calls, time.monotonic() - began


def test_killed_five_times_at_calls_to_the_disk(tmp_path, truth):
    expected, calls, _ = truth
    for number in range(5):
        files = Deadly(calls // 6 + 3 * number, only=ALL)
        _, status = os.waitpid(forked(lambda files=files: train(tmp_path / "run", files)), 0)
        assert os.WIFSIGNALED(status)
    train(tmp_path / "run")
    assert sums(tmp_path / "run") == expected


def test_killed_at_moments_of_their_own(tmp_path, truth):
    expected, _, seconds = truth
    for number in range(3):
        child = forked(lambda: train(tmp_path / "run"))
        time.sleep(seconds * (number + 1) / 8)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    train(tmp_path / "run")
    assert sums(tmp_path / "run") == expected
