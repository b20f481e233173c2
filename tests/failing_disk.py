"""Disks that fail, stop the process or lose power at any call that is told, for jobs and training alike."""

import os
import random
import shutil

from paligemma.disk import Files

OF_A_JOB = ("write", "sync", "replace", "sync_directory", "truncate", "open")
ALL = (*OF_A_JOB, "make_directory", "remove")


class Killed(BaseException):
    """The process is gone."""


class Failing(Files):
    """Counts the calls that change the disk; from the `at`-th on (from 1) they fail, a write after half its bytes.

    Args:
        error: number of an `OSError` that is raised; None is a kill.
        only: names of the calls that count.
        times: how many of them fail before the disk works again; None for ever.
    """

    def __init__(self, at=None, error=None, only=OF_A_JOB, times=None):
        self.at, self.error, self.only, self.times = at, error, only, times
        self.calls, self.descriptors = 0, set()

    def reach(self, name):
        if name in self.only:
            self.calls += 1
            if self.at is not None and 0 <= self.calls - self.at < (self.times or self.calls):
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

    def make_directory(self, path, mode=0o700):
        self.reach("make_directory")
        super().make_directory(path, mode)

    def remove(self, path):
        self.reach("remove")
        super().remove(path)


class PowerLoss(Failing):
    """A disk that, when the power goes, has forgotten what was not synced: any part of bytes, cuts, names, renames.

    Args:
        lazy: names of files whose syncs are not done, to show that this is noticed.
    """

    def __init__(self, at=None, seed=0, lazy=(), only=OF_A_JOB):
        super().__init__(at, only=only)
        self.random, self.lazy = random.Random(seed), lazy
        self.paths, self.safe, self.cut, self.new, self.renamed, self.gone = {}, {}, {}, set(), [], {}

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

    def make_directory(self, path, mode=0o700):
        super().make_directory(path, mode)
        self.new.add(path)

    def remove(self, path):
        kept = path.read_bytes() if path.is_file() else None
        super().remove(path)
        for known in (self.safe, self.cut):
            known.pop(path, None)
        if path not in self.new and kept is not None:
            self.gone[path] = kept
        self.new.discard(path)

    def replace(self, source, target):
        super().replace(source, target)

        def moved(path):
            return target / path.relative_to(source) if path.is_relative_to(source) else path

        self.safe = {moved(path): size for path, size in self.safe.items()}
        self.cut = {moved(path): cut for path, cut in self.cut.items()}
        self.paths = {descriptor: moved(path) for descriptor, path in self.paths.items()}
        self.gone = {moved(path): data for path, data in self.gone.items()}
        if source in self.new:  # never reached the disk under its first name
            self.new.add(target)
        else:
            self.renamed.append((source, target))
        self.new = {moved(path) for path in self.new}

    def sync_directory(self, path):
        self.reach("sync_directory")
        self.new = {new for new in self.new if new.parent != path}
        self.renamed = [pair for pair in self.renamed if pair[1].parent != path]
        self.gone = {gone: data for gone, data in self.gone.items() if gone.parent != path}

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
        for path in sorted(self.new):
            if path.exists() and self.random.random() < 0.5:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path, data in self.gone.items():
            if path.parent.exists() and not path.exists() and self.random.random() < 0.5:
                path.write_bytes(data)
        super().fail()
