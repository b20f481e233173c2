"""Pictures of coming inputs are opened by threads while the model works on the present ones.

In: items. Out: the same items, in order, with their pictures or the reason why there are none. What waits is bounded by
number and by pixels. Not done here: anything with a model.
"""

import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from PIL import Image

from paligemma.errors import InputError, PaliGemmaError
from paligemma.images import open_image
from paligemma.jobs.requests import Item

MAX_WAITING_PIXELS = 256_000_000  # 768 MB as RGB; each thread may go over it by one picture
MAX_THREADS = 8


@dataclass
class Opened:
    """An item and its pictures, upright RGB; or the error that there was."""

    item: Item
    pictures: tuple[Image.Image, ...] = ()
    error: PaliGemmaError | None = None

    @property
    def pixels(self) -> int:
        return sum(picture.width * picture.height for picture in self.pictures)


def open_item(item: Item) -> Opened:
    """Opens the pictures of one item; whatever is wrong with them is in `error`."""
    if item.error is not None:
        return Opened(item)
    try:
        return Opened(item, tuple(open_image(path) for path in item.paths))
    except PaliGemmaError as error:
        return Opened(item, error=error)
    except OSError as error:  # a disk that fails in the middle of a file
        return Opened(item, error=InputError(f"{item.paths[0]} cannot be read ({error.strerror}); check the disk"))


class _Slot:
    """One item's place in the queue; `opened` is set when a thread is through with it."""

    def __init__(self) -> None:
        self.opened: Opened | None = None
        self.failure: BaseException | None = None


class Opener:
    """Iterates over items with their pictures open, working up to `ahead` items in advance; close it, or use `with`."""

    def __init__(self, items: Iterable[Item], ahead: int, threads: int | None = None):
        self._items = iter(items)
        self._ahead = ahead
        self._queue: deque[_Slot] = deque()
        self._changed = threading.Condition()
        self._pixels = 0
        self._ended = False
        count = threads or min(MAX_THREADS, os.cpu_count() or 1, ahead)
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> "Opener":
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._ahead = 0
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def __iter__(self) -> Iterator[Opened]:
        while True:
            with self._changed:
                while not (self._queue and self._is_done(self._queue[0])) and not (self._ended and not self._queue):
                    self._changed.wait()
                if not self._queue:
                    return
                slot = self._queue.popleft()
                if slot.opened is not None:
                    self._pixels -= slot.opened.pixels
                self._changed.notify_all()
            if slot.failure is not None:
                raise slot.failure
            assert slot.opened is not None
            yield slot.opened

    @staticmethod
    def _is_done(slot: _Slot) -> bool:
        return slot.opened is not None or slot.failure is not None

    def _work(self) -> None:
        while True:
            slot = _Slot()
            with self._changed:
                while not self._ended and self._is_full():
                    self._changed.wait()
                if self._ended:
                    return
                try:
                    item = next(self._items, None)
                except Exception as error:
                    self._ended, slot.failure = True, error
                    self._queue.append(slot)
                    self._changed.notify_all()
                    return
                if item is None:
                    self._ended = True
                    self._changed.notify_all()
                    return
                self._queue.append(slot)
            try:
                opened = open_item(item)
            except BaseException as error:  # a bug of ours: it is raised where the item is asked for
                slot.failure = error
                opened = Opened(item)
            with self._changed:
                self._pixels += opened.pixels
                slot.opened = opened
                self._changed.notify_all()

    def _is_full(self) -> bool:
        return bool(self._queue) and (len(self._queue) >= self._ahead or self._pixels >= MAX_WAITING_PIXELS)
