"""Streams of one engine share a line: whoever asks for his next token decodes one for everybody.

In: requests, from any thread. Out: their searches, grown by at least a token each time. A stream that nobody reads any
more leaves its row; one that is not read for a while goes on with the others and is read later. Not done here: the line
itself (`continuous.py`), its memory (`engine.py`).
"""

import threading
from collections.abc import Callable, Iterator

from paligemma.engine.continuous import Continuous, Request, Ticket

AT_ONCE = 8  # rows of a line; more streams wait for one


class Shared:
    """
    Args:
        open_line: makes a line of so many rows and slots.
        fixed: lines never grow, because an answer's bits depend on their shape; each number of slots has its own.
    """

    def __init__(self, open_line: Callable[[int, int], Continuous], *, fixed: bool = False):
        self.open_line, self.fixed = open_line, fixed
        self.lines: dict[int, Continuous] = {}  # by slots where they are fixed, else one
        self.left: list[tuple[Continuous, Ticket]] = []
        self.turn = threading.Lock()

    def follow(self, request: Request, slots: int, size: Callable[[], int]) -> Iterator[int]:
        """Yields the answer's `size` whenever it grew, until it is whole.

        Args:
            slots: that its row needs.
        """
        with self.turn:
            line, ticket = self._join(request, slots)
        try:
            known = size()
            while True:
                with self.turn:
                    self._sweep()
                    while size() == known and not ticket.done:
                        self._step(line)
                if size() == known:
                    break
                known = size()
                yield known
            if ticket.error is not None:
                raise ticket.error
        finally:  # also when the stream is collected, perhaps in the middle of another one's turn
            self.left.append((line, ticket))
            if self.turn.acquire(blocking=False):
                self._sweep()
                self.turn.release()

    def _join(self, request: Request, slots: int) -> tuple[Continuous, Ticket]:
        key = slots if self.fixed else 0
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = self.open_line(1, slots)
        elif not self.fixed:
            line.pool.grow(min(AT_ONCE, len(line.pool) + int(line.free == 0)), slots)
        return line, line.submit(request)

    def _step(self, line: Continuous) -> None:
        try:
            line.step()
        except BaseException as error:  # nobody of this line can go on
            self.lines = {key: other for key, other in self.lines.items() if other is not line}
            line.close(error)
            raise

    def _sweep(self) -> None:
        """Lets those go whose stream is read no more, and lines that have nothing left to do."""
        while self.left:
            line, ticket = self.left.pop()
            if not ticket.done:
                line.cancel(ticket)
        self.lines = {key: line for key, line in self.lines.items() if not line.idle}
