"""What detection and segmentation need besides words: a grammar before, scores and masks after.

In: a query and its prompt; then the tokens that came and the boxes read from them. Out: the constraint the engine
decodes under; then the same boxes with scores (`tasks.confidence`, the model's calibration) and masks (its codec).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from paligemma.api.queries import Query
from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.engine import Generation
from paligemma.errors import InputError, UsageError
from paligemma.results import Notice
from paligemma.tasks import Prompt, Reading, task_of
from paligemma.tasks.confidence import score_boxes, with_scores
from paligemma.tasks.constraint import BoxGrammar
from paligemma.tasks.grammar import Divisor, check_label, split_objects
from paligemma.tasks.masks import decoder
from paligemma.tasks.segment import with_masks
from paligemma.tokenizer import Tokenizer

if TYPE_CHECKING:
    from paligemma.api.model import PaliGemma

BOX_TASKS = ("detect", "segment")


@dataclass(frozen=True)
class Begun:
    """A constraint for the rest of an answer whose beginning is given."""

    grammar: BoxGrammar
    given: tuple[int, ...] = ()

    def start(self) -> Any:
        """
        Raises:
            UsageError: the beginning is not one the grammar allows.
        """
        state = self.grammar.start()
        for token in self.given:
            state = self.grammar.advance(state, token)
        return state

    def allowed(self, state: Any) -> Sequence[int]:
        return self.grammar.allowed(state)

    def advance(self, state: Any, token_id: int) -> Any:
        return self.grammar.advance(state, token_id)

    def notices(self, tokens: Sequence[int]) -> tuple[Notice, ...]:
        """Why the grammar ended this answer, where it did."""
        return self.grammar.notices([*self.given, *tokens])


def reads_as(prompt: Prompt) -> str:
    """The task whose way of reading the answer takes: that of a free prompt by its first word."""
    return task_of(prompt.text) if prompt.task == "generate" else prompt.task


def constraint_of(model: "PaliGemma", query: Query, prompt: Prompt, given: Sequence[int]) -> Begun | None:
    """The grammar a query is answered under, None for text and where it is switched off.

    Args:
        given: tokens of the answer's beginning.

    Raises:
        UsageError: a beginning that the grammar does not allow.
    """
    options, task = query.options, reads_as(prompt)
    # A prompt typed whole is answered as the model likes, unless the grammar is asked for.
    if task not in BOX_TASKS or not options.get("grammar", prompt.task in BOX_TASKS):
        return None
    grammar = _grammar(model.tokenizer, _labels(prompt, options), task, _rules(prompt, options))
    begun = Begun(grammar, tuple(given))
    try:
        begun.start()
    except UsageError as error:
        raise UsageError(
            f"the start {query.options.get('start')!r} is no beginning of boxes; mend it, or give grammar=False"
        ) from error
    return begun


def _labels(prompt: Prompt, options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names asked for; None, any label, where one of them could not be read back from an answer."""
    if options.get("any_label", False) or prompt.label:
        return None
    names = split_objects(prompt.text.partition(" ")[2])
    try:
        return tuple(check_label(name) for name in names)
    except InputError:
        return None


def _rules(prompt: Prompt, options: Mapping[str, Any]) -> tuple[bool, int | None, bool]:
    return (not prompt.label, options.get("max_objects"), options.get("duplicates", False))


@lru_cache(maxsize=64)
def _grammar(
    tokenizer: Tokenizer, labels: tuple[str, ...] | None, task: str, rules: tuple[bool, int | None, bool]
) -> BoxGrammar:
    labelled, max_objects, duplicates = rules
    return BoxGrammar(
        tokenizer, labels, masks=task == "segment", labelled=labelled, max_objects=max_objects, duplicates=duplicates
    )


def watched_ranges(tokenizer: Tokenizer) -> tuple[tuple[int, int], tuple[int, int]]:
    """The ids whose whole distribution is kept for the scores: locations and mask codes."""
    loc, seg = tokenizer.loc_start, tokenizer.seg_start
    return (loc, loc + NUM_LOC_TOKENS), (seg, seg + NUM_SEG_TOKENS)


def scored(
    model: "PaliGemma", reading: Reading, generation: Generation, constraint: Begun | None, start: str
) -> Reading:
    """The same reading with scores, calibrated where the model has a calibration, and with the grammar's notices.

    Where the grammar held, only a cut leaves anything behind that is no box; that is told as a cut, not as a rejection.
    """
    scores = score_boxes(
        reading, generation.tokens, generation.logprobs, generation.watched, model.tokenizer, start=start
    )
    boxes, warnings = with_scores(reading.boxes or (), scores, model.calibration), reading.warnings
    if constraint is not None:
        if generation.finish_reason == "length":
            warnings = tuple(notice for notice in warnings if notice.code != "rejected")
        warnings += constraint.notices(generation.tokens)
    return replace(reading, boxes=boxes, warnings=warnings)


def with_pixels(model: "PaliGemma", readings: Sequence[Reading], divisors: Sequence[Divisor]) -> list[Reading]:
    """The same readings with masks where there are mask codes: one call of the codec for all, if the model has one.

    Raises:
        CheckpointError: the codec's file is damaged.
    """
    coded = [i for i, reading in enumerate(readings) if any(box.mask_codes for box in reading.boxes or ())]
    found = list(readings)
    if not coded or model.mask_codec is None:
        return found
    for divisor in sorted({divisors[i] for i in coded}):
        chosen = [i for i in coded if divisors[i] == divisor]
        pixels = with_masks([readings[i] for i in chosen], decoder(model.mask_codec), divisor=divisor)
        for i, reading in zip(chosen, pixels, strict=True):
            found[i] = reading
    return found
