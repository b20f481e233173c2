from functools import cache
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.oracle import EOS, IMAGE_ID, TINY, draw_model, draw_prompt

from paligemma.engine import Engine, Sampling, generate_slowly
from paligemma.engine.graphs import Run
from paligemma.engine.ragged import Pool
from paligemma.model import PaliGemmaModel


class Again:
    """Records as an accelerator does: warms up, and then gives one and the same tensor each time."""

    def __init__(self) -> None:
        self.recorded = 0

    def record(self, run: Run) -> Run:
        self.recorded += 1
        run()
        out = run().clone()
        return lambda: out.copy_(run())


@cache
def tiny(generation: int, seed: int = 0) -> PaliGemmaModel:
    return draw_model(TINY[generation], seed)


SHAPES = st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9), st.integers(0, 4)), min_size=1, max_size=7)


def prompts_of(generation: int, shapes: Any, seed: int = 0) -> list[Any]:
    return [
        draw_prompt(TINY[generation], images, length, seed=seed + i, suffix=range(4, 4 + suffix))
        for i, (images, length, suffix) in enumerate(shapes)
    ]


@given(st.sampled_from([1, 2]), SHAPES, st.integers(0, 3), st.integers(1, 7), st.booleans(), st.data())
@settings(max_examples=60, deadline=None)
def test_rows_that_come_and_go_say_what_the_oracle_says(
    generation: int, shapes: Any, seed: int, rows: int, records: bool, data: Any
) -> None:
    model, prompts = tiny(generation, seed), prompts_of(generation, shapes, seed)
    said = generate_slowly(model, prompts[0], 20, eos_ids=[EOS], forbidden_ids=[IMAGE_ID])
    eos_ids = [EOS, data.draw(st.sampled_from(said or [EOS]))]  # one that some rows reach
    limits = [data.draw(st.integers(1, 20)) for _ in prompts]
    engine = Engine(model, eos_id=eos_ids, forbidden_ids=[IMAGE_ID], continuous=True)
    slots = max(len(p.tokens) + limit for p, limit in zip(prompts, limits, strict=True))
    engine._pool = Pool(engine.runner, rows, slots, engine.forbidden, recorder=Again() if records else None)
    got = engine.generate(prompts, [Sampling(max_tokens=limit) for limit in limits], batch_size=rows)
    for prompt, limit, generation_ in zip(prompts, limits, got, strict=True):
        want = generate_slowly(model, prompt, limit, eos_ids=eos_ids, forbidden_ids=[IMAGE_ID])
        assert generation_.tokens == want
        assert generation_.finish_reason == ("stop" if len(generation_.logprobs) > len(want) else "length")
