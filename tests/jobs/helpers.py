"""A model that answers with what it sees, folders of small pictures, and disks that fail where they are told to."""

import errno
import hashlib
import os
import random
from pathlib import Path

from PIL import Image

from paligemma.disk import Files
from paligemma.errors import InputError, ResourceError
from paligemma.jobs import Here, Settings, run_job
from paligemma.results import Answer

INPUTS = 14


class Fake:
    """A model whose answers depend on the picture, the words, the seed, and on who is in the batch (by `score`)."""

    def __init__(self, best=2, too_many=99, poison=None):
        self.best, self.too_many, self.poison = best, too_many, poison
        self.batches, self.options = [], {}

    def describe(self):
        return {"model": {"name": "fake", "sha256": "0"}, "environment": {"threads": 1}}

    def batch_size(self):
        return self.best

    def match(self, environment):
        return []

    def answerer(self, options):
        self.options = dict(options)
        return self

    def answer(self, batch, batch_size, on_error):
        if min(batch_size, len(batch)) > self.too_many:
            raise ResourceError("too many")
        self.batches.append([opened.item.index for opened in batch])
        found = []
        for opened in batch:
            red = opened.pictures[0].getpixel((0, 0))[0]
            if red == self.poison:
                raise RuntimeError("poisoned")
            if opened.item.words.get("question") == "too long?":
                if on_error == "raise":
                    raise InputError("too long")
                found.append(InputError("too long"))
                continue
            words = f"{opened.item.words} {red} {self.options.get('seed', 0) + opened.item.index}"
            found.append(
                Answer(
                    text=words, raw=words, task=opened.item.task, prompt="p", images=opened.pictures,
                    score=1 / (1 + sum(self.batches[-1])), timing={"generate": random.random()},
                )
            )  # fmt: skip
        return found


def folder_of_pictures(path, count=INPUTS, bad=(3, 9)):
    """A folder of pictures of one colour each, those of `bad` damaged."""
    path.mkdir()
    for i in range(count):
        if i in bad:
            (path / f"{i:03}.png").write_bytes(b"no picture")
        else:
            Image.new("RGB", (4, 3), (i, 0, 0)).save(path / f"{i:03}.png")
    return path


def settings(photos, **more):
    return Settings(**{"sources": (str(photos),), "task": "caption", "options": {"seed": 7}, "batch_size": 1, **more})


def run(photos, out, fake=None, *, files=None, resume=False, note=None, **more):
    """One job with a fake model: chunks of four inputs."""
    return run_job(
        settings(photos, **more), out, lambda: Here(fake or Fake()), files=files or Failing(), resume=resume,
        note=note or (lambda text: None),
    )  # fmt: skip


def sums(out):
    """sha256 of what a job is for."""
    return [hashlib.sha256((Path(out) / name).read_bytes()).hexdigest() for name in ("results.jsonl", "errors.jsonl")]


class Killed(BaseException):
    """The process is gone."""


class Failing(Files):
    """Counts the calls that change the disk; from the `at`-th on (from 1) they fail, a write after half its bytes.

    Args:
        error: number of an `OSError` that is raised; None is a kill.
        only: names of the calls that count.
    """

    def __init__(self, at=None, error=None, only=("write", "sync", "replace", "sync_directory", "truncate", "open")):
        self.at, self.error, self.only = at, error, only
        self.calls, self.descriptors = 0, set()

    def reach(self, name):
        if name in self.only:
            self.calls += 1
            if self.at is not None and self.calls >= self.at:
                self.fail()

    def fail(self):
        if self.error is None:
            for descriptor in self.descriptors:
                os.close(descriptor)
            self.descriptors = set()
            raise Killed
        raise OSError(self.error, os.strerror(self.error))

    def open(self, path):
        self.reach("open")
        descriptor = super().open(path)
        self.descriptors.add(descriptor)
        return descriptor

    def close(self, descriptor):
        if descriptor in self.descriptors:
            self.descriptors.remove(descriptor)
            super().close(descriptor)

    def write(self, descriptor, data):
        if "write" in self.only and self.at == self.calls + 1:
            super().write(descriptor, data[: len(data) // 2])
        self.reach("write")
        return super().write(descriptor, data)

    def truncate(self, descriptor, size):
        self.reach("truncate")
        super().truncate(descriptor, size)

    def sync(self, descriptor):
        self.reach("sync")  # and no more: a kill leaves the system's own memory whole

    def replace(self, source, target):
        self.reach("replace")
        super().replace(source, target)

    def sync_directory(self, path):
        self.reach("sync_directory")


class PowerLoss(Failing):
    """A disk that, when the power goes, has forgotten what was not synced: any part of bytes, cuts, names, renames.

    Args:
        lazy: names of files whose syncs are not done, to show that this is noticed.
    """

    def __init__(self, at=None, seed=0, lazy=()):
        super().__init__(at)
        self.random, self.lazy = random.Random(seed), lazy
        self.paths, self.safe, self.cut, self.new, self.renamed = {}, {}, {}, set(), []

    def open(self, path):
        if not path.exists():
            self.new.add(path)
            self.safe[path] = 0
        descriptor = super().open(path)
        self.paths[descriptor] = path
        self.safe.setdefault(path, os.fstat(descriptor).st_size)
        return descriptor

    def truncate(self, descriptor, size):
        path = self.paths[descriptor]
        tail = path.read_bytes()[size:]
        super().truncate(descriptor, size)
        if tail:
            self.cut[path] = (size, tail)
        self.safe[path] = min(self.safe[path], size)

    def sync(self, descriptor):
        self.reach("sync")
        path = self.paths[descriptor]
        if path.name not in self.lazy:
            self.safe[path] = os.fstat(descriptor).st_size
            self.cut.pop(path, None)

    def replace(self, source, target):
        super().replace(source, target)
        self.renamed.append((source, target))
        self.safe[target] = self.safe.pop(source)
        self.new.discard(source)
        self.new.add(target)

    def sync_directory(self, path):
        self.reach("sync_directory")
        self.new = {new for new in self.new if new.parent != path}
        self.renamed = [pair for pair in self.renamed if pair[1].parent != path]

    def fail(self):
        for path, safe in self.safe.items():
            if path.exists() and path.stat().st_size > safe:
                kept = self.random.randint(safe, path.stat().st_size)
                os.truncate(path, kept)
                if self.random.random() < 0.5:  # the size is there, the bytes are not
                    with open(path, "r+b") as file:
                        file.seek(safe)
                        file.write(bytes(kept - safe))
        for path, (size, tail) in self.cut.items():
            if path.exists() and path.stat().st_size == size and self.random.random() < 0.5:
                with open(path, "ab") as file:
                    file.write(tail)
        for source, target in reversed(self.renamed):
            if target.exists() and self.random.random() < 0.5:
                os.replace(target, source)
        for path in self.new:
            if path.exists() and self.random.random() < 0.5:
                path.unlink()
        super().fail()


def count_calls(photos, out, **more):
    """How many calls of a whole job count."""
    files = Failing(**more)
    run(photos, out, files=files)
    return files.calls


ENOSPC, EIO = errno.ENOSPC, errno.EIO
