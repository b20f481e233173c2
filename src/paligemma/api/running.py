"""Many queries -> answers in the same order, in batches through the engine.

In: an iterable of queries, read only as far as needed. Out: answers, or errors in their places. A window of a few
batches is prepared at once, whatever the tasks in it; the engine puts rows of like length together. What is held in
memory is one window, besides the answers the caller keeps. Not done here: resuming, files (`jobs`).
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Literal

from paligemma.api.detecting import watched_ranges
from paligemma.api.queries import Query
from paligemma.api.requests import Request, make_answers
from paligemma.api.tiled import Work, make_work
from paligemma.errors import PaliGemmaError, UsageError
from paligemma.results import Answer

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma

BATCHES_AT_ONCE = 4  # batches whose pictures are prepared ahead, so that prompts of like length meet
OnError = Literal["raise", "return"]


def answers(
    model: "PaliGemma", queries: Iterable[Query], batch_size: int, on_error: OnError
) -> Iterator[Answer | PaliGemmaError]:
    """Answers in the order of the queries; with on_error="return" a failed one's error stands in its place.

    Raises:
        UsageError: another `on_error`. PaliGemmaError: with on_error="raise", the first that any query gives.
    """
    if on_error not in ("raise", "return"):
        raise UsageError(f"on_error is {on_error!r}; give 'raise' or 'return'")
    window: list[Work | PaliGemmaError] = []
    rows = 0
    for query in queries:
        try:
            work = make_work(model, query)
            window.append(work)
            rows += len(work.requests)
        except PaliGemmaError as error:
            if on_error == "raise":
                raise
            window.append(error)
            rows += 1
        if rows >= BATCHES_AT_ONCE * batch_size:
            yield from _answered(model, window, batch_size, on_error)
            window, rows = [], 0
    yield from _answered(model, window, batch_size, on_error)


def _answered(
    model: "PaliGemma", window: Sequence[Work | PaliGemmaError], batch_size: int, on_error: OnError
) -> Iterator[Answer | PaliGemmaError]:
    """The answers of one window, its errors in their places."""
    requests = [request for work in window if isinstance(work, Work) for request in work.requests]
    found = iter(_decoded(model, requests, batch_size, on_error))
    for work in window:
        if isinstance(work, PaliGemmaError):
            yield work
            continue
        own = list(islice(found, len(work.requests)))
        errors = [entry for entry in own if isinstance(entry, PaliGemmaError)]
        yield errors[0] if errors else work.combine([entry for entry in own if isinstance(entry, Answer)])


def _decoded(
    model: "PaliGemma", requests: Sequence[Request], batch_size: int, on_error: OnError
) -> Sequence[Answer | PaliGemmaError]:
    """Runs requests together; where that fails and errors are wanted back, ever smaller groups find whose it is."""
    if not requests:
        return []
    began = time.perf_counter()
    try:
        generations = model.engine.generate(
            model.encoder.with_features([request.encoded for request in requests]),
            [request.sampling for request in requests],
            batch_size=batch_size,
            constraints=[request.asked.constraint for request in requests],
            watch=watched_ranges(model.tokenizer) if any(request.has_boxes for request in requests) else (),
        )
        return make_answers(model, requests, generations, time.perf_counter() - began)
    except PaliGemmaError as error:
        if on_error == "raise":
            raise
        if len(requests) == 1:
            return [error]
    half = len(requests) // 2
    parts = (requests[:half], requests[half:])
    return [found for part in parts for found in _decoded(model, part, batch_size, on_error)]
