import gc
import threading
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, draw_model, draw_prompt

from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.engine.continuous import Continuous
from paligemma.engine.ragged import Pass
from paligemma.model import PaliGemmaModel

SHAPES = [(1, 5, 0), (0, 3, 2), (2, 1, 0), (0, 0, 0)]
LONG = Sampling(max_tokens=14, stop_repeats=None)


@cache
def tiny() -> PaliGemmaModel:
    return draw_model(TINY[2])


def engine_of(**options: Any) -> Engine:
    return Engine(tiny(), eos_id=EOS, forbidden_ids=[IMAGE_ID], **options)


def prompts_of() -> list[Any]:
    return [
        draw_prompt(TINY[2], images, length, seed=i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(SHAPES)
    ]


@cache
def wanted(place: int) -> list[int]:
    return generate_slowly(tiny(), prompts_of()[place], 14, eos_ids=[EOS], forbidden_ids=[IMAGE_ID])


def said(tokens: Any) -> list[int]:
    return [token.id for token in tokens if token.finish_reason != "stop"]


@given(st.lists(st.integers(0, len(SHAPES) - 1), max_size=40), st.booleans())
@settings(max_examples=30, deadline=None)
def test_streams_read_in_any_order_say_what_each_says_alone(order: list[int], invariant: bool) -> None:
    engine = engine_of(invariant=invariant)
    streams = [engine.stream(prompt, LONG) for prompt in prompts_of()]
    read: list[list[Any]] = [[] for _ in streams]
    for place in order:
        read[place] += [token for token in [next(streams[place], None)] if token is not None]
    for place, stream in enumerate(streams):
        assert said([*read[place], *stream]) == wanted(place)
    assert engine._shared.lines == {}, "what was open is closed"


def test_streams_share_their_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    hidden = Pass._hidden
    monkeypatch.setattr(Pass, "_hidden", lambda self: sizes.append(self.shape.rows) or hidden(self))
    engine = engine_of()
    streams = [engine.stream(prompt, LONG) for prompt in prompts_of()]
    for _ in range(4):
        for stream in streams:
            next(stream)
    assert max(sizes) == len(streams)
    assert len(sizes) < 10, "not a pass for each token"


def test_a_stream_that_is_dropped_leaves_its_row() -> None:
    engine = engine_of()
    first, second = (engine.stream(prompt, LONG) for prompt in prompts_of()[:2])
    begun = [next(first)], [next(second)]
    (line,) = engine._shared.lines.values()
    del first
    gc.collect()
    assert said([*begun[1], *second]) == wanted(1)
    assert line.idle
    assert line.pool.is_free


def test_threads_may_read_at_a_time() -> None:
    engine, found = engine_of(), {}

    def read(place: int, prompt: Any) -> None:
        found[place] = said(engine.stream(prompt, LONG))

    threads = [threading.Thread(target=read, args=pair) for pair in enumerate(prompts_of())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {place: wanted(place) for place in range(len(SHAPES))}


def test_an_error_of_the_line_ends_all_its_streams_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of()
    first, second = (engine.stream(prompt, LONG) for prompt in prompts_of()[:2])
    next(first), next(second)
    with monkeypatch.context() as patched:
        patched.setattr(Continuous, "_burst", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(first)
    with pytest.raises(ZeroDivisionError):
        list(second)
    assert said(engine.stream(prompts_of()[2], LONG)) == wanted(2)
