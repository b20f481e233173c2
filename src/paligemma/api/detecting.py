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
from paligemma.tasks.confidence import refine_boxes, score_boxes, with_scores
from paligemma.tasks.constraint import BoxGrammar
from paligemma.tasks.detect import drop_duplicates
from paligemma.tasks.grammar import REFERENCE, SEPARATOR, Divisor, check_label, split_objects
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

    def lone(self, state: Any) -> int | None:
        return self.grammar.lone(state)

    def advance(self, state: Any, token_id: int) -> Any:
        return self.grammar.advance(state, token_id)

    def whole_objects(self, tokens: Sequence[int]) -> int:
        """How many objects an answer holds from end to end; a cut one may have a last one that is a stump."""
        state = self.start()
        for token in tokens:
            state = self.grammar.advance(state, token)
        return len(state.before) + self.grammar.accepts([*self.given, *tokens])

    def notices(self, tokens: Sequence[int]) -> tuple[Notice, ...]:
        """Why the grammar ended this answer, where it did."""
        return self.grammar.notices([*self.given, *tokens])


@dataclass(frozen=True)
class Asked:
    """How boxes are asked for.

    Args:
        constraint: the grammar, None for text and where it is off.
        duplicates: whether repetitions are kept.
        divisor: of location bins; refine: whether edges move to the median of their distributions.
    """

    constraint: Begun | None = None
    duplicates: bool = True
    divisor: Divisor = REFERENCE
    refine: bool = False


def reads_as(prompt: Prompt) -> str:
    """The task whose way of reading the answer takes: that of a free prompt by its first word."""
    return task_of(prompt.text) if prompt.task == "generate" else prompt.task


def asked_of(model: "PaliGemma", query: Query, prompt: Prompt, given: Sequence[int]) -> Asked:
    """What a query's options say about boxes; a prompt typed whole is answered as the model likes unless they do.

    Args:
        given: tokens of the answer's beginning.

    Raises:
        UsageError: a beginning that the grammar does not allow.
    """
    options, task, of_verb = query.options, reads_as(prompt), prompt.task in BOX_TASKS
    asked = Asked(
        duplicates=options.get("duplicates", not of_verb),
        divisor=options.get("loc_divisor", REFERENCE),
        refine=options.get("refine", False),
    )
    if task not in BOX_TASKS or not options.get("grammar", of_verb):
        return asked
    rules = (not prompt.label, options.get("max_objects"), asked.duplicates)
    begun = Begun(_grammar(model.tokenizer, _labels(prompt, options), task, rules), tuple(given))
    try:
        begun.start()
    except UsageError as error:
        raise UsageError(
            f"the start {query.options.get('start')!r} is no beginning of boxes; mend it, or give grammar=False"
        ) from error
    return replace(asked, constraint=begun)


def _labels(prompt: Prompt, options: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The names asked for; None, any label, where one of them could not be read back from an answer."""
    if options.get("any_label", False) or prompt.label:
        return None
    names = split_objects(prompt.text.partition(" ")[2])
    try:
        return tuple(check_label(name) for name in names)
    except InputError:
        return None


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


def scored(model: "PaliGemma", reading: Reading, generation: Generation, asked: Asked, start: str) -> Reading:
    """The same reading with scores, calibrated where the model has a calibration, and with the grammar's notices.

    Where the grammar held, only a cut leaves a stump behind; it is left out, and the cut is what is told.
    """
    notices: tuple[Notice, ...] = ()
    if asked.constraint is not None:
        notices = asked.constraint.notices(generation.tokens)
        if generation.finish_reason != "stop":
            reading = _without_stump(reading, asked.constraint.whole_objects(generation.tokens))
    scores = score_boxes(
        reading, generation.tokens, generation.logprobs, generation.watched, model.tokenizer, start=start
    )
    boxes = with_scores(reading.boxes or (), scores, model.calibration)
    if asked.refine:  # a mask belongs to the box as it was written
        boxes = refine_boxes(
            boxes, [None if box.mask_codes else one for box, one in zip(boxes, scores, strict=True)], asked.divisor
        )
    found = replace(reading, boxes=boxes, warnings=(*reading.warnings, *notices))
    return found if asked.duplicates else drop_duplicates(found)


def _without_stump(reading: Reading, whole: int) -> Reading:
    boxes = (reading.boxes or ())[:whole]
    return replace(
        reading,
        text=SEPARATOR.join(box.label for box in boxes if box.label),
        boxes=boxes,
        spans=reading.spans[:whole],
        warnings=tuple(notice for notice in reading.warnings if notice.code not in ("rejected", "no_mask")),
    )


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
