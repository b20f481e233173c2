from types import SimpleNamespace
from typing import Any

import torch
from tests.oracle import EOS, TINY, draw_model, draw_prompt

from paligemma.engine.runner import Runner
from paligemma.engine.sampling import Sampling, Single
from paligemma.engine.scheduler import Decoding, Request, batches


def request_of(length: int, rows: int = 1) -> Any:
    return SimpleNamespace(prompt=SimpleNamespace(tokens=[0] * length), rows=rows)


def test_batches_hold_at_most_so_many_rows_and_put_neighbours_together() -> None:
    requests = [request_of(n) for n in (3, 9, 1, 7, 5)]
    assert [[len(r.prompt.tokens) for r in batch] for batch in batches(requests, 2)] == [[9, 7], [5, 3], [1]]
    wide = [request_of(4, rows=3), request_of(3, rows=1), request_of(2, rows=2)]
    assert [[r.rows for r in batch] for batch in batches(wide, 3)] == [[3], [1, 2]]
    assert [[r.rows for r in batch] for batch in batches(wide, 1)] == [[3], [1], [2]], "one request always goes"
    assert list(batches([], 3)) == []


def test_one_step_at_a_time() -> None:
    model = draw_model(TINY[1])
    nothing = torch.tensor([], dtype=torch.int64)
    requests = [
        Request(draw_prompt(TINY[1], 1, n), [Single(Sampling(max_tokens=m), {EOS})], m) for n, m in ((3, 2), (5, 4))
    ]
    seen = [[len(r.searches[0].tokens) for r in requests] for _ in Decoding(Runner(model), requests, nothing).steps()]  # type: ignore[attr-defined]
    assert seen == [[1, 1], [2, 2], [2, 3], [2, 4]]
    assert [r.results()[0].steps for r in requests] == [1, 3]
