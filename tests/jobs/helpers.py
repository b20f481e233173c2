"""A model that answers with what it sees, and folders of small pictures."""

import errno
import hashlib
import random
from pathlib import Path

from PIL import Image
from tests.failing_disk import Failing

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


def count_calls(photos, out, **more):
    """How many calls of a whole job count."""
    files = Failing(**more)
    run(photos, out, files=files)
    return files.calls


ENOSPC, EIO = errno.ENOSPC, errno.EIO
