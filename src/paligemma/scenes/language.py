"""What can be asked about a scene or a clip in five languages, with the one right answer to each question.

In: a scene, a random generator, how many. Out: `Ask`s in PaliGemma's prompt grammar. A question that has no answer or
more than one in this scene is not asked. To add a kind of question, write a function and enter it in `ASKERS` and
`SHARES`; its sentences go to `phrases`.
"""

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from paligemma.config import did_you_mean
from paligemma.errors import UsageError
from paligemma.scenes.catalog import COLORS, LABELS
from paligemma.scenes.mentions import Named, is_named
from paligemma.scenes.phrases import motion_phrase, phrase
from paligemma.scenes.truth import Clip, NormBox, Scene, Thing
from paligemma.scenes.vocabulary import LANGUAGES, color_word, forms, listed

MaskTokens = Callable[[Thing], str]  # the sixteen `<seg>` tokens of a thing's mask, from a mask codec
Weights = Mapping[str, float]

LANGUAGE_SHARES: Weights = {"en": 0.5, "de": 0.125, "fr": 0.125, "es": 0.125, "zh": 0.125}
SHARES: dict[str, Weights] = {  # of the kinds of questions, by kind of scene
    "objects": {
        **{"caption": 0.26, "detect": 0.2, "segment": 0.17, "count": 0.1, "color": 0.06, "presence": 0.06},
        **{"relation": 0.08, "size": 0.04, "ocr": 0.02, "read": 0.01},
    },
    "objects and text": {
        **{"caption": 0.2, "detect": 0.16, "segment": 0.14, "count": 0.08, "color": 0.05, "presence": 0.05},
        **{"relation": 0.07, "size": 0.03, "ocr": 0.16, "read": 0.06},
    },
    "text": {"ocr": 0.7, "read": 0.2, "caption": 0.05, "count": 0.05},
    "hand": {"ocr": 0.7, "read": 0.2, "caption": 0.05, "count": 0.05},
    "chart": {"caption": 0.15, "chart": 0.85},
    "table": {"caption": 0.1, "table": 0.7, "ocr": 0.2},
}
CLIP_SHARES: Weights = {"caption": 0.5, "motion": 0.5}

SIDES = ("left", "right", "above", "below")
SIDEWAYS, UPRIGHT = 0.1, 0.14  # smallest distance of centres for `left of` and for `above`
BIGGER = 1.6  # smallest ratio of areas for `bigger`
MOSTLY_VISIBLE = 0.1  # largest hidden share of a thing whose size is asked
TIRED = 0.3  # a kind's share after it was asked once
TRIES = 12  # per wanted question


@dataclass(frozen=True, kw_only=True)
class Ask:
    """One question and its answer; `language` is empty where none is meant (`ocr`); `names` are those of the prefix."""

    kind: str
    language: str
    prefix: str
    suffix: str
    names: tuple[Named, ...] = ()


def name_ends(ask: Ask) -> list[int]:
    """Where in the prefix the noun of each name ends, in characters; its colour may follow."""
    ends, begin = [], 0
    for name in ask.names:
        noun = forms(name.label or "object", ask.language)
        words = sorted({noun.one, noun.many, noun.of_the.split()[-1]}, key=len, reverse=True)
        edge = "" if ask.language == "zh" else r"\b"
        found = re.compile(f"{edge}({'|'.join(map(re.escape, words))}){edge}").search(ask.prefix, begin)
        assert found is not None, (ask.prefix, words)
        begin = found.end()
        ends.append(begin)
    return ends


def right(ask: Ask, answer: str) -> bool:
    """Whether an answer is the right one, whatever its case and outer spaces."""
    return answer.strip().casefold() == ask.suffix.strip().casefold()


def asks(
    scene: Scene,
    rng: random.Random,
    count: int,
    *,
    kinds: Weights | None = None,
    languages: Weights | None = None,
    mask_tokens: MaskTokens | None = None,
) -> list[Ask]:
    """`count` different questions about one scene, fewer only if it cannot give more.

    Args:
        kinds: share of each kind; default `SHARES` of the scene's kind. `segment` only with `mask_tokens`.
        languages: share of each language; default `LANGUAGE_SHARES`.

    Raises:
        UsageError: an unknown kind or language.
    """
    weights = dict(SHARES[scene_kind(scene)] if kinds is None else kinds)
    _check("kind of question", weights, KINDS)
    if mask_tokens is None:
        weights.pop("segment", None)

    def ask(kind: str, language: str) -> Ask | None:
        if kind == "segment":
            assert mask_tokens is not None
            return _segment(scene, rng, language, mask_tokens)
        return ASKERS[kind](scene, rng, language)

    return _draw(rng, count, weights, languages, ask)


def clip_asks(clip: Clip, rng: random.Random, count: int, languages: Weights | None = None) -> list[Ask]:
    """`count` different questions about what moves in a clip, fewer only if there are no more."""

    def ask(kind: str, language: str) -> Ask:
        does = motion_phrase(clip.motion, language)
        if kind == "caption":
            return _caption_ask(language, _moves(clip, language, does))
        return _answer("motion", language, phrase("doing", language, x=forms(clip.label, language)), does)

    return _draw(rng, count, dict(CLIP_SHARES), languages, ask)


def _moves(clip: Clip, language: str, does: str) -> str:
    return f"{forms(clip.label, language, clip.color).a}{'' if language == 'zh' else ' '}{does}"


def scene_kind(scene: Scene) -> str:
    """The row of `SHARES` a scene belongs to."""
    if scene.chart is not None:
        return "chart"
    if scene.table is not None:
        return "table"
    if scene.things or not scene.lines:
        return "objects and text" if scene.lines else "objects"
    return "hand" if scene.lines[0].handwritten else "text"


def _draw(
    rng: random.Random,
    count: int,
    weights: dict[str, float],
    languages: Weights | None,
    ask: Callable[[str, str], Ask | None],
) -> list[Ask]:
    """Questions with different prefixes, rarely the same kind twice."""
    spoken = dict(LANGUAGE_SHARES if languages is None else languages)
    _check("language", spoken, LANGUAGES)
    picked: dict[str, Ask] = {}
    for _ in range(TRIES * count):
        if len(picked) == count:
            break
        kind = rng.choices(list(weights), list(weights.values()))[0]
        language = rng.choices(list(spoken), list(spoken.values()))[0]
        made = ask(kind, language)
        if made is not None and made.prefix not in picked:
            picked[made.prefix] = made
            weights[kind] *= TIRED
    return list(picked.values())


def _check(what: str, given: Iterable[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}{did_you_mean(name, list(known))}")


def _answer(kind: str, language: str, question: str, answer: str, *names: Named) -> Ask:
    return Ask(kind=kind, language=language, prefix=f"answer {language} {question}", suffix=answer, names=names)


def _yes(language: str, holds: bool) -> str:
    return phrase("yes" if holds else "no", language)


def _caption_ask(language: str, said: str) -> Ask:
    return Ask(kind="caption", language=language, prefix=f"caption {language}", suffix=said)


def caption(scene: Scene, language: str) -> str:
    """Groups of equal things from left to right; what kind of chart, table or writing. What is printed is for `ocr`."""
    if scene.chart is not None:
        return phrase(f"a {scene.chart.kind} chart", language, name=scene.chart.title)
    if scene.table is not None:
        rows = forms("row", language).groups[len(scene.table.rows) - 1]
        columns = forms("column", language).groups[len(scene.table.columns) - 1]
        return phrase("a table", language, rows=rows, columns=columns)
    if scene.things:
        counts = Counter((thing.color, thing.label) for thing in scene.things)  # in order of the leftmost of each
        groups = [forms(label, language, color).groups[n - 1] for (color, label), n in counts.items()]
        return listed(groups, language)
    if not scene.lines:
        return phrase("nothing", language)
    lines = forms("line", language).groups[len(scene.lines) - 1]
    return phrase("handwritten" if scene.lines[0].handwritten else "printed", language, lines=lines)


def location(box: NormBox) -> str:
    """`<locYMIN><locXMIN><locYMAX><locXMAX>` with bins round(1023 * fraction)."""
    return "".join(f"<loc{min(1023, max(0, round(c * 1023))):04d}>" for c in box)


def _caption(scene: Scene, rng: random.Random, language: str) -> Ask:
    return _caption_ask(language, caption(scene, language))


def _detect(scene: Scene, rng: random.Random, language: str) -> Ask:
    return _find("detect", scene, rng, language, lambda thing: "")


def _segment(scene: Scene, rng: random.Random, language: str, mask_tokens: MaskTokens) -> Ask:
    return _find("segment", scene, rng, language, mask_tokens)


def _find(kind: str, scene: Scene, rng: random.Random, language: str, mask_tokens: MaskTokens) -> Ask:
    """Where things are: mostly what is there, sometimes several kinds, sometimes something that is not."""
    present = sorted({thing.label for thing in scene.things})
    absent = rng.choice([label for label in LABELS if label not in present])
    roll = rng.random()
    if roll >= 0.92 or not present:
        wanted = [absent]
    elif roll < 0.6:
        wanted = [rng.choice(present)]
    else:
        wanted = rng.sample([*present, absent], k=min(len(present) + 1, rng.randint(2, 3)))
    found = [
        f"{location(thing.box)}{mask_tokens(thing)} {forms(thing.label, language).one}"
        for thing in scene.things
        if thing.label in wanted
    ]
    prefix = f"{kind} " + " ; ".join(forms(label, language).one for label in wanted)
    names = tuple(Named(label) for label in wanted)
    return Ask(kind=kind, language=language, prefix=prefix, suffix=" ; ".join(found), names=names)


def _count(scene: Scene, rng: random.Random, language: str) -> Ask:
    """Things of a kind, of a colour, of both, or all; lines where there are no things."""

    def how_many(label: str | None = None, color: str | None = None) -> Ask:
        name = Named(label, color)
        question = phrase("count", language, x=forms(label or "object", language, color))
        return _answer("count", language, question, str(sum(is_named(thing, name) for thing in things)), name)

    if not scene.things and scene.lines:
        question = phrase("count", language, x=forms("line", language))
        return _answer("count", language, question, str(len(scene.lines)))
    things, roll = scene.things, rng.random()
    if roll < 0.15:
        return how_many()
    there = bool(things) and rng.random() < 0.8
    label = rng.choice(things).label if there else rng.choice(LABELS)
    color = rng.choice(things).color if there else rng.choice(list(COLORS))
    if roll < 0.7:
        return how_many(label)
    if roll < 0.85:
        return how_many(color=color)
    return how_many(label, color)


def _singles(scene: Scene) -> list[Thing]:
    """The things that are the only one of their kind, so that `the cat` means one."""
    counts = Counter(thing.label for thing in scene.things)
    return [thing for thing in scene.things if counts[thing.label] == 1]


def _color(scene: Scene, rng: random.Random, language: str) -> Ask | None:
    singles = _singles(scene)
    if not singles:
        return None
    thing = rng.choice(singles)
    question = phrase("color", language, name=forms(thing.label, language).the)
    return _answer("color", language, question, color_word(thing.color, language), Named(thing.label))


def _presence(scene: Scene, rng: random.Random, language: str) -> Ask:
    """A kind, or a kind in a colour, that is there or not with equal chance."""
    present = {(thing.label, thing.color) for thing in scene.things}
    with_color, there = rng.random() < 0.4, bool(present) and rng.random() < 0.5
    if there:
        label, color = rng.choice(sorted(present))
    elif with_color and present and rng.random() < 0.6:
        label = rng.choice(sorted(present))[0]  # the right kind in a wrong colour
        color = rng.choice([color for color in COLORS if (label, color) not in present])
    else:
        label = rng.choice([label for label in LABELS if label not in {kind for kind, _ in present}])
        color = rng.choice(list(COLORS))
    name = Named(label, color if with_color else None)
    question = phrase("presence", language, x=forms(label, language, name.color))
    return _answer("presence", language, question, _yes(language, there), name)


def is_side(side: str, a: Thing, b: Thing) -> bool | None:
    """Whether `a` lies on that side of `b`; None where their centres are too close to say."""
    upright = side in ("above", "below")
    gap = (b.center_y - a.center_y) if upright else (b.center_x - a.center_x)
    if abs(gap) < (UPRIGHT if upright else SIDEWAYS):
        return None
    return (gap > 0) == (side in ("left", "above"))


def _relation(scene: Scene, rng: random.Random, language: str) -> Ask | None:
    """`is the cat left of the dog?`, or `what is left of the dog?` where one thing is."""
    which: list[tuple[str, Thing, Thing]] = []  # side, anchor, the only thing there
    whether: list[tuple[str, Thing, Thing, bool]] = []
    singles = _singles(scene)
    for anchor in singles:
        others = [thing for thing in scene.things if thing is not anchor]
        for side in SIDES:
            found = [is_side(side, thing, anchor) for thing in others]
            pairs = list(zip(others, found, strict=True))
            whether += [(side, anchor, thing, sure) for thing, sure in pairs if sure is not None and thing in singles]
            if None not in found and sum(map(bool, found)) == 1:
                which.append((side, anchor, others[found.index(True)]))
    if which and (not whether or rng.random() < 0.4):
        side, anchor, thing = rng.choice(which)
        question = phrase(f"what {side}", language, y=forms(anchor.label, language))
        return _answer("relation", language, question, forms(thing.label, language).one, Named(anchor.label))
    if not whether:
        return None
    side, anchor, thing, holds = rng.choice(whether)
    question = phrase(f"is {side}", language, x=forms(thing.label, language), y=forms(anchor.label, language))
    return _answer("relation", language, question, _yes(language, holds), Named(thing.label), Named(anchor.label))


def area(thing: Thing) -> float:
    """Of its box, as a share of the picture."""
    return (thing.box[2] - thing.box[0]) * (thing.box[3] - thing.box[1])


def _size(scene: Scene, rng: random.Random, language: str) -> Ask | None:
    clear = [thing for thing in _singles(scene) if thing.hidden <= MOSTLY_VISIBLE]
    pairs = [(big, small) for big in clear for small in clear if area(big) >= BIGGER * area(small)]
    if not pairs:
        return None
    big, small = rng.choice(pairs)
    labels = [thing.label for thing in rng.sample((big, small), 2)]
    wanted, meant = rng.choice((("bigger", big), ("smaller", small)))
    x, y = (forms(label, language) for label in labels)
    question = phrase(wanted, language, x=x, y=y)
    return _answer("size", language, question, forms(meant.label, language).one, *map(Named, labels))


def _text(scene: Scene) -> str:
    return " ".join(line.text for line in scene.lines)


def _ocr(scene: Scene, rng: random.Random, language: str) -> Ask:
    return Ask(kind="ocr", language="", prefix="ocr", suffix=_text(scene))


def _read(scene: Scene, rng: random.Random, language: str) -> Ask:
    lines = scene.lines
    if len(lines) > 1 and rng.random() < 0.6:
        key, line = rng.choice((("written first", lines[0]), ("written last", lines[-1])))
        return _answer("read", language, phrase(key, language), line.text)
    return _answer("read", language, phrase("written", language), _text(scene) or phrase("nothing", language))


PARTS = {"bar": "bar", "line": "point", "pie": "slice"}


def _chart(scene: Scene, rng: random.Random, language: str) -> Ask | None:
    chart = scene.chart
    if chart is None:
        return None

    def ask(key: str, answer: str, **words: object) -> Ask:
        return _answer("chart", language, phrase(key, language, **words), answer)

    named = list(zip(chart.labels, chart.values, chart.colors, strict=True))
    (name, value, color), (other, less, _) = rng.sample(named, 2)
    key = rng.choice(("value", "value", "highest", "lowest", "higher", "count", "title", "color"))
    if key == "value":
        return ask(key, str(value), name=name)
    if key in ("highest", "lowest"):
        best = (max if key == "highest" else min)(chart.values)
        return ask(key, chart.labels[chart.values.index(best)]) if chart.values.count(best) == 1 else None
    if key == "higher":
        return ask(key, _yes(language, value > less), name=name, other=other) if value != less else None
    if key == "count":
        return ask(key, str(len(named)), x=forms(PARTS[chart.kind], language))
    if key == "title":
        return ask(key, chart.title)
    return ask(key, color_word(color, language), name=name) if len(set(chart.colors)) > 1 else None


def _table(scene: Scene, rng: random.Random, language: str) -> Ask | None:
    table = scene.table
    if table is None:
        return None

    def ask(key: str, answer: str, **words: object) -> Ask:
        return _answer("table", language, phrase(key, language, **words), answer)

    row, column = rng.randrange(len(table.rows)), rng.randrange(len(table.columns))
    key = rng.choice(("cell", "cell", "cell", "highest row", "rows", "columns"))
    if key == "cell":
        return ask(key, str(table.cells[row][column]), row=table.rows[row], column=table.columns[column])
    if key == "highest row":
        values = [cells[column] for cells in table.cells]
        best = max(values)
        if values.count(best) > 1:
            return None
        return ask(key, table.rows[values.index(best)], column=table.columns[column])
    label, names = ("row", table.rows) if key == "rows" else ("column", table.columns)
    return ask("count", str(len(names)), x=forms(label, language))


ASKERS: dict[str, Callable[[Scene, random.Random, str], Ask | None]] = {
    "caption": _caption,
    "detect": _detect,
    "count": _count,
    "color": _color,
    "presence": _presence,
    "relation": _relation,
    "size": _size,
    "ocr": _ocr,
    "read": _read,
    "chart": _chart,
    "table": _table,
}
KINDS: Sequence[str] = (*ASKERS, "segment")
