"""Rows of different lengths decoded together, without padding between their tokens; rows come and go one by one.

In: prompts for free rows, then tokens for some of the rows. Out: hidden states or, for greedy rows, several tokens at
once. Row r's tokens fill the first slots of its own line of one static cache, so a pass has one of few shapes and
touches the same memory each time: `graphs.py` can record it once and replay it. Not done here: choosing tokens but
greedily, who gets a row when (`continuous.py`).
Letters: R rows, S slots of the cache, T tokens a pass, V vocabulary, D width, P tokens fed.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from paligemma.engine.cache import Appending, RaggedCache, Row
from paligemma.engine.graphs import Recorder, Run
from paligemma.engine.prefill import Prefill
from paligemma.engine.runner import Prompt, Runner
from paligemma.model import AttentionMask

BURST = 8  # most greedy tokens between two looks at them
CHAIN = 8  # most tokens of one row in a recorded pass; longer chains take several


class Shape(NamedTuple):
    """What one recorded pass is made for."""

    rows: int
    tokens: int  # of each row
    stop: int  # slots that are seen
    first: int = 0  # row of the cache; recorded passes begin with the first


class Said(NamedTuple):
    """Greedy tokens and their log-probabilities, pass after pass; each a list with one entry for each row fed."""

    tokens: list[list[int]]
    logprobs: list[list[float]]


class Pool:
    """A fixed number of rows over one model.

    Args:
        slots: the most tokens a row will ever hold.
        forbidden: int64[F], ids that greedy rows never take.
        recorder: records passes and replays them; None runs each anew, in its exact shape.
        fixed_shapes: prompts alone, and every pass over all rows and slots with one token each, whoever is there, so
            that no neighbour changes the bits of an answer. Costs what the empty rows cost.
    """

    def __init__(
        self, runner: Runner, rows: int, slots: int, forbidden: Tensor, *,
        recorder: Recorder | None = None, fixed_shapes: bool = False,
    ):  # fmt: skip
        model = runner.model
        dtype = runner.cache_dtype or model.projector.weight.dtype
        self.runner, self.slots, self.recorder, self.fixed_shapes = runner, slots, recorder, fixed_shapes
        self.cache = RaggedCache(model.config.text, rows, slots, dtype=dtype, device=runner.device)
        self.forbidden = forbidden.to(runner.device)
        self.rows: list[Row | None] = [None] * rows
        self.passes: dict[Shape, Pass] = {}

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def free(self) -> int:
        return self.rows.count(None)

    @property
    def is_free(self) -> bool:
        return self.free == len(self)

    # --- rows ---

    def release(self, row: Row) -> None:
        """Gives a row back; those behind move up where that makes passes smaller."""
        self.rows[row.index] = None
        live = [other for other in self.rows if other is not None]
        while live and self._fitting(max(other.index for other in live) + 1) > self._fitting(len(live)):
            last = max(live, key=lambda other: other.index)
            self._move(last, self.rows.index(None))

    def fork(self, row: Row) -> Row:
        """Another row with the same tokens."""
        twin = self._take(row.length)
        self.cache.copy(row.index, twin.index, row.length)
        return twin

    def branch(self, rows: Sequence[Row], parents: Sequence[int]) -> list[Row]:
        """The rows that someone goes on with, each named by its place among his own; those not named are released."""
        for place, row in enumerate(rows):
            if place not in parents:
                self.release(row)
        return [
            rows[parent] if parent not in parents[:rank] else self.fork(rows[parent])
            for rank, parent in enumerate(parents)
        ]

    def grow(self, rows: int, slots: int) -> None:
        """Makes room for more and longer rows; what was recorded is forgotten."""
        rows, slots = max(rows, len(self)), max(slots, self.slots)
        if (rows, slots) != (len(self), self.slots):
            self.cache.grow(rows, slots)
            self.rows += [None] * (rows - len(self))
            self.slots = slots
            self.passes.clear()

    def _take(self, length: int) -> Row:
        assert length <= self.slots, f"{length} tokens do not fit rows of {self.slots} slots"
        row = Row(self.rows.index(None), length)
        self.rows[row.index] = row
        return row

    def _move(self, row: Row, index: int) -> None:
        self.cache.copy(row.index, index, row.length)
        self.rows[row.index], self.rows[index] = None, row
        row.index = index

    # --- passes ---

    def begin(self, prompts: Sequence[Prompt]) -> Prefill:
        """Gives each prompt a free row; the prefill runs as far as it is told to. The rows stay taken if it fails."""
        assert len(prompts) == 1 or not self.fixed_shapes, "prompts run alone where nobody may change another's bits"
        rows = [self._take(len(prompt.tokens)) for prompt in prompts]
        return Prefill(self.runner, self.cache, prompts, rows)

    def prefill(self, prompts: Sequence[Prompt]) -> tuple[list[Row], Tensor]:
        """Gives each prompt a free row and runs it; returns the rows and the scores that follow, float[B, V]."""
        prefill = self.begin(prompts)
        try:
            scores = prefill.advance()
        except BaseException:
            for row in prefill.rows:
                self.release(row)
            raise
        assert scores is not None, "nothing stops it"
        return prefill.rows, scores

    @torch.inference_mode()
    def feed(self, rows: Sequence[Row], chains: Sequence[Sequence[int]]) -> Tensor:
        """Appends to each of some rows its tokens, at least one; their hidden states float[P, D], row after row."""
        most = max(map(len, chains)) if self.recorder is None else CHAIN
        parts: list[list[Tensor]] = [[] for _ in rows]
        for start in range(0, max(map(len, chains)), most):
            fed = [(i, chain[start : start + most]) for i, chain in enumerate(chains) if len(chain) > start]
            one = self._pass([rows[i] for i, _ in fed], max(len(chain) for _, chain in fed))
            hidden = one.run({rows[i].index: list(chain) for i, chain in fed}, self._lengths())
            for i, chain in fed:
                parts[i].append(hidden[rows[i].index - one.shape.first, : len(chain)].clone())
                rows[i].length += len(chain)
        return torch.cat([part for own in parts for part in own])

    @torch.inference_mode()
    def feed_one(self, rows: Sequence[Row], tokens: Sequence[int]) -> Tensor:
        """Appends one token to each of some rows; hidden states float[R, D], by `Row.index`."""
        chains = {row.index: [token] for row, token in zip(rows, tokens, strict=True)}
        hidden = self._pass(rows, 1).run(chains, self._lengths())[:, 0].clone()
        for row in rows:
            row.length += 1
        return hidden

    @torch.inference_mode()
    def burst(self, rows: Sequence[Row], tokens: Sequence[int], passes: int) -> Said:
        """Appends one token to each row, takes the likeliest one not forbidden, appends it, and so on.

        Returns:
            As many tokens for each row as there were passes. The last one is chosen but not appended.
        """
        chains = {row.index: [token] for row, token in zip(rows, tokens, strict=True)}
        said, logprobs = self._pass(rows, 1, passes).greedy(chains, self._lengths(), passes)
        for row in rows:
            row.length += passes
        order = [row.index for row in rows]
        return Said([[line[i] for i in order] for line in said], [[line[i] for i in order] for line in logprobs])

    def _lengths(self) -> list[int]:
        return [0 if row is None else row.length for row in self.rows]

    def _pass(self, rows: Sequence[Row], tokens: int, passes: int = 1) -> "Pass":
        """The pass that is large enough, made if there is none yet."""
        low, high = min(row.index for row in rows), max(row.index for row in rows) + 1
        seen = max(row.length for row in rows) + tokens + passes - 1
        if self.fixed_shapes:
            shape = Shape(len(self), tokens, self.slots)
        elif self.recorder is not None:
            shape = Shape(self._fitting(high), CHAIN if tokens > 1 else 1, min(self.slots, stop_for(seen)))
        else:
            return Pass(self.runner, self.cache, self.forbidden, Shape(high - low, tokens, min(self.slots, seen), low))
        if shape not in self.passes:
            self.passes[shape] = Pass(self.runner, self.cache, self.forbidden, shape, self.recorder)
        return self.passes[shape]

    def _fitting(self, rows: int) -> int:
        """How many rows a pass has that must reach so many: with recorded passes a power of two."""
        if self.fixed_shapes:
            return len(self)
        return rows if self.recorder is None else min(len(self), 1 << (rows - 1).bit_length())


def stop_for(seen: int) -> int:
    """The slots a recorded pass looks at where `seen` are needed: few different numbers, at most half too many."""
    step = max(256, 1 << max(0, seen.bit_length() - 2))
    return -(-seen // step) * step


class Pass:
    """One pass of one shape, with inputs and outputs that stay where they are, so that it can be replayed."""

    def __init__(
        self, runner: Runner, cache: RaggedCache, forbidden: Tensor, shape: Shape, recorder: Recorder | None = None
    ):
        self.runner, self.cache, self.forbidden, self.shape, self.recorder = runner, cache, forbidden, shape, recorder
        device = runner.device
        self.tokens = torch.zeros(shape.rows, shape.tokens, dtype=torch.int64, device=device)
        self.lengths = torch.zeros(shape.rows, dtype=torch.int64, device=device)
        self.column = torch.zeros(1, dtype=torch.int64, device=device)  # of what greedy passes say
        self.said = torch.zeros(BURST, shape.rows, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(BURST, shape.rows, dtype=torch.float32, device=device)
        self.recorded: dict[str, Run] = {}

    def run(self, chains: dict[int, list[int]], lengths: Sequence[int]) -> Tensor:
        """Hidden states float[R, T, D] of these rows' tokens, to be read before the next pass."""
        self._set(chains, lengths)
        if self.recorder is None:
            with self.runner.threads(self.tokens.numel()):
                return self._hidden()
        if "hidden" not in self.recorded:
            self.recorded["hidden"] = self.recorder.record(self._hidden)
        return self.recorded["hidden"]()

    def greedy(
        self, chains: dict[int, list[int]], lengths: Sequence[int], passes: int
    ) -> tuple[list[list[int]], list[list[float]]]:
        """Tokens and their log-probabilities, pass after pass, for all rows."""
        assert 1 <= passes <= BURST, f"{passes} passes were asked for at once"
        self._set(chains, lengths)
        if self.recorder is not None and "greedy" not in self.recorded:
            self.recorded["greedy"] = self.recorder.record(self._greedy)
            self._set(chains, lengths)  # recording has gone on from them
        step = self.recorded.get("greedy", self._greedy)
        self.column.zero_()
        with self.runner.threads(self.tokens.numel()):
            for _ in range(passes):
                step()
        return self.said[:passes].tolist(), self.logprobs[:passes].tolist()

    def _set(self, chains: dict[int, list[int]], lengths: Sequence[int]) -> None:
        rows, tokens = range(self.shape.first, self.shape.first + self.shape.rows), self.shape.tokens
        lines = [[*chains.get(row, []), *[0] * tokens][:tokens] for row in rows]
        self.tokens.copy_(torch.tensor(lines))
        self.lengths.copy_(torch.tensor(lengths[rows.start : rows.stop]))

    def _hidden(self) -> Tensor:
        (rows, tokens, stop, first), device = self.shape, self.tokens.device
        position = self.lengths[:, None] + torch.arange(tokens, device=device)
        key = torch.arange(stop, device=device)[None].expand(rows, stop)
        mask = AttentionMask(position, position, key, key, torch.ones_like(key, dtype=torch.bool))
        x = self.runner.model.language_model.embed(self.tokens)
        return self.runner.model.decode(x, mask, Appending(self.cache, position, stop, first))

    def _greedy(self) -> Tensor:
        logits = self.runner.scores(self._hidden()[:, -1]).float()
        log_z = logits.logsumexp(-1)
        best, token = logits.index_fill_(1, self.forbidden, -torch.inf).max(-1)
        self.said.index_copy_(0, self.column, token[None])
        self.logprobs.index_copy_(0, self.column, (best - log_z)[None])
        self.column += 1
        self.tokens.copy_(token[:, None])
        self.lengths += 1
        return token
