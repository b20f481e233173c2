"""The grammar of boxes as an automaton over token ids, for the engine to decode under.

    answer := [object (" ; " object)*] eos        object := 4 x <loc> [16 x <seg>] [" " label]

In: a tokenizer, the labels asked for. Out: for every state the ids that may follow, so that what is written is always
read back without a warning: bottom below top, right beyond left, only the labels asked for, spelled in the tokens they
have in training. Not done here: choosing a token (see `engine`), scores (see `confidence`). It holds no tensors.

A box that repeats an earlier one of its label closes the list: models that repeat themselves once go on for ever.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.errors import InputError, UsageError
from paligemma.results import Notice
from paligemma.results.boxes import iou
from paligemma.tasks.grammar import LOC_PATTERN, MASK_TOKENS, SEG_PATTERN, SEPARATOR, check_label
from paligemma.tokenizer import LOC_NAMES, LOCATIONS, Tokenizer

REPEAT_IOU = 0.95
_ALLOW = frozenset({LOCATIONS})
_LOCATION_BYTES = re.compile(f"{LOC_PATTERN}|{SEG_PATTERN}".encode())
_PARTIAL_LOCATION = re.compile(rb"<(?:l(?:o(?:c[0-9]{0,4})?)?|s(?:e(?:g[0-9]{0,3})?)?)?\Z")

Bins = tuple[int, ...]
Written = tuple[tuple[Bins, tuple[int, ...]], ...]  # bins and label tokens of each finished object


@dataclass(frozen=True, slots=True)
class State:
    """Where an answer stands; never changed, so that beams may share it.

    Args:
        place: bins of the object being written, 0 to 4.
        masks: how many mask tokens it has.
        label: its label's tokens so far, the separator's included.
        before: the finished objects.
        closed: labels whose list ends with this object, because it repeats one.
        phase: what comes next; `separator` only after a free label.
    """

    phase: Literal["place", "mask", "label", "separator", "done"] = "place"
    place: Bins = ()
    masks: int = 0
    label: tuple[int, ...] = ()
    before: Written = ()
    closed: frozenset[tuple[int, ...]] = frozenset()


@dataclass(frozen=True)
class _Path:
    """One way to go on after a box: a label and either the end or the separator, as tokens."""

    label: tuple[int, ...]
    tokens: tuple[int, ...]
    goes_on: bool


class BoxGrammar:
    """What a detection or segmentation may look like; implements the engine's `Constraint`.

    Args:
        tokenizer: of the model.
        labels: the names asked for; None takes any text without `;`, newline and location tokens.
        masks: 16 mask tokens follow each box.
        labelled: False for RefCOCO checkpoints, which write no label.
        max_objects: the list ends after so many.
        duplicates: True lets a box repeat an earlier one of its label (IoU of 0.95 or more) without ending the list.
        max_label_tokens: of a free label.

    Raises:
        InputError: a label that could not be read back.
        UsageError: no label in the list, or a limit below 1.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        labels: Sequence[str] | None,
        *,
        masks: bool,
        labelled: bool = True,
        max_objects: int | None = None,
        duplicates: bool = False,
        max_label_tokens: int = 16,
    ):
        if max_objects is not None and max_objects < 1:
            raise UsageError(f"max_objects is {max_objects}; give an integer from 1, or None")
        if max_label_tokens < 2:
            raise UsageError(f"max_label_tokens is {max_label_tokens}; give an integer from 2")
        if labelled and labels is not None and not any(label.strip() for label in labels):
            raise UsageError("no label to look for; give at least one, or None for any")
        self.tokenizer, self.masks, self.max_objects, self.duplicates = tokenizer, masks, max_objects, duplicates
        self.max_label_tokens = max_label_tokens
        self.labels = tuple(dict.fromkeys(labels)) if labelled and labels is not None else None
        self._eos = (tokenizer.eos_id,)
        self._tops = range(tokenizer.loc_start, tokenizer.loc_start + NUM_LOC_TOKENS - 1)
        self._masks = range(tokenizer.seg_start, tokenizer.seg_start + NUM_SEG_TOKENS)
        self._opening = (*self._eos, *self._tops)
        self._separator = _tokens_after_box(tokenizer, SEPARATOR, goes_on=True)
        self._free = _free_text(tokenizer) if labelled and labels is None else None
        self._paths = [] if self._free else _paths(tokenizer, self.labels or ("",))
        self._following: dict[tuple[object, ...], tuple[int, ...]] = {}

    # --- the engine's protocol ---

    def start(self) -> State:
        """Nothing is written yet."""
        return State()

    def allowed(self, state: State) -> Sequence[int]:
        """Ids that may follow, never none; one alone is forced."""
        if state.phase == "place":
            return self._allowed_place(state)
        if state.phase == "mask":
            return self._masks
        if state.phase == "label":
            return self._allowed_free(state) if self._free else self._allowed_label(state)
        if state.phase == "separator":
            return (self._separator[len(state.label)],)
        return self._eos

    def lone(self, state: State) -> int | None:
        """eos before the first box: there is nothing only where that is likelier than a box anywhere."""
        return self._eos[0] if state.phase == "place" and not state.place and not state.before else None

    def advance(self, state: State, token_id: int) -> State:
        """The state behind one allowed token.

        Raises:
            UsageError: the token is not allowed there.
        """
        if not self._follows(state, token_id):
            raise UsageError(f"token {token_id} cannot follow in the grammar of boxes at {state.phase!r}")
        if token_id in self._eos:
            return replace(state, phase="done")
        if state.phase == "place":
            place = (*state.place, token_id - self.tokenizer.loc_start)
            if len(place) < 4:
                return replace(state, place=place)
            return self._labelled_next(replace(state, place=place, phase="mask" if self.masks else "label"))
        if state.phase == "mask":
            masks = state.masks + 1
            return self._labelled_next(replace(state, masks=masks, phase="mask" if masks < MASK_TOKENS else "label"))
        if state.phase == "label":
            return self._advance_free(state, token_id) if self._free else self._advance_label(state, token_id)
        ahead = replace(state, label=(*state.label, token_id))
        return State(before=state.before) if len(ahead.label) == len(self._separator) else ahead

    # --- what people ask of it ---

    def accepts(self, tokens: Iterable[int]) -> bool:
        """Whether this is a whole answer, without its eos."""
        state = self.start()
        for token in tokens:
            if token not in self.allowed(state) or token in self._eos:
                return False
            state = self.advance(state, token)
        return self._eos[0] in self.allowed(state)

    def notices(self, tokens: Iterable[int]) -> tuple[Notice, ...]:
        """Why the grammar ended this answer, where it did; `tokens` are the answer's, without its eos.

        Raises:
            UsageError: the answer was not written under this grammar.
        """
        state = self.start()
        for token in tokens:
            state = self.advance(state, token)
        ending = state.phase == "label" and (self._closing(state) if self._free else self.allowed(state))
        if ending != self._eos:
            return ()
        count = len(state.before) + 1
        if self._is_last(state):
            return (Notice("max_objects", f"the list was ended after {count} objects, as asked by max_objects"),)
        if state.closed:
            return (Notice("duplicate", f"object {count} repeats an earlier one, so the list was ended there"),)
        return ()

    # --- places ---

    def _allowed_place(self, state: State) -> Sequence[int]:
        count, start = len(state.place), self.tokenizer.loc_start
        if count == 0:
            return self._tops if state.before else self._opening
        if count == 1:
            return self._tops
        return range(start + state.place[count - 2] + 1, start + NUM_LOC_TOKENS)

    def _labelled_next(self, state: State) -> State:
        """Finds out, once place and mask are written, of which labels this box would be a repetition."""
        if state.phase != "label" or self.duplicates:
            return state
        closed = frozenset(label for place, label in state.before if iou(place, state.place) >= REPEAT_IOU)
        return replace(state, closed=closed)

    def _is_last(self, state: State) -> bool:
        return self.max_objects is not None and len(state.before) + 1 >= self.max_objects

    # --- labels out of the asked ones: all ways to go on that agree with the tokens so far ---

    def _allowed_label(self, state: State) -> tuple[int, ...]:
        key = (state.label, state.closed, self._is_last(state))
        if key not in self._following:
            done = len(state.label)
            ways = [path for path in self._ways(state) if path.tokens[:done] == state.label]
            ids = [path.tokens[done] if len(path.tokens) > done else self._eos[0] for path in ways]
            self._following[key] = tuple(dict.fromkeys(ids))
        return self._following[key]

    def _ways(self, state: State) -> Iterable[_Path]:
        last = self._is_last(state)
        return (path for path in self._paths if not (path.goes_on and (last or path.label in state.closed)))

    def _advance_label(self, state: State, token_id: int) -> State:
        written = (*state.label, token_id)
        for path in self._paths:
            if path.goes_on and path.tokens == written:
                return State(before=(*state.before, (state.place, path.label)))
        return replace(state, label=written)

    # --- free labels ---

    def _allowed_free(self, state: State) -> Sequence[int]:
        assert self._free is not None
        text = self._free.spell(state.label)
        if not text.decode(errors="replace").strip():
            return self._free.after_space if text else self._free.first
        closing = self._closing(state)
        return closing if len(state.label) >= self.max_label_tokens else self._free.going_on(closing, text)

    def _closing(self, state: State) -> tuple[int, ...]:
        """The ids that end a free label: eos, and the next of the separator where more may follow."""
        begun = self._separator_begun(state.label)
        if self._is_last(state) or _trimmed(state.label, begun) in state.closed:
            return self._eos
        return (*self._eos, self._separator[begun])

    def _follows(self, state: State, token_id: int) -> bool:
        """As `allowed`, without searching a whole vocabulary."""
        if state.phase == "label" and self._free and token_id in self._free.bytes_of:
            return True
        return token_id in self.allowed(state)

    def _separator_begun(self, label: tuple[int, ...]) -> int:
        """How many of the separator's first tokens, those before its semicolon, end the label already."""
        assert self._free is not None
        blank = next(i for i, token in enumerate(self._separator) if b";" in self.tokenizer.bytes_of(token))
        return max(k for k in range(blank + 1) if k == 0 or label[-k:] == self._separator[:k])

    def _advance_free(self, state: State, token_id: int) -> State:
        if b";" not in self.tokenizer.bytes_of(token_id):
            return replace(state, label=(*state.label, token_id))
        begun = self._separator_begun(state.label)
        before = (*state.before, (state.place, _trimmed(state.label, begun)))
        if begun + 1 == len(self._separator):
            return State(before=before)
        return State(phase="separator", label=self._separator[: begun + 1], before=before)


def _trimmed(label: tuple[int, ...], begun: int) -> tuple[int, ...]:
    """The label without the beginning of a separator at its end."""
    return label[: len(label) - begun] if begun else label


def _tokens_after_box(tokenizer: Tokenizer, text: str, *, goes_on: bool) -> tuple[int, ...]:
    """The ids of what stands behind a box, tokenised as part of a whole suffix, as in training."""
    ids = tokenizer.encode(LOC_NAMES[0] + text + (LOC_NAMES[0] if goes_on else ""), allow=_ALLOW)
    return tuple(ids[1:-1] if goes_on else ids[1:])


def _paths(tokenizer: Tokenizer, labels: Sequence[str]) -> list[_Path]:
    paths = []
    for label in labels:
        text = f" {check_label(label)}" if label else ""
        end = _tokens_after_box(tokenizer, text, goes_on=False)
        paths.append(_Path(end, end, False))
        paths.append(_Path(end, _tokens_after_box(tokenizer, text + SEPARATOR, goes_on=True), True))
    return paths


class _FreeText:
    """The ids of ordinary text: without control, location and byte-less ids, `;` and newlines."""

    def __init__(self, tokenizer: Tokenizer):
        self.bytes_of: dict[int, bytes] = {}
        for token in range(tokenizer.vocab_size):
            try:
                spelled = tokenizer.bytes_of(token)
            except InputError:  # a hole in the numbering of the file
                continue
            if spelled and not _LOCATION_BYTES.fullmatch(spelled) and not re.search(rb"[;\n\r]", spelled):
                self.bytes_of[token] = spelled
        self.all = tuple(self.bytes_of)
        self.first = tuple(token for token, spelled in self.bytes_of.items() if spelled.startswith(b" "))
        self.after_space = tuple(token for token, spelled in self.bytes_of.items() if spelled.strip())
        self._ending_locations = [token for token, spelled in self.bytes_of.items() if b">" in spelled]
        self._going_on: dict[tuple[int, ...], tuple[int, ...]] = {}

    def spell(self, tokens: Iterable[int]) -> bytes:
        return b"".join(self.bytes_of[token] for token in tokens)

    def going_on(self, closing: tuple[int, ...], text: bytes) -> tuple[int, ...]:
        """`closing` and every id that does not complete a typed `<loc0000>`, which would be read as a token."""
        if closing not in self._going_on:
            self._going_on[closing] = tuple(dict.fromkeys((*closing, *self.all)))
        ids = self._going_on[closing]
        if begun := _PARTIAL_LOCATION.search(text[-9:]):
            ending = {t for t in self._ending_locations if _LOCATION_BYTES.match(begun.group() + self.bytes_of[t])}
            ids = tuple(token for token in ids if token not in ending) if ending else ids
        return ids


@lru_cache(maxsize=4)
def _free_text(tokenizer: Tokenizer) -> _FreeText:
    return _FreeText(tokenizer)
