"""A run's folder after any stop: the newest whole set, the logs cut back to it, exports old or new but never half."""

import contextlib
import hashlib
import json
import os

import pytest
import torch
from tests.failing_disk import ALL, Failing, Killed, PowerLoss

from paligemma.errors import CheckpointError, ResourceError, UsageError
from paligemma.train.saving.sets import MANIFEST
from paligemma.train.saving.state import RunState

ENOSPC, EIO = 28, 5


def tensors(step):
    generator = torch.Generator().manual_seed(step)
    return {f"{kind}/w": torch.randn(40, generator=generator) for kind in ("weights", "optimizer")}


def state_of(out, **more):
    """An open run whose notes are kept in `.told`."""
    told = []
    state = RunState(out, note=told.append, **{"files": Failing(), **more})
    state.told = told
    return state


def train(out, steps=6, every=2, files=None, told=None):
    """The smallest run there is: logs grow at each step, weights are a function of the step, `best` is exported."""
    with RunState(out, files=files or Failing(), note=(told if told is not None else []).append) as state:
        found = state.load_last()
        done = 0 if found is None else found.step
        if found is not None:
            assert all(torch.equal(found.tensors[name], value) for name, value in tensors(done).items())
            assert found.facts == {"done": done}
        for step in range(done + 1, steps + 1):
            for name in ("metrics.jsonl", "timings.jsonl"):
                with open(out / name, "a") as file:
                    file.write(json.dumps({"step": step}) + "\n")
            if step % every == 0:
                state.export("best", lambda folder, step=step: export(folder, step))
                state.save(step, tensors(step), {"done": step})


def export(folder, step):
    folder.mkdir()
    (folder / "inner").mkdir()
    (folder / "model").write_text(f"{step}" * 100)
    (folder / "inner" / "config").write_text(f"{step}")


def sums(out):
    """sha256 of everything a run leaves."""
    names = sorted(path for path in out.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in names}


def names(out):
    return sorted(path.name for path in (out / "sets").iterdir())


@pytest.fixture(scope="module")
def truth(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    train(out)
    return sums(out)


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """How many calls of a whole run change the disk."""
    files = Failing(only=ALL)
    train(tmp_path_factory.mktemp("counted") / "run", files=files)
    return files.calls


def test_the_newest_set_comes_back_and_older_ones_go(tmp_path):
    train(tmp_path / "run")
    assert names(tmp_path / "run") == ["step-00000004", "step-00000006"]
    with state_of(tmp_path / "run") as state:
        assert state.begun
        found = state.load_last()
    assert (found.step, found.facts, state.told) == (6, {"done": 6}, [])
    assert (found.logs, found.folder.name) == ({"metrics.jsonl": 72, "timings.jsonl": 72}, "step-00000006")
    assert (tmp_path / "run/best/model").read_text() == "6" * 100


def test_before_the_first_set_there_is_nothing_and_logs_are_emptied(tmp_path):
    with state_of(tmp_path / "a/b/run") as state:
        assert not state.begun
        (tmp_path / "a/b/run/metrics.jsonl").write_text("half a run\n")
        assert state.begun
        assert state.load_last() is None
        assert (tmp_path / "a/b/run/metrics.jsonl").read_bytes() == b""


def test_a_step_that_is_saved_again_counts_and_nothing_is_written_over(tmp_path):
    with state_of(tmp_path / "run") as state:
        first = state.save(3, tensors(1), {"time": 1})
        second = state.save(3, tensors(2), {"time": 2})
        assert (first.name, second.name) == ("step-00000003", "step-00000003-2")
        assert state.load_last().facts == {"time": 2}
        state.save(12, tensors(2), {"time": 3})
        assert names(tmp_path / "run") == ["step-00000003-2", "step-00000012"]


def test_a_hundred_million_steps(tmp_path):
    with state_of(tmp_path / "run") as state:
        for step in (99_999_999, 100_000_000, 100_000_001):
            state.save(step, tensors(0), {})
        assert state.load_last().step == 100_000_001


# --- stops ---


def test_a_run_stopped_at_every_call_ends_with_the_same_files(tmp_path, truth, calls):
    assert calls > 90
    for at in range(1, calls + 1):
        out = tmp_path / str(at)
        with pytest.raises(Killed):
            train(out, files=Failing(at, only=ALL))
        train(out)
        assert sums(out) == truth, at


def test_a_run_stopped_again_while_it_resumes(tmp_path, truth, calls):
    for at in range(9, calls, 10):
        for again in range(1, 30, 4):
            out = tmp_path / f"{at}-{again}"
            for files in (Failing(at, only=ALL), Failing(again, only=ALL)):
                with contextlib.suppress(Killed):  # a run that had nearly ended needs fewer calls
                    train(out, files=files)
            train(out)
            assert sums(out) == truth, (at, again)


def test_losing_power_at_every_call(tmp_path, truth, calls):
    for at in range(1, calls + 1):
        for seed in range(2):
            out = tmp_path / f"{at}-{seed}"
            with pytest.raises(Killed):
                train(out, files=PowerLoss(at, seed, only=ALL))
            told = []
            train(out, told=told)
            assert told == [], "no set that was reached was damaged"
            assert sums(out) == truth, (at, seed)


def test_a_disk_that_forgets_what_it_said_it_had_written_is_noticed(tmp_path, truth, calls):
    noticed = 0
    for at in range(1, calls + 1):
        with pytest.raises(Killed):
            train(tmp_path / str(at), files=PowerLoss(at, 1, lazy=("weights.safetensors",), only=ALL))
        try:
            train(tmp_path / str(at))
        except CheckpointError:
            noticed += 1  # every set was hit
        else:
            assert sums(tmp_path / str(at)) == truth
    assert noticed > calls // 3


@pytest.mark.parametrize("error", [ENOSPC, EIO])
def test_a_disk_that_fails_once_at_any_call_costs_nothing(tmp_path, truth, calls, error):
    for at in range(1, calls + 1):
        out, told = tmp_path / str(at), []
        try:
            train(out, files=Failing(at, error, only=ALL, times=1), told=told)
        except ResourceError:  # while the folder was opened, which is not tried again
            assert told == []
        else:
            assert told, "a failure is told"
            kept = {name: total for name, total in sums(out).items() if "old" not in name and "00002" not in name}
            assert kept == truth, at  # but for an older set that could not be removed
        train(out)
        assert sums(out) == truth, at


@pytest.mark.parametrize("error", [ENOSPC, EIO])
def test_a_disk_that_stays_broken_ends_the_run_and_keeps_what_was_safe(tmp_path, truth, calls, error):
    for at in range(1, calls + 1):
        out, told = tmp_path / str(at), []
        ended = None
        try:
            train(out, files=Failing(at, error, only=ALL), told=told)
        except ResourceError as caught:
            ended = caught
        if ended is None:
            assert told, "only the removal of old sets may fail without an end"
            continue
        sentence = str(ended)
        assert ended.exit_status == 6
        assert ("free some space" if error == ENOSPC else "mend the disk") in sentence
        if "is safe" in sentence:
            safe = int(sentence.split("; step ")[1].split()[0])
            with state_of(out) as state:
                assert state.load_last().step >= safe
        train(out)
        assert sums(out) == truth, at


def test_what_was_begun_is_removed_when_the_disk_is_full(tmp_path):
    with state_of(tmp_path / "run") as state:
        state.save(1, tensors(1), {})
        state.files = Failing(3, ENOSPC, only=("write",), times=2)  # both times a file of the set
        with pytest.raises(ResourceError, match=r"No space left on device\); step 1 is safe: free some space and run"):
            state.save(2, {"weights/w": torch.zeros(3), "optimizer/w": torch.zeros(3)}, {})
        assert names(tmp_path / "run") == ["step-00000001"]
        assert "step 2 could not be saved (No space left on device); trying once more" in state.told
        state.save(2, tensors(2), {})


def test_a_disk_that_gives_other_bytes_back_is_no_place_for_a_set(tmp_path):
    class Lying(Failing):
        def replace(self, source, target):
            with open(source / "weights.safetensors", "r+b") as file:
                file.seek(-1, os.SEEK_END)
                file.write(b"\x55")
            super().replace(source, target)

    with state_of(tmp_path / "run") as state:
        state.save(1, tensors(1), {})
        state.files = Lying()
        with pytest.raises(ResourceError, match=r"weights.safetensors was changed.*step 1 is safe"):
            state.save(2, tensors(2), {})
        assert names(tmp_path / "run") == ["step-00000001"]
        assert state.load_last().step == 1


# --- damage ---


def damaged(out, change):
    """Runs, damages the newest set, and says what a resumed run was told and where it began."""
    train(out)
    change(out / "sets/step-00000006")
    with state_of(out) as state:
        found = state.load_last()
    return found.step, state.told


def cut(path):
    os.truncate(path, 100)


def empty(path):
    os.truncate(path, 0)


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("name", [MANIFEST, "weights.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize(
    "how", [flip, os.unlink, lambda path: os.truncate(path, 100), lambda path: os.truncate(path, 0)]
)
def test_a_damaged_set_is_moved_aside_and_the_one_before_is_taken(tmp_path, truth, name, how):
    out = tmp_path / "run"
    step, told = damaged(out, lambda folder: how(folder / name))
    assert step == 4
    assert len(told) == 1
    assert told[0].startswith(f"DAMAGED SET step-00000006: {name} ")
    assert told[0].endswith("moved aside, going on from step 4 instead")
    assert (out / "metrics.jsonl").read_bytes().count(b"\n") == 4
    assert names(out) == ["damaged-step-00000006", "step-00000004"]
    train(out)
    assert sums(out) == truth, "done again, and the damaged set is gone"


def test_no_set_is_left(tmp_path):
    train(tmp_path / "run")
    for folder in (tmp_path / "run/sets").iterdir():
        (folder / MANIFEST).unlink()
    with (
        state_of(tmp_path / "run") as state,
        pytest.raises(CheckpointError, match=r"none of the 2 sets in .*another --"),
    ):
        state.load_last()
    assert names(tmp_path / "run") == ["step-00000004", "step-00000006"], "nothing was touched"


def test_lost_lines_of_a_log_are_told(tmp_path):
    train(tmp_path / "run")
    (tmp_path / "run/timings.jsonl").write_text("")
    with state_of(tmp_path / "run") as state:
        state.load_last()
    assert state.told == [f"{tmp_path / 'run/timings.jsonl'} has 0 bytes and had 72 at this set: lines of it are lost"]


# --- exports ---


def test_an_export_replaces_the_whole_folder(tmp_path):
    def write(folder):
        folder.mkdir()
        (folder / "other").write_text("new")

    with state_of(tmp_path / "run") as state:
        state.export("best", lambda folder: export(folder, 1))
        assert state.export("best", write) == tmp_path / "run/best"
    assert [path.name for path in (tmp_path / "run/best").iterdir()] == ["other"]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best", "run.lock", "sets"]


def test_an_error_of_the_writer_leaves_the_old_export(tmp_path):
    def write(folder):
        folder.mkdir()
        raise ZeroDivisionError

    with state_of(tmp_path / "run") as state:
        state.export("best", lambda folder: export(folder, 1))
        with pytest.raises(ZeroDivisionError):
            state.export("best", write)
    assert (tmp_path / "run/best/model").read_text() == "1" * 100
    with state_of(tmp_path / "run"):
        assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["best", "run.lock", "sets"]


# --- who may write, and with what ---


def test_one_run_at_a_time(tmp_path):
    with state_of(tmp_path / "run"):
        with pytest.raises(UsageError) as caught, state_of(tmp_path / "run"):
            pass
        assert f"another training run (process {os.getpid()}) is writing to {tmp_path / 'run'}" in str(caught.value)
    with state_of(tmp_path / "run"):
        pass  # free again


def test_a_file_in_the_place_of_the_folder_and_too_few_sets(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file; give a folder"), state_of(tmp_path / "run"):
        pass
    with pytest.raises(UsageError, match="keep=1 leaves no set to fall back on; give 2 or more"):
        RunState(tmp_path / "other", 1)


def test_another_number_of_processes_is_told(tmp_path):
    train(tmp_path / "run")
    with state_of(tmp_path / "run", world=2) as state:
        assert state.load_last().step == 6
    assert state.told == ["processes was 1 and is 2: the same bits as in a run without a stop are not promised"]
