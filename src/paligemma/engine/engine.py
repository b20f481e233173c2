"""Token ids in, token ids out, fast: many requests at once, each decoded as it asked for.

In: prompts (token rows with image slots, pixels) and `Sampling`. Out: `Generation`s, or a stream of `Token`s. Not done
here: text, prompts' grammar, files. `oracle.py` is the slow twin that must agree.

The loop knows rows only: a `Search` (greedy, sampled or beams) says after each step which of its rows go on, and with
which tokens. Finished requests leave the batch, beams fork in it, all by one selection of rows.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from paligemma.engine.beam import BigVisionBeams, HuggingFaceBeams
from paligemma.engine.runner import Prompt, Runner
from paligemma.engine.sampling import Generation, Sampling, Search, Single, Step
from paligemma.errors import CheckFailed, ResourceError, UsageError
from paligemma.model import PaliGemmaModel


@dataclass(frozen=True, kw_only=True)
class Token:
    """One streamed token. The last one carries the reason: "stop" (and `id` is eos, no text) or "length"."""

    id: int
    logprob: float  # natural, under the model's whole distribution
    finish_reason: Literal["stop", "length"] | None = None


@dataclass
class Request:
    """A prompt on its way, with the searches that share its prefill (several for several sampled answers)."""

    prompt: Prompt
    searches: list[Search]
    max_tokens: int

    @property
    def rows(self) -> int:
        return sum(search.rows for search in self.searches)

    def results(self) -> list[Generation]:
        return [generation for search in self.searches for generation in search.results()]


class Engine:
    """Decodes with one model.

    Args:
        eos_id: the token, or tokens, that end an answer.
        forbidden_ids: ids never to be produced, besides the rows that pad the vocabulary (e.g. `<image>`).
        cache_dtype, big_vision_softcap: see `Runner`.

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
    ):
        text = model.config.text
        self.runner = Runner(model, cache_dtype=cache_dtype, big_vision_softcap=big_vision_softcap)
        self.eos_ids = frozenset((eos_id,) if isinstance(eos_id, int) else eos_id)
        forbidden = {*range(text.vocab_size, text.embedding_rows), *forbidden_ids}
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
    ) -> list[Generation]:
        """Answers in the order of the prompts, `num_return` neighbours for each.

        Args:
            prompts: of any lengths and numbers of images; none of them changes another's answer.
            sampling: one for all, or one for each.
            batch_size: rows decoded together; a beam or sampled answer is a row. One prompt always goes.
            num_return: answers per prompt: draws with seed, seed + 1, ..., or the best finished beams.

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
        requests = [
            self._request(prompt, chosen, num_return, f"prompt {i}")
            for i, (prompt, chosen) in enumerate(zip(prompts, samplings, strict=True))
        ]
        for batch in _batches(requests, batch_size):
            for _ in self._steps(batch):
                pass
        return [generation for request in requests for generation in request.results()]

    def stream(self, prompt: Prompt, sampling: Sampling = Sampling()) -> Iterator[Token]:  # noqa: B008  (frozen)
        """The same tokens as `generate`, one by one as they come; the last one says why it is the last.

        Raises:
            UsageError: beams, which have no answer before the end.
        """
        if sampling.is_beam:
            raise UsageError("beam search has no answer before its end, so it cannot be streamed; use generate")
        request = self._request(prompt, sampling, 1, "the prompt")
        return self._stream(request)

    def _stream(self, request: Request) -> Iterator[Token]:
        (search,) = request.searches
        assert isinstance(search, Single)
        for _ in self._steps([request]):
            yield Token(id=search.tokens[-1], logprob=search.logprobs[-1], finish_reason=search.finish_reason)

    def _request(self, prompt: Prompt, sampling: Sampling, num_return: int, name: str) -> Request:
        """Checks a prompt and makes its searches."""
        self.runner.check(prompt, name)
        limit = self.runner.model.config.text.max_positions
        if len(prompt.tokens) + sampling.max_tokens > limit:
            raise UsageError(
                f"{name} has {len(prompt.tokens)} tokens and max_tokens is {sampling.max_tokens}, but this model knows "
                f"{limit} positions; shorten the prompt, give fewer images or lower max_tokens"
            )
        if sampling.num_beams > self.num_choices:
            raise UsageError(
                f"{sampling.num_beams} beams were asked for, but only {self.num_choices} tokens can start an answer; "
                "lower num_beams"
            )
        searches: list[Search]
        if sampling.is_beam:
            kind = HuggingFaceBeams if sampling.beam_scoring == "hf" else BigVisionBeams
            searches = [kind(sampling, self.eos_ids, num_return)]
        elif num_return > 1 and sampling.temperature == 0:
            raise UsageError(f"{num_return} greedy answers would all be the same; give a temperature or num_beams")
        else:
            searches = [Single(sampling, self.eos_ids, answer) for answer in range(num_return)]
        return Request(prompt, searches, sampling.max_tokens)

    def _steps(self, requests: Sequence[Request]) -> Iterator[None]:
        """Runs one batch to its end, yielding after each step."""
        try:
            batch, logits = self.runner.prefill(
                [request.prompt for request in requests], max(request.max_tokens for request in requests) - 1
            )
            active = [(search, row, row + 1) for row, request in enumerate(requests) for search in request.searches]
            while active:
                active, rows, tokens = self._advance(active, logits)
                yield
                if active:
                    batch.select(rows)
                    logits = self.runner.decode(batch, tokens)
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                f"out of memory on {self.runner.device} with {len(requests)} prompts at once; lower batch_size, "
                "the number of beams or max_tokens"
            ) from error

    @torch.inference_mode()
    def _advance(
        self, active: list[tuple[Search, int, int]], logits: Tensor
    ) -> tuple[list[tuple[Search, int, int]], list[int], list[int]]:
        """Lets every search choose; returns those that go on with their new rows, the rows' parents and tokens."""
        step = Step.of(logits, self.forbidden.to(logits.device))
        if not all(map(math.isfinite, step.best_logprob)):
            raise CheckFailed(
                f"the model gave scores that are no numbers in {logits.dtype}; Gemma 2 overflows in float16, "
                "so load the model in bfloat16 or float32"
            )
        going_on: list[tuple[Search, int, int]] = []
        rows: list[int] = []
        tokens: list[int] = []
        for search, start, stop in active:
            advance = search.advance(step.rows(start, stop))
            if advance.tokens:
                going_on.append((search, len(rows), len(rows) + len(advance.tokens)))
                rows.extend(start + parent for parent in advance.parents)
                tokens.extend(advance.tokens)
        return going_on, rows, tokens


def _batches(requests: Sequence[Request], batch_size: int) -> Iterator[list[Request]]:
    """Groups of at most `batch_size` rows (or one request), longest prompts first: neighbours need little padding."""
    batch: list[Request] = []
    for request in sorted(requests, key=lambda request: -len(request.prompt.tokens)):
        if batch and sum(other.rows for other in batch) + request.rows > batch_size:
            yield batch
            batch = []
        batch.append(request)
    if batch:
        yield batch
