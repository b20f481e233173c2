"""A job is finished once and completely, wherever it was stopped on its way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from tests.failing_disk import Failing, Killed, PowerLoss
from tests.jobs.helpers import (
    EIO,
    ENOSPC,
    INPUTS,
    Fake,
    count_calls,
    folder_of_pictures,
    run,
    settings,
    sums,
)

from paligemma.disk import Files
from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.jobs.run import run_job


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return folder_of_pictures(tmp_path_factory.mktemp("job") / "photos")


@pytest.fixture(scope="module")
def truth(photos, tmp_path_factory):
    """Checksums of an uninterrupted job."""
    out = tmp_path_factory.mktemp("whole") / "run"
    run(photos, out)
    return sums(out)


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_results_are_in_input_order_and_every_input_is_in_one_of_the_files(photos, tmp_path):
    summary = run(photos, tmp_path / "run")
    results, errors = lines(tmp_path / "run/results.jsonl"), lines(tmp_path / "run/errors.jsonl")
    assert [row["index"] for row in errors] == [3, 9]
    assert [row["index"] for row in results] == [i for i in range(INPUTS) if i not in (3, 9)]
    assert results[0]["image"] == f"{photos}/000.png"
    assert results[0]["answer"]["text"] == "{} 0 7"
    assert results[0]["answer"]["images"] == [{"width": 4, "height": 3}]
    assert "timing" not in results[0]["answer"]
    assert errors[0]["error"]["code"] == "bad_input"
    assert (summary.inputs, summary.answered, summary.failed, summary.resumed_at) == (INPUTS, INPUTS - 2, 2, 0)


def test_a_kill_at_any_call_loses_nothing(photos, truth, tmp_path):
    calls = count_calls(photos, tmp_path / "count")
    assert calls > 30
    for at in range(1, calls + 1):
        out = tmp_path / f"killed-{at}"
        with pytest.raises(Killed):
            run(photos, out, files=Failing(at))
        run(photos, out, resume=True)
        assert sums(out) == truth, at


def test_a_second_kill_while_resuming_loses_nothing(photos, truth, tmp_path):
    calls = count_calls(photos, tmp_path / "count")
    for first in range(calls // 2, calls, 5):
        for second in range(1, 12):
            out = tmp_path / f"killed-{first}-{second}"
            with pytest.raises(Killed):
                run(photos, out, files=Failing(first))
            try:
                run(photos, out, files=Failing(second), resume=True)
            except Killed:
                run(photos, out, resume=True)
            assert sums(out) == truth, (first, second)


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_at_any_call_loses_nothing(photos, truth, tmp_path, seed):
    calls = count_calls(photos, tmp_path / "count")
    for at in range(1, calls + 1):
        out = tmp_path / f"cut-{at}"
        with pytest.raises(Killed):
            run(photos, out, files=PowerLoss(at, seed))
        run(photos, out, resume=True)
        assert sums(out) == truth, at


def test_the_power_cut_finds_a_sync_that_is_missing(photos, truth, tmp_path):
    """Without syncs the log may promise more than there is; checksums then keep the results right, but work is lost."""
    redone = 0
    for at in range(20, 45):
        out = tmp_path / f"lazy-{at}"
        with pytest.raises(Killed):
            run(photos, out, files=PowerLoss(at, seed=1, lazy=("results.jsonl",)))
        told = []
        run(photos, out, resume=True, note=told.append)
        redone += len(told)
        assert sums(out) == truth
    assert redone > 0


@pytest.mark.parametrize(("error", "only"), [(ENOSPC, ("write",)), (EIO, ("sync",)), (ENOSPC, ("sync", "truncate"))])
def test_a_full_or_failing_disk_says_how_many_are_safe(photos, truth, tmp_path, error, only):
    for at in range(1, count_calls(photos, tmp_path / "count", only=only) + 1):
        out = tmp_path / f"full-{at}"
        with pytest.raises(ResourceError) as caught:
            run(photos, out, files=Failing(at, error, only))
        sentence = str(caught.value)
        assert "--resume" in sentence
        written = sum(
            (out / name).read_bytes().count(b"\n")
            for name in ("results.jsonl", "errors.jsonl")
            if (out / name).exists()
        )
        if "nothing was begun" in sentence:
            assert not written
        else:
            safe = int(sentence.split("; ")[1].split(" of ")[0])
            assert f"{safe} of {INPUTS} inputs are safe" in sentence
            assert written == safe or "truncate" in only, "what is left holds whole, safe lines only"
        run(photos, out, resume=True)
        assert sums(out) == truth, at


def test_a_process_that_is_killed_for_real(photos, truth, tmp_path):
    program = f"""
import os, signal, sys
from paligemma.disk import Files
from tests.jobs.helpers import run
class Deadly(Files):
    count = 0
    def write(self, descriptor, data):
        Deadly.count += 1
        if Deadly.count == 8:
            super().write(descriptor, data[:10])
            os.kill(os.getpid(), signal.SIGKILL)
        return super().write(descriptor, data)
run({str(photos)!r}, __import__("pathlib").Path({str(tmp_path / "run")!r}), files=Deadly())
"""
    root = Path(__file__).parents[2]
    ended = subprocess.run([sys.executable, "-c", program], cwd=root, timeout=100, check=False)
    assert ended.returncode == -9
    assert run(photos, tmp_path / "run", resume=True).resumed_at > 0
    assert sums(tmp_path / "run") == truth


def test_composition_of_batches_does_not_depend_on_where_a_job_goes_on(photos, tmp_path):
    whole, rest, files = Fake(), Fake(), Failing()
    run(photos, tmp_path / "whole", whole, files=files, batch_size=2)
    with pytest.raises(Killed):
        run(photos, tmp_path / "run", files=Failing(files.calls - 1), batch_size=2)
    run(photos, tmp_path / "run", rest, resume=True, batch_size=2)
    assert 0 < len(rest.batches) < len(whole.batches)
    assert rest.batches == whole.batches[-len(rest.batches) :]


def test_memory_that_runs_out_halves_the_batch_for_the_rest_of_the_job(photos, tmp_path):
    fake = Fake(too_many=2)
    summary = run(photos, tmp_path / "run", fake, batch_size=8)
    assert summary.batch_size == 2
    commits = [line.split(" ", 1)[1] for line in (tmp_path / "run/job.commits").read_text().splitlines()]
    assert [json.loads(line)["batch_size"] for line in commits] == [2]
    assert summary.failed == 2


def test_a_finished_job_is_not_done_again(photos, truth, tmp_path):
    run(photos, tmp_path / "run")
    fake = Fake()
    summary = run(photos, tmp_path / "run", fake, resume=True)
    assert fake.batches == []
    assert (summary.resumed_at, summary.answered) == (INPUTS, INPUTS - 2)
    assert sums(tmp_path / "run") == truth


def test_without_resume_a_job_that_exists_is_left_alone(photos, tmp_path):
    run(photos, tmp_path / "run")
    with pytest.raises(UsageError, match="already holds a job; --resume goes on with it"):
        run(photos, tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"task": "ocr"}, "task 'caption' and is to go on with 'ocr'"),
        ({"words": {"language": "de"}}, "language unset and is to go on with 'de'"),
        ({"options": {"seed": 8}}, "seed 7 and is to go on with 8"),
        ({"batch_size": 3}, "batch_size 1 and is to go on with 3"),
        ({"model": {"model": "other"}}, "model unset and is to go on with 'other'"),
    ],
)
def test_other_settings_are_refused(photos, tmp_path, change, named):
    run(photos, tmp_path / "run")
    with pytest.raises(UsageError, match=r"the job in .*run began with") as caught:
        run(photos, tmp_path / "run", resume=True, **change)
    assert named in str(caught.value)


def test_another_model_is_refused(photos, tmp_path):
    class Other(Fake):
        def describe(self):
            return {"model": {"name": "fake", "sha256": "1"}, "environment": {}}

    run(photos, tmp_path / "run")
    with pytest.raises(UsageError, match="the model 'fake' has other weights or files"):
        run(photos, tmp_path / "run", Other(), resume=True)


def test_other_inputs_are_refused(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    run(photos, tmp_path / "run")
    os.utime(photos / "005.png", ns=(1, 1))
    with pytest.raises(UsageError, match=r"the picture .*005.png has changed since the job in .* began"):
        run(photos, tmp_path / "run", resume=True)
    (photos / "999.png").write_bytes(b"")
    (photos / "005.png").unlink()
    with pytest.raises(UsageError, match=r"input 5 was '.*005.png' and is '.*006.png' since the job in"):
        run(photos, tmp_path / "run", resume=True)


def test_added_and_removed_inputs_are_named(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    run(photos, tmp_path / "run")
    Image.new("RGB", (2, 2)).save(photos / "x.png")
    with pytest.raises(UsageError, match=r"'.*x.png' was added since"):
        run(photos, tmp_path / "run", resume=True)
    (photos / "x.png").unlink()
    (photos / "013.png").unlink()
    with pytest.raises(UsageError, match=r"'.*013.png' was removed since"):
        run(photos, tmp_path / "run", resume=True)


def test_a_damaged_list_of_inputs_is_made_again(photos, truth, tmp_path):
    with pytest.raises(Killed):
        run(photos, tmp_path / "run", files=Failing(28))
    (tmp_path / "run/job.inputs").write_bytes(b"garbage\n")
    run(photos, tmp_path / "run", resume=True)
    assert sums(tmp_path / "run") == truth


def test_what_differs_in_the_environment_is_told(photos, tmp_path):
    class Slower(Fake):
        def match(self, environment):
            assert environment == {"threads": 1}
            return ["processor was A and is B"]

    run(photos, tmp_path / "run")
    told = []
    run(photos, tmp_path / "run", Slower(), resume=True, note=told.append)
    assert told == ["processor was A and is B"]


def test_a_seed_is_drawn_once_and_kept(photos, tmp_path):
    run(photos, tmp_path / "run", options={})
    seed = json.loads((tmp_path / "run/job.json").read_text())["options"]["seed"]
    fake = Fake()
    run(photos, tmp_path / "run", fake, resume=True, options={})
    assert json.loads((tmp_path / "run/job.json").read_text())["options"]["seed"] == seed
    assert lines(tmp_path / "run/results.jsonl")[1]["answer"]["text"] == f"{{}} 1 {seed + 1}"


def test_no_input_at_all(tmp_path):
    (tmp_path / "photos").mkdir()
    with pytest.raises(InputError, match="holds no picture"):
        run(tmp_path / "photos", tmp_path / "run")
    assert not (tmp_path / "run/job.json").exists()


def test_progress_counts_up_to_the_total(photos, tmp_path):
    from paligemma.jobs import Here

    seen = []
    run_job(settings(photos), tmp_path / "run", lambda: Here(Fake()), progress=seen.append)
    assert [(step.done, step.failed) for step in seen] == [(0, 0), (4, 1), (8, 1), (12, 2), (14, 2)]
    assert all(step.total == INPUTS and step.before == 0 for step in seen)
    assert seen[-1].per_second > 0


MEMORY = """
import resource, sys
from pathlib import Path
from tests.jobs.helpers import Fake, run
run(sys.argv[1], Path(sys.argv[2]), Fake(best=64), batch_size=64)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_number_of_inputs(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png")
    peak = {}
    for count in (500, 4_000):
        (tmp_path / f"{count}.jsonl").write_text('{"image": "a.png"}\n' * count)
        told = subprocess.run(
            [sys.executable, "-c", MEMORY, tmp_path / f"{count}.jsonl", tmp_path / f"run-{count}"],
            cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=200, check=True,
        ).stdout  # fmt: skip
        peak[count] = int(told) / 1024
    assert peak[4_000] < peak[500] + 4, f"MiB: {peak}"


def test_files_are_for_their_owner_only(photos, tmp_path):
    run(photos, tmp_path / "run", files=Files())
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "run").iterdir()} == {0o600}
