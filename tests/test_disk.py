"""The system calls do what their names say; short writes are gone on with."""

import fcntl
import os
import subprocess
import sys

import pytest

from paligemma.disk import Files, lock, write_all
from paligemma.errors import UsageError


def test_a_file_is_made_written_cut_and_renamed(tmp_path):
    files = Files()
    files.make_directory(tmp_path / "new")
    descriptor = files.open(tmp_path / "new" / "a")
    write_all(files, descriptor, b"hello world")
    files.truncate(descriptor, 5)
    files.sync(descriptor)
    files.close(descriptor)
    files.replace(tmp_path / "new" / "a", tmp_path / "new" / "b")
    files.sync_directory(tmp_path / "new")
    assert [(path.name, path.read_bytes()) for path in (tmp_path / "new").iterdir()] == [("b", b"hello")]


def test_what_is_there_is_kept(tmp_path):
    (tmp_path / "a").write_bytes(b"old")
    files = Files()
    files.close(files.open(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"old"


@pytest.mark.parametrize("most", [1, 3, 100])
def test_short_writes_are_gone_on_with(tmp_path, most):
    class Short(Files):
        def write(self, descriptor, data):
            return os.write(descriptor, data[:most])

    files = Short()
    descriptor = files.open(tmp_path / "a")
    write_all(files, descriptor, b"0123456789")
    files.close(descriptor)
    assert (tmp_path / "a").read_bytes() == b"0123456789"


def test_files_and_empty_directories_are_removed(tmp_path):
    files = Files()
    files.make_directory(tmp_path / "a")
    files.close(files.open(tmp_path / "a" / "b"))
    with pytest.raises(OSError, match="not empty"):
        files.remove(tmp_path / "a")
    files.remove(tmp_path / "a" / "b")
    files.remove(tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_held_by_one_and_freed_by_closing(tmp_path):
    files = Files()
    first, second = (files.open(tmp_path / "lock") for _ in range(2))
    lock(files, first, what="run", where=tmp_path)
    with pytest.raises(UsageError, match=rf"another run \(process {os.getpid()}\) is writing to .*give another --out"):
        lock(files, second, what="run", where=tmp_path)
    files.close(first)
    lock(files, second, what="run", where=tmp_path)
    files.close(second)


def test_the_children_of_a_dead_process_are_waited_for(tmp_path):
    program = (
        "import os, sys, time; from pathlib import Path; from paligemma.disk import Files, lock\n"
        "files, path = Files(), Path(sys.argv[1])\n"
        "lock(files, files.open(path), what='job', where=path)\n"
        "if os.fork() == 0: os.close(1); time.sleep(0.7)\n"
        "os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "job.lock")], check=True)
    files = Files()
    descriptor = files.open(tmp_path / "job.lock")
    with pytest.raises(BlockingIOError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    lock(files, descriptor, what="job", where=tmp_path)
    assert (tmp_path / "job.lock").read_text() == f"{os.getpid()}\n"
    files.close(descriptor)
