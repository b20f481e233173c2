"""What a folder vouches for is there; what is torn, damaged or foreign is cut off, done again or refused."""

import os

import pytest
from tests.failing_disk import Failing
from tests.jobs.helpers import folder_of_pictures, run, sums

from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.jobs.folder import Folder


@pytest.fixture
def begun(tmp_path):
    """A folder with a job of ten inputs, two of them committed."""
    with Folder(tmp_path / "run", Failing()) as folder:
        count, digest = folder.keep_inputs(b"%d\n" % i for i in range(10))
        folder.begin({"inputs": {"count": count, "sha256": digest}})
        folder.resume(10, 4)
        folder.commit(inputs=1, failed=0, results=b"one\n", errors=b"", batch_size=4)
        folder.commit(inputs=1, failed=1, results=b"", errors=b"two\n", batch_size=2)
    return tmp_path / "run"


def state(path):
    with Folder(path, Failing()) as folder:
        told = folder.resume(10, 4)
        return folder.state, told


def test_commits_are_found_again(begun):
    found, told = state(begun)
    assert (found.inputs, found.failed, found.results, found.errors, found.batch_size) == (2, 1, 4, 4, 2)
    assert told == []


@pytest.mark.parametrize("tail", [b"x", b"00000000 {}\n", b"\n", b"\0" * 50, b"\xff\xfe"])
def test_a_damaged_end_of_the_log_is_cut_off(begun, tail):
    whole = (begun / "job.commits").read_bytes()
    with open(begun / "job.commits", "ab") as file:
        file.write(tail)
    assert state(begun)[0].inputs == 2
    assert (begun / "job.commits").read_bytes() == whole


def test_any_flipped_bit_of_the_log_is_noticed(begun):
    whole = (begun / "job.commits").read_bytes()
    first = whole.index(b"\n") + 1
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        (begun / "job.commits").write_bytes(damaged)
        (begun / "results.jsonl").write_bytes(b"one\n")
        (begun / "errors.jsonl").write_bytes(b"two\n")
        found, _ = state(begun)
        assert found.inputs == (0 if place < first else 1), place


def test_what_was_not_committed_is_cut_off(begun):
    for name in ("results.jsonl", "errors.jsonl"):
        with open(begun / name, "ab") as file:
            file.write(b'{"half')
    assert state(begun)[0].inputs == 2
    assert ((begun / "results.jsonl").read_bytes(), (begun / "errors.jsonl").read_bytes()) == (b"one\n", b"two\n")


@pytest.mark.parametrize(("name", "left"), [("results.jsonl", 0), ("errors.jsonl", 1)])
def test_changed_results_are_done_again_and_said_so(begun, name, left):
    (begun / name).write_bytes(b"oth\n")
    found, told = state(begun)
    assert found.inputs == left
    assert len(told) == 1
    assert f"{name} was changed behind record {left}" in told[0]


def test_a_missing_file_of_results_is_made_again(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    run(photos, tmp_path / "run")
    truth = sums(tmp_path / "run")
    (tmp_path / "run/results.jsonl").unlink()
    run(photos, tmp_path / "run", resume=True)
    assert sums(tmp_path / "run") == truth


def test_two_jobs_at_once(tmp_path):
    with Folder(tmp_path / "run"), pytest.raises(UsageError) as caught, Folder(tmp_path / "run"):
        pass
    assert f"another job (process {os.getpid()}) is writing to {tmp_path / 'run'}; wait for it" in str(caught.value)
    with Folder(tmp_path / "run"):
        pass  # free again


def test_folders_above_are_made(tmp_path):
    with Folder(tmp_path / "a/b/c"):
        pass
    assert (tmp_path / "a/b/c/job.lock").exists()


def test_a_file_in_the_place_of_the_folder(tmp_path):
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(UsageError, match="is a file; give a folder"), Folder(tmp_path / "run"):
        pass


def test_foreign_results_are_never_overwritten(tmp_path):
    photos = folder_of_pictures(tmp_path / "photos")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/results.jsonl").write_bytes(b"mine")
    with pytest.raises(UsageError, match=r"holds results.jsonl but no job.json; move it away"):
        run(photos, tmp_path / "run", resume=True)
    assert (tmp_path / "run/results.jsonl").read_bytes() == b"mine"


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff"])
def test_a_damaged_description_is_refused(begun, content):
    (begun / "job.json").write_bytes(content)
    with Folder(begun) as folder, pytest.raises(InputError, match=r"job.json is damaged; start the job again"):
        folder.read_job()


def test_a_folder_that_cannot_be_made(tmp_path):
    class Refusing(Failing):
        def make_directory(self, path):
            raise PermissionError(13, "Permission denied")

    with (
        pytest.raises(ResourceError, match=r"Permission denied.*nothing was begun"),
        Folder(tmp_path / "x", Refusing()),
    ):
        pass


def test_inputs_are_compared_line_by_line(begun):
    with Folder(begun, Failing()) as folder:
        sha256 = folder.read_job()["inputs"]["sha256"]
        same = [b"%d\n" % i for i in range(10)]
        assert folder.check_inputs(lambda: same, sha256) is None
        assert folder.check_inputs(lambda: [*same[:4], b"x\n", *same[5:]], sha256) == (b"4\n", b"x\n")
        assert folder.check_inputs(lambda: same[:-1], sha256) == (b"9\n", b"")
        assert folder.check_inputs(lambda: [*same, b"10\n"], sha256) == (b"", b"10\n")
        (begun / "job.inputs").unlink()
        assert folder.check_inputs(lambda: same, sha256) is None
    assert (begun / "job.inputs").read_bytes() == b"".join(same)
