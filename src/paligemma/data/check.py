"""Every row of a source is looked at before any training: what is broken, what repeats, what would be cut, what is odd.

    source, processor -> Findings

Rows are read, their pictures opened, their texts tokenised and their answers parsed as in training. Errors are what
must not be trained on; warnings are what a person should look at. Nothing is changed. Not done here: leaving rows out
(`left_out`).
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise

from paligemma.config import Variant
from paligemma.data.example import ENDLESS, Example, Source
from paligemma.data.findings import Finding, Findings
from paligemma.data.listed import BadRow
from paligemma.data.look_alike import Gallery, Look, Looks
from paligemma.data.order import Permutation, key_of
from paligemma.data.row_checks import text_findings
from paligemma.errors import InputError
from paligemma.processor import Processor
from paligemma.tasks import TASKS, task_of

ENDLESS_ROWS = 200  # looked at where there is no end and no limit
SMALL_PX = 32
NARROW = 4.0  # one side so many times the other: squashed into a square, little is left
FEW_ROWS = 20  # fewer say nothing about diversity
ONE_ANSWER, ALIKE = 0.5, 0.8  # shares from which answers are too much the same
RARE = 5  # objects of a label
_ANSWERS = 100_000  # different answers that are counted
_PAIRS = 500  # answers of one task that are compared


def check(
    source: Source, processor: Processor, *, max_tokens: int | None = None, limit: int | None = None,
    variant: Variant | None = None, held_out: Source | None = None, watch: Callable[[int], None] | None = None,
) -> Findings:  # fmt: skip
    """Looks at every row of a source.

    Args:
        max_tokens: text tokens a row may have (bos, prefix, newline, suffix, eos); longer ones would be cut.
        limit: look only at so many rows, drawn evenly; of endless sources `ENDLESS_ROWS` unless told.
        variant: the published checkpoint to be trained, for the words it knows.
        held_out: validation data that must share no row with this source.
        watch: called with the number of rows done.
    """
    endless = len(source) >= ENDLESS
    found = Findings(source=source.name, total=None if endless else len(source), max_tokens=max_tokens)
    looking = _Looking(found, processor, variant, _held_out(held_out, limit))
    for index in _chosen(source, limit):
        looking.at(source, index)
        found.rows += 1
        if watch is not None:
            watch(found.rows)
    looking.conclude()
    return found


def _chosen(source: Source, limit: int | None) -> Iterator[int]:
    size = len(source)
    if size >= ENDLESS:
        yield from range(ENDLESS_ROWS if limit is None else limit)
    elif limit is None or limit >= size:
        yield from range(size)
    else:
        drawn = Permutation(size, key_of("check", size))
        yield from sorted(drawn[i] for i in range(limit))


class _HeldOut:
    """Pictures and prompts of the validation data."""

    def __init__(self) -> None:
        self.gallery = Gallery()
        self.asked: dict[tuple[bytes, str], str] = {}


def _held_out(source: Source | None, limit: int | None) -> _HeldOut | None:
    """Rows that cannot be read are passed over: they are told where that source itself is checked."""
    if source is None:
        return None
    known, looks = _HeldOut(), Looks()
    for index in _chosen(source, limit if len(source) >= ENDLESS else None):
        try:
            example = source[index]
            seen = [looks.of(picture) for picture in example.images]
        except InputError:
            continue
        for one in seen:
            known.gallery.add(one, example.id)
        known.asked.setdefault((_joined(seen), example.prefix), example.id)
    return known


def _joined(seen: Sequence[Look]) -> bytes:
    return b"".join(one.digest for one in seen)


class _Looking:
    """One check under way."""

    def __init__(self, found: Findings, processor: Processor, variant: Variant | None, held_out: _HeldOut | None):
        self._found, self._processor, self._variant, self._held_out = found, processor, variant, held_out
        self._looks, self._gallery = Looks(), Gallery()
        self._asked: dict[tuple[bytes, str], tuple[str, str]] = {}
        self._answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._samples: defaultdict[str, list[list[int]]] = defaultdict(list)
        self._sides: list[tuple[int, int]] = []
        self._rng = random.Random(0)

    def at(self, source: Source, index: int) -> None:
        """Looks at one row."""
        try:
            example = source[index]
        except BadRow as error:
            why, fix = _halves(error.why)
            self._add(Finding(code="bad_row", field=error.field, why=why, fix=fix, row=error.where), index)
            return
        except InputError as error:
            why, fix = _halves(str(error))
            self._add(Finding(code="bad_row", field="row", why=why, fix=fix, row=f"{source.name}:{index}"), index)
            return
        for finding in self._of_row(example):
            self._add(replace(finding, row=example.id), index)

    def _add(self, finding: Finding, index: int) -> None:
        self._found.add(replace(finding, index=index))

    def _of_row(self, example: Example) -> Iterator[Finding]:
        yield from text_findings(example, self._variant)
        yield from self._of_length(example)
        yield from self._of_pictures(example)
        task = task_of(example.prefix)
        self._found.tasks[task] += 1
        if task in ("detect", "segment"):
            boxes = TASKS[task].parse(example.suffix, (1, 1)).boxes or ()
            self._found.labels.update(box.label for box in boxes if box.label)

    def _of_length(self, example: Example) -> Iterator[Finding]:
        tokenizer = self._processor.tokenizer
        try:
            prompt = self._processor.prompt_ids(example.prefix, allow=example.allow)
            answer = tokenizer.encode(example.suffix, allow=example.allow)
        except InputError as error:
            why, fix = _halves(str(error))
            yield Finding(code="bad_text", field="row", why=why, fix=fix)
            return
        length, limit = len(prompt) + len(answer) + 1, self._found.max_tokens
        if length > max(self._found.tokens, default=0):
            self._found.longest = example.id
        self._found.tokens[length] += 1
        if limit is not None and length > limit:
            why = f"the row has {length} text tokens, at most {limit} are taken"
            yield Finding(code="too_long", field="suffix", why=why, fix="raise max_tokens, or shorten the row")
        task = task_of(example.prefix)
        if task not in ("detect", "segment"):
            counts = self._answers[task]
            if example.suffix in counts or len(counts) < _ANSWERS:
                counts[example.suffix] += 1
            self._sample(task, answer)

    def _sample(self, task: str, answer: list[int]) -> None:
        """Keeps every answer with the same chance."""
        kept, seen = self._samples[task], self._found.tasks[task]
        if len(kept) < _PAIRS:
            kept.append(answer)
        elif (place := self._rng.randrange(seen + 1)) < _PAIRS:
            kept[place] = answer

    def _of_pictures(self, example: Example) -> Iterator[Finding]:
        seen: list[Look] = []
        for picture in example.images:
            try:
                seen.append(self._looks.of(picture))
            except InputError as error:
                why, fix = _halves(str(error))
                yield Finding(code="bad_picture", field="image", why=why, fix=fix)
                return
        for one in seen:
            yield from self._of_sides(one.size_px)
        if not seen:
            return
        yield from self._of_repetition(example, seen)
        if self._held_out is not None:
            yield from _of_overlap(example, seen, self._held_out)
        for one in seen:
            self._gallery.add(one, example.id)

    def _of_sides(self, size_px: tuple[int, int]) -> Iterator[Finding]:
        self._sides.append(size_px)
        small, large = sorted(size_px)
        shown = f"{size_px[0]} x {size_px[1]} px"
        if small < SMALL_PX:
            why = f"the picture is {shown} and will be enlarged to {self._processor.image_size_px}"
            yield Finding(code="small_picture", field="image", why=why, fix="use larger ones, if there are any")
        if large > NARROW * small:
            why = f"the picture is {shown} and will be squashed into a square"
            yield Finding(code="narrow_picture", field="image", why=why, fix="cut it into parts, or pad it")

    def _of_repetition(self, example: Example, seen: Sequence[Look]) -> Iterator[Finding]:
        key = (_joined(seen), example.prefix)
        if key in self._asked:
            other, answer = self._asked[key]
            if answer == example.suffix:
                why = f"the same picture, prompt and answer as {other}"
                yield Finding(code="duplicate", field="row", why=why, fix="keep one, or give its source more weight")
            else:
                why = f"the same picture and prompt as {other}, which answers {answer[:40]!r}"
                yield Finding(code="contradiction", field="suffix", why=why, fix="keep both only if both are right")
            return
        self._asked[key] = (example.id, example.suffix)
        for one in seen:
            twin = None if self._gallery.same(one) else self._gallery.alike(one)
            if twin is not None:
                why = f"the picture looks the same as that of {twin}"
                yield Finding(code="look_alike", field="image", why=why, fix="keep one, unless the difference matters")

    def conclude(self) -> None:
        """What is true of the whole."""
        found = self._found
        if self._sides:
            widths, heights = (sorted(sides) for sides in zip(*self._sides, strict=True))
            ends = min(widths[0], heights[0]), max(widths[-1], heights[-1])
            found.sides_px = (*ends, widths[len(widths) // 2], heights[len(heights) // 2])
        for task, counts in self._answers.items():
            answer, times = counts.most_common(1)[0]
            found.answers[task] = times / found.tasks[task]
            if found.tasks[task] >= FEW_ROWS:
                found.alike[task] = _alike(self._samples[task], self._rng)
                self._of_diversity(task, answer)
        rare = [label for label, count in found.labels.items() if count < RARE]
        if rare and found.rows == found.total and sum(found.labels.values()) >= FEW_ROWS:
            shown = ", ".join(rare[:8]) + (" ..." if len(rare) > 8 else "")
            why = f"{len(rare)} of {len(found.labels)} labels occur less than {RARE} times: {shown}"
            found.add(Finding(code="rare_labels", field="suffix", why=why, fix="add examples, or leave them out"))

    def _of_diversity(self, task: str, answer: str) -> None:
        found = self._found
        if found.answers[task] > ONE_ANSWER:
            why = f"{found.answers[task]:.0%} of the answers to {task} are {answer[:40]!r}"
            fix = "balance the data: a model that always says so already looks good"
            found.add(Finding(code="one_answer", field="suffix", why=why, fix=fix))
        elif found.alike[task] > ALIKE:
            why = f"two answers to {task} share {found.alike[task]:.0%} of their tokens"
            fix = "ask for what differs alone: most of the loss is about what is always the same"
            found.add(Finding(code="alike_answers", field="suffix", why=why, fix=fix))


def _of_overlap(example: Example, seen: Sequence[Look], held_out: _HeldOut) -> Iterator[Finding]:
    asked = held_out.asked.get((_joined(seen), example.prefix))
    if asked is not None:
        why = f"the same picture and prompt as {asked} of the validation data"
        yield Finding(code="in_validation", field="row", why=why, fix="leave it out on one side")
        return
    for one in seen:
        same = held_out.gallery.same(one)
        other = same or held_out.gallery.alike(one)
        if other is not None:
            what = "is" if same else "looks the same as"
            why = f"the picture {what} that of {other} of the validation data"
            yield Finding(code="picture_in_validation", field="image", why=why, fix="split the data by pictures")


def _alike(answers: Sequence[Sequence[int]], rng: random.Random) -> float:
    """Mean share of tokens that two answers have in common, over neighbours in a drawn order."""
    order = list(answers)
    rng.shuffle(order)
    shares = []
    for one, other in pairwise(order):
        both = sum((Counter(one) & Counter(other)).values())
        shares.append(2 * both / (len(one) + len(other)) if one or other else 1.0)
    return sum(shares) / len(shares) if shares else 0.0


def _halves(sentence: str) -> tuple[str, str]:
    """What was found, and what to do: the parts of an error's sentence before and behind its last semicolon."""
    why, semicolon, fix = sentence.rpartition(";")
    return (why.strip(), fix.strip()) if semicolon else (sentence, "mend it")
