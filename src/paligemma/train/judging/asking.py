"""Questions -> answers of a model, in batches, with pictures made ahead in a thread of their own.

In: `Question`s, perhaps endless, and `PaliGemma`. Out: pairs of question and answer, in order. Prompts are sent as they
stand; boxes are found under the grammar, as users find them. Not done here: judging answers (`grading`).
"""

import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from paligemma.api import Images, PaliGemma, Query
from paligemma.data.example import Example, allowed_tokens
from paligemma.results import Answer
from paligemma.tasks import TASKS, Prompt
from paligemma.tasks.text import CAPTION_STYLES
from paligemma.train.judging.grading import Question, language_of

AHEAD = 64  # questions whose pictures are ready before they are asked
_MARGIN = 16  # tokens beyond a long true answer, so that one that runs on is seen to

T = TypeVar("T")


def question_of(example: Example) -> Question:
    """The example as a question; what its boxes and masks are is read from its suffix."""
    return Question(
        id=example.id, images=example.images, prefix=example.prefix, suffix=example.suffix,
        language=language_of(example.prefix), source=example.source,
    )  # fmt: skip


def answered(
    model: PaliGemma, questions: Iterable[Question], *, batch_size: int = 16
) -> Iterator[tuple[Question, Answer]]:
    """Asks them all, greedily; yields each with its answer, in order.

    Raises:
        InputError: a picture that cannot be read; names the question.
    """
    waiting: deque[Question] = deque()

    def queries() -> Iterator[Query]:
        for question in questions:
            waiting.append(question)
            yield query_of(model, question)

    for answer in model.answers(queries(), batch_size=batch_size):
        assert isinstance(answer, Answer), "errors are raised"
        yield waiting.popleft(), answer


def query_of(model: PaliGemma, question: Question) -> Query:
    """The question's prompt as it stands, with room for the true answer."""
    task, style, allow = question.task, question.prefix.split(maxsplit=1)[0], allowed_tokens(question.prefix)
    usual = CAPTION_STYLES.get(style, TASKS[task].max_tokens)
    true = len(model.tokenizer.encode(question.suffix, allow=allow))
    prompt = Prompt(question.prefix, task, allow, max_tokens=max(usual, true + _MARGIN))
    return Query(Images(*question.images), "generate", {"prompt": prompt})


def ahead(items: Iterable[T], size: int = AHEAD) -> Iterator[T]:
    """The same items, up to `size` of them made in advance by a thread; it ends when the reader does.

    Raises:
        Exception: whatever making an item raised, where that item would have come.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(size)
    done = threading.Event()

    def hand_over(kind: str, value: Any) -> None:
        while not done.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return
            except queue.Full:
                continue

    def work() -> None:
        try:
            for item in items:
                hand_over("item", item)
                if done.is_set():
                    return
            hand_over("end", None)
        except BaseException as error:  # the reader raises it
            hand_over("error", error)

    thread = threading.Thread(target=work, name="questions", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        done.set()
        thread.join()
