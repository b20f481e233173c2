"""One answer piece by piece, and the whole of it at the end.

In: the work of one query. Out: pieces of text as the engine makes tokens; joined they are the answer's raw text.
"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from paligemma.api.requests import make_answers
from paligemma.api.tiled import Work
from paligemma.engine import Generation
from paligemma.engine.sampling import FinishReason
from paligemma.errors import UsageError
from paligemma.results import Answer

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma


class AnswerStream(Iterator[str]):
    """Pieces of text as they are made; `answer` is the whole, once the pieces are through (or runs them through)."""

    def __init__(self, pieces: Iterator[str], finished: "list[Answer]"):
        self._pieces, self._finished = pieces, finished

    def __iter__(self) -> "AnswerStream":
        return self

    def __next__(self) -> str:
        return next(self._pieces)

    @property
    def answer(self) -> Answer:
        for _ in self._pieces:
            pass
        if not self._finished:
            raise UsageError("this stream was stopped by an error, so it has no answer; ask again")
        return self._finished[0]


def stream_answer(model: "PaliGemma", work: Work) -> AnswerStream:
    """Starts decoding the one request of a query.

    Raises:
        UsageError: tiles, which are many requests; beams, which have no answer before the end.
        ResourceError: out of memory.
    """
    if len(work.requests) > 1:
        raise UsageError("tiles were asked of a stream, but many windows have no one answer; use generate")
    (request,) = work.requests
    (row,) = model.encoder.with_features([request.encoded])
    tokens = model.engine.stream(row, request.sampling, request.asked.constraint)
    finished: list[Answer] = []

    def pieces() -> Iterator[str]:
        began = time.perf_counter()
        decoder = model.tokenizer.stream()
        ids: list[int] = []
        logprobs: list[float] = []
        reason: FinishReason = "length"
        for token in tokens:
            logprobs.append(token.logprob)
            reason = token.finish_reason or reason
            if token.finish_reason != "stop":
                ids.append(token.id)
                if piece := decoder.push(token.id):
                    yield piece
        if piece := decoder.flush():
            yield piece
        generation = Generation(tokens=ids, logprobs=logprobs, finish_reason=reason, score=sum(logprobs))
        seconds = time.perf_counter() - began
        finished.append(work.combine(make_answers(model, [request], [generation], seconds)))

    return AnswerStream(pieces(), finished)
