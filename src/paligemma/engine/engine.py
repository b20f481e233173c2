"""Token ids in, token ids out, fast: many requests at once, each decoded as it asked for.

In: prompts (token rows with image slots, pixels or features), `Sampling` and perhaps a `Constraint`. Out:
`Generation`s, a stream of `Token`s, or log-probabilities of given answers. Here requests are checked and get the memory
they need; `continuous.py` decodes them. Not done here: text, prompts' grammar, files. `oracle.py` is the slow twin that
must agree.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from paligemma.engine.beam import BigVisionBeams, HuggingFaceBeams
from paligemma.engine.constraints import Constraint, Known, Rule
from paligemma.engine.continuous import Continuous, Request
from paligemma.engine.graphs import CudaGraphs, Recorder
from paligemma.engine.ragged import Pool
from paligemma.engine.runner import Prompt, Runner
from paligemma.engine.sampling import FinishReason, Generation, Ranges, Sampling, Search, Single
from paligemma.engine.scoring import score_candidates
from paligemma.engine.sharing import Shared
from paligemma.errors import InputError, ResourceError, UsageError
from paligemma.model import PaliGemmaModel
from paligemma.model.offload import is_streamed

SLOTS_STEP = 256  # tokens: caches that are kept grow by so many, so that they seldom must
INVARIANT_ROWS = 8  # decoded together for a stream, as for `generate` unless told otherwise


@dataclass(frozen=True, kw_only=True)
class Token:
    """One streamed token. The last one carries the reason: "stop" (and `id` is eos, no text) or another."""

    id: int
    logprob: float  # natural, under the model's whole distribution
    finish_reason: FinishReason | None = None


class Engine:
    """Decodes with one model.

    Args:
        eos_id: the token, or tokens, that end an answer.
        forbidden_ids: ids never to be produced, besides the rows that pad the vocabulary (e.g. `<image>`).
        cache_dtype, big_vision_softcap, fine: see `Runner`.
        invariant: an answer has the same bits whoever is decoded beside it, as long as `batch_size` stays the same;
            without, rounding differs in the last digits. Decision 15 has its cost.
        recorded: whether an accelerator's passes are recorded and replayed (`graphs.py`).
        compiled: lets TorchInductor fuse the recorded passes; minutes at first, faster afterwards.

    Raises:
        UsageError: an eos that is forbidden or outside the vocabulary.
    """

    def __init__(
        self,
        model: PaliGemmaModel,
        *,
        eos_id: int | Sequence[int],
        forbidden_ids: Sequence[int] = (),
        cache_dtype: torch.dtype | None = None,
        big_vision_softcap: bool = False,
        fine: Ranges = (),
        invariant: bool = False,
        recorded: bool = True,
        compiled: bool = False,
    ):
        text = model.config.text
        self.invariant, self.recorded, self.compiled = invariant, recorded, compiled
        self._pool: Pool | None = None  # kept on an accelerator, for the passes recorded on it
        self._recorded_on = 0
        self._shared = Shared(self._open_shared, fixed=invariant)
        self.runner = Runner(
            model, cache_dtype=cache_dtype, big_vision_softcap=big_vision_softcap, fine=fine, alone=invariant
        )  # fmt: skip
        self.eos_ids = frozenset((eos_id,) if isinstance(eos_id, int) else eos_id)
        forbidden = {*range(text.vocab_size, text.embedding_rows), *forbidden_ids}
        self.forbidden_ids = frozenset(forbidden)
        self._known: Known = {}
        self.forbidden = torch.tensor(sorted(forbidden), dtype=torch.int64)
        outside = sorted(i for i in self.eos_ids | forbidden if not 0 <= i < text.embedding_rows)
        if outside or self.eos_ids & forbidden or not self.eos_ids:
            raise UsageError(
                f"eos ids {sorted(self.eos_ids)} with {len(forbidden)} forbidden ids (outside the rows: {outside}) "
                f"leave no way to end an answer; give ids below {text.vocab_size} that are not forbidden"
            )
        self.num_choices = text.embedding_rows - len(forbidden) - len(self.eos_ids)

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling | Sequence[Sampling] = Sampling(),  # noqa: B008  (frozen)
        *,
        batch_size: int = 8,
        num_return: int = 1,
        constraints: Sequence[Constraint | None] | None = None,
        watch: Ranges = (),
        force_in_one_step: bool = True,
    ) -> list[Generation]:
        """Answers in the order of the prompts, `num_return` neighbours for each.

        Args:
            prompts: of any lengths and numbers of images; none of them changes another's answer.
            sampling: one for all, or one for each.
            batch_size: rows decoded together; a beam or sampled answer is a row. One prompt always goes.
            num_return: answers per prompt: draws with seed, seed + 1, ..., or the best finished beams.
            constraints: what each answer may say, None everything. Only `max_tokens` can still cut an answer short.
            watch: ranges of ids (start, stop); `Generation.watched` says how.
            force_in_one_step: feeds a token and those a constraint forces after it in one pass (not under beams). The
                tokens are the same either way, up to rounding, which may decide between equally likely ones.

        Raises:
            InputError: a prompt that does not fit the model. UsageError: settings that do not fit each other.
            ResourceError: out of accelerator memory.
        """
        samplings = [sampling] * len(prompts) if isinstance(sampling, Sampling) else list(sampling)
        if len(samplings) != len(prompts):
            raise UsageError(
                f"{len(samplings)} samplings were given for {len(prompts)} prompts; give one, or one for each"
            )
        if batch_size < 1 or num_return < 1:
            raise UsageError(f"batch_size is {batch_size} and num_return {num_return}; give integers from 1")
        given = [None] * len(prompts) if constraints is None else constraints
        rules = [self._rule(one, force_in_one_step) for one in given]
        if len(rules) != len(prompts):
            raise UsageError(f"{len(rules)} constraints were given for {len(prompts)} prompts; give one (or None) each")
        requests = [
            self._request(prompt, chosen, num_return, f"prompt {i}", rule)
            for i, (prompt, chosen, rule) in enumerate(zip(prompts, samplings, rules, strict=True))
        ]
        self._decode(requests, batch_size, self._ranges(watch))
        return [generation for request in requests for generation in request.results()]

    def stream(
        self,
        prompt: Prompt,
        sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
        constraint: Constraint | None = None,
    ) -> Iterator[Token]:
        """The same tokens as `generate`, one by one as they come; the last one says why it is the last.

        Raises:
            UsageError: beams, which have no answer before the end.
        """
        if sampling.is_beam:
            raise UsageError("beam search has no answer before its end, so it cannot be streamed; use generate")
        request = self._request(prompt, sampling, 1, "the prompt", self._rule(constraint))
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[Token]:
        (search,) = request.searches
        assert isinstance(search, Single)
        grown = self._shared.follow(request, self._slots(request), lambda: len(search.scored))
        given = 0
        while True:
            with self._memory_of(1):
                size = next(grown, given)
            if size == given:
                return
            for place in range(given, size):
                last = place + 1 == len(search.tokens)
                yield Token(
                    id=search.tokens[place],
                    logprob=search.scored[place].logprob,
                    finish_reason=search.finish_reason if last else None,
                )
            given = size

    def score(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Sequence[int]]], *, batch_size: int = 8
    ) -> list[list[list[float]]]:
        """The log-probability of each token of each candidate answer, had the model said it after the prompt.

        Natural, of the whole distribution, as in `Generation`. A prompt runs once, however many candidates it has.

        Args:
            candidates: for each prompt, token ids of some answers, with eos where it counts.
            batch_size: prompts, and then candidates, that run together.

        Raises:
            InputError: a prompt or ids that do not fit the model. UsageError: too long, or not a list for each prompt.
            ResourceError: out of accelerator memory.
        """
        if len(candidates) != len(prompts) or batch_size < 1:
            raise UsageError(
                f"candidates for {len(candidates)} prompts were given with {len(prompts)} prompts and batch_size "
                f"{batch_size}; give a list of candidates for each prompt, and a batch_size from 1"
            )
        for i, (prompt, own) in enumerate(zip(prompts, candidates, strict=True)):
            self._check_candidates(prompt, own, f"prompt {i}")
        order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i].tokens))
        result: list[list[list[float]]] = [[] for _ in prompts]
        together = 1 if self.invariant else batch_size
        for start in range(0, len(order), together):
            part = order[start : start + together]
            with self._memory_of(len(part)):
                scored = self._scored([prompts[i] for i in part], [candidates[i] for i in part], batch_size)
            for i, own_scores in zip(part, scored, strict=True):
                result[i] = own_scores
        return result

    def _scored(
        self, prompts: Sequence[Prompt], candidates: Sequence[Sequence[Sequence[int]]], batch_size: int
    ) -> list[list[list[float]]]:
        """With rows for the prompts, and for as many of their candidates at a time."""
        longest = max((len(tokens) for own in candidates for tokens in own), default=0)
        slots = max(len(prompt.tokens) for prompt in prompts) + longest
        pool = Pool(self.runner, len(prompts) + batch_size, slots, self.forbidden)
        return score_candidates(pool, prompts, candidates)

    def _check_candidates(self, prompt: Prompt, candidates: Sequence[Sequence[int]], name: str) -> None:
        self.runner.check(prompt, name)
        self._check_length(prompt, max(map(len, candidates), default=0), name, "the longest candidate")
        rows = self.runner.model.config.text.embedding_rows
        ids = [token for tokens in candidates for token in tokens]
        if ids and not (min(ids) >= 0 and max(ids) < rows):
            raise InputError(
                f"{name} has candidates with token ids from {min(ids)} to {max(ids)}, but this model has {rows}; "
                "use the tokenizer that came with the model"
            )

    def _check_length(self, prompt: Prompt, more: int, name: str, what: str) -> None:
        limit = self.runner.model.config.text.max_positions
        if len(prompt.tokens) + more > limit:
            raise UsageError(
                f"{name} has {len(prompt.tokens)} tokens and {what} is {more}, but this model knows "
                f"{limit} positions; shorten the prompt, give fewer images or lower {what}"
            )

    def _rule(self, constraint: Constraint | None, forces: bool = True) -> Rule:
        return Rule(
            constraint,
            num_ids=self.runner.model.config.text.embedding_rows,
            forbidden=self.forbidden_ids,
            forces=forces and not self.invariant,
            device=self.runner.device,
            known=self._known,
        )

    def _ranges(self, watch: Ranges) -> Ranges:
        rows = self.runner.model.config.text.embedding_rows
        for start, stop in watch:
            if not 0 <= start < stop <= rows:
                raise UsageError(
                    f"the range ({start}, {stop}) cannot be watched among {rows} ids; give start < stop within them"
                )
        return tuple(watch)

    def _request(self, prompt: Prompt, sampling: Sampling, num_return: int, name: str, rule: Rule) -> Request:
        """Checks a prompt and makes its searches."""
        self.runner.check(prompt, name)
        self._check_length(prompt, sampling.max_tokens, name, "max_tokens")
        if sampling.num_beams > self.num_choices:
            raise UsageError(
                f"{sampling.num_beams} beams were asked for, but only {self.num_choices} tokens can start an answer; "
                "lower num_beams"
            )
        searches: list[Search]
        if sampling.is_beam:
            kind = HuggingFaceBeams if sampling.beam_scoring == "hf" else BigVisionBeams
            searches = [kind(sampling, self.eos_ids, num_return, rule)]
        elif num_return > 1 and sampling.temperature == 0:
            raise UsageError(f"{num_return} greedy answers would all be the same; give a temperature or num_beams")
        else:
            searches = [Single(sampling, self.eos_ids, answer, rule) for answer in range(num_return)]
        return Request(prompt, searches, sampling.max_tokens)

    # --- rows that come and go ---

    def open(self, rows: int, slots: int, *, patient: bool = False) -> Continuous:
        """A line that requests can join while others are being decoded.

        Args:
            rows: decoded together. slots: the most tokens of a prompt and its answer.
            patient: nobody watches the answers grow, so prompts run without a pause.
        """
        return Continuous(self._pool_of(rows, slots), self.forbidden, patient=patient)

    def _open_shared(self, rows: int, slots: int) -> Continuous:
        return self.open(INVARIANT_ROWS if self.invariant else rows, slots)

    def _recorder(self) -> Recorder | None:
        """None on a CPU, where a pass runs as it is launched, and where layers move meanwhile."""
        device = self.runner.device
        wanted = self.recorded and device.type == "cuda" and not is_streamed(self.runner.model)
        return CudaGraphs(device, compiled=self.compiled) if wanted else None

    def _pool_of(self, rows: int, slots: int) -> Pool:
        """Where passes are recorded the pool that is kept with them, if it is free and large enough."""

        def make(rows: int, slots: int, recorder: Recorder | None) -> Pool:
            return Pool(self.runner, rows, slots, self.forbidden, recorder=recorder, fixed_shapes=self.invariant)

        recorder = self._recorder()
        if recorder is None or (self._pool is not None and not self._pool.is_free):
            return make(rows, slots, None)  # beside the one in use, and not for long
        kept = self._pool if self._recorded_on == (now := weights_at(self.runner.model)) else None
        if kept is not None:
            have = (len(kept), kept.slots)
            if have == (rows, slots) or (not self.invariant and have[0] >= rows and have[1] >= slots):
                return kept
        self._pool, self._recorded_on = None, now  # its memory first
        if not self.invariant:
            slots = -(-slots // SLOTS_STEP) * SLOTS_STEP
        self._pool = make(rows, slots, recorder)
        return self._pool

    def _slots(self, request: Request) -> int:
        """Of a row: what the request needs, or where bits depend on it a number that is its own."""
        return fixed_slots(request.slots) if self.invariant else request.slots

    def _decode(self, requests: Sequence[Request], batch_size: int, ranges: Ranges) -> None:
        """Requests of any lengths in one line; where bits must not depend on neighbours, in one for each shape."""
        lines: dict[tuple[int, int], list[Request]] = {}
        for request in sorted(requests, key=lambda request: -len(request.prompt.tokens)):
            shape = (max(batch_size, request.rows), self._slots(request)) if self.invariant else (0, 0)
            lines.setdefault(shape, []).append(request)
        for (rows, slots), group in lines.items():
            rows = rows or max(min(batch_size, sum(one.rows for one in group)), max(one.rows for one in group))
            slots = slots or max(request.slots for request in group)
            with self._memory_of(min(batch_size, len(group))):
                line = self.open(rows, slots, patient=True)
                for request in group:
                    line.submit(request, ranges=ranges)
                line.run()

    @contextmanager
    def _memory_of(self, num_prompts: int) -> Iterator[None]:
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"out of memory on {self.runner.device} with {num_prompts} prompts at once; lower batch_size, "
                "the number of beams or max_tokens"
            ) from error


def fixed_slots(tokens: int) -> int:
    """The slots of a row whose bits may depend on its own length only: a power of two."""
    return max(SLOTS_STEP, 1 << (tokens - 1).bit_length())


def weights_at(model: PaliGemmaModel) -> int:
    """Changes where weights are moved or exchanged, which recorded passes would miss; not where they are trained."""
    return hash(tuple(tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())))
