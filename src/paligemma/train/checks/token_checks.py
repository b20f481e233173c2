"""What can be wrong with one row before training, each as a sentence: a table of checks, from the row alone.

    no token is trained, the prompt is trained, an answer token is not, a location is split, eos is missing, ...

In: a `Row` as the loader gives it. Out: `Finding`s. To add a refusal, write a function and its line in `CHECKS`. Not
done here: checks that need the model (`model_checks`) and the rows behind the first batches (`data.check`).
"""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby

from paligemma.config import NUM_LOC_TOKENS, NUM_SEG_TOKENS
from paligemma.processor import Processor
from paligemma.tasks.grammar import MASK_TOKENS
from paligemma.train.checks.rows import Row

SPELLED = re.compile(r"<(?:loc|seg)\d+>")
TRIVIAL_WORDS, TRIVIAL_LETTERS = 3, 12  # an answer of fewer words and letters may well be named in its question


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something wrong with an example: `refused`, or only worth a look."""

    check: str
    id: str
    sentence: str
    refused: bool = True

    def __str__(self) -> str:
        return f"{self.id}: {self.sentence}"


@dataclass(frozen=True, kw_only=True)
class Alphabet:
    """The ids that checks have to know."""

    eos: int
    bos: int
    newline: int
    first_location: int
    max_positions: int

    @classmethod
    def of(cls, processor: Processor, max_positions: int) -> "Alphabet":
        known = processor.tokenizer
        return cls(
            eos=known.eos_id, bos=known.bos_id, newline=known.newline_id, first_location=known.loc_start,
            max_positions=max_positions,
        )  # fmt: skip

    def bin(self, token: int) -> int | None:
        """0..1023 of a location token."""
        found = token - self.first_location
        return found if 0 <= found < NUM_LOC_TOKENS else None

    def is_mask(self, token: int) -> bool:
        return 0 <= token - self.first_location - NUM_LOC_TOKENS < NUM_SEG_TOKENS


Check = Callable[[Row, Alphabet], str | None]


def nothing_trained(row: Row, alphabet: Alphabet) -> str | None:
    if any(token.trained for token in row.tokens):
        return None
    return "no token of it is trained (mask_loss is 0 everywhere), expected its suffix and eos; give it a suffix"


def prompt_trained(row: Row, alphabet: Alphabet) -> str | None:
    wrong = [token for token in row.tokens if token.trained and token.part != "suffix"]
    if not wrong:
        return None
    kinds = ", ".join(sorted({token.part for token in wrong}))
    return (
        f"{len(wrong)} tokens of its {kinds} are trained (first {wrong[0].piece!r}), expected the suffix alone; "
        "mask_loss must be 0 where mask_ar is 0 and in padding"
    )


def answer_not_trained(row: Row, alphabet: Alphabet) -> str | None:
    left = [token for token in row.of("suffix") if not token.trained]
    if not left or len(left) == len(row.of("suffix")):
        return None
    return (
        f"{len(left)} tokens of its suffix are not trained (first {left[0].piece!r}), expected all of them; "
        "mask_loss is shifted or cut"
    )


def eos_missing(row: Row, alphabet: Alphabet) -> str | None:
    suffix = row.of("suffix")
    if suffix and suffix[-1].id == alphabet.eos:
        return None
    found = f"ends in {suffix[-1].piece!r}" if suffix else "is empty"
    return f"its suffix {found}, expected <eos>; without it the model never learns to stop"


def prompt_not_framed(row: Row, alphabet: Alphabet) -> str | None:
    prefix = row.of("prefix")
    if len(prefix) >= 2 and prefix[0].id == alphabet.bos and prefix[-1].id == alphabet.newline:
        return None
    found = "".join(token.piece for token in prefix)
    return f"its prompt is {found[:60]!r}, expected <bos> before and one newline after it; masks and tokens disagree"


def location_split(row: Row, alphabet: Alphabet) -> str | None:
    """Text that spells a location but is many tokens: ids of locations are cut out, what is left must not spell one."""
    for part in ("suffix", "prefix"):
        places = (alphabet.bin(token.id) is not None or alphabet.is_mask(token.id) for token in row.of(part))
        text = "".join("\0" if place else token.piece for place, token in zip(places, row.of(part), strict=True))
        found = SPELLED.search(text)
        if found:
            number = int(found.group()[4:-1])
            if number >= (NUM_LOC_TOKENS if found.group().startswith("<loc") else NUM_SEG_TOKENS):
                return (
                    f"its {part} spells {found.group()}, but locations end at <loc1023> and mask codes at <seg127>; "
                    "mend the coordinates"
                )
            return (
                f"{found.group()} in its {part} was split into pieces of text instead of one token, for the prompt "
                f"{row.text('prefix')[:40]!r} asks for no boxes; begin it with `detect` or `segment`"
            )
    return None


def box_wrong(row: Row, alphabet: Alphabet) -> str | None:
    """Four locations a box, bottom below top, right of left; sixteen mask codes behind a box, or none."""
    suffix = [token.id for token in row.of("suffix")]
    kinds = ["loc" if alphabet.bin(t) is not None else "seg" if alphabet.is_mask(t) else "" for t in suffix]
    before, place = "", 0
    for kind, group in groupby(kinds):
        size = len(list(group))
        ids = suffix[place : place + size]
        place += size
        if kind == "loc":
            if size % 4:
                return f"{size} location tokens stand together in its suffix, expected four for each box; mend them"
            bins = [alphabet.bin(token) or 0 for token in ids]
            for y1, x1, y2, x2 in zip(*(bins[i::4] for i in range(4)), strict=True):
                if y2 <= y1 or x2 <= x1:
                    return (
                        f"its box {y1} {x1} {y2} {x2} (top left bottom right, of 1024) has no area; "
                        "write y before x, and the smaller number first"
                    )
        if kind == "seg" and (size != MASK_TOKENS or before != "loc"):
            where = "behind a box" if before == "loc" else "without a box"
            return f"{size} mask codes stand {where} in its suffix, expected 16 behind the four of a box; mend them"
        before = kind
    return None


def too_long(row: Row, alphabet: Alphabet) -> str | None:
    length = sum(token.part != "pad" for token in row.tokens)
    if length <= alphabet.max_positions:
        return None
    return (
        f"it has {length} tokens, but the model was made for {alphabet.max_positions}; shorten it or give fewer images"
    )


def answer_in_prompt(row: Row, alphabet: Alphabet) -> str | None:
    suffix, prefix = (" ".join(SPELLED.sub(" ", row.text(part)).split()) for part in ("suffix", "prefix"))
    if SPELLED.search(row.text("suffix")):  # where things are is not in the prompt
        return None
    if len(suffix.split()) < TRIVIAL_WORDS or len(suffix) < TRIVIAL_LETTERS or suffix.lower() not in prefix.lower():
        return None
    return (
        f"its answer {suffix[:60]!r} stands word for word in its prompt, so there is nothing to learn from the picture"
    )


@dataclass(frozen=True)
class RowCheck:
    """One line of the table."""

    name: str
    find: Check
    refused: bool = True


CHECKS = (
    RowCheck("nothing trained", nothing_trained),
    RowCheck("prompt trained", prompt_trained),
    RowCheck("answer not trained", answer_not_trained),
    RowCheck("eos missing", eos_missing),
    RowCheck("prompt not framed", prompt_not_framed),
    RowCheck("location split", location_split),
    RowCheck("box wrong", box_wrong),
    RowCheck("too long", too_long),
    RowCheck("answer in the prompt", answer_in_prompt, refused=False),
)


def check_rows(rows: Iterable[Row], alphabet: Alphabet) -> list[Finding]:
    """Everything that is wrong, refusals first."""
    found = [
        Finding(check=check.name, id=row.id, sentence=sentence, refused=check.refused)
        for row in rows
        for check in CHECKS
        if (sentence := check.find(row, alphabet)) is not None
    ]
    return sorted(found, key=lambda finding: not finding.refused)
