"""What can be asked about a scene and the exact answers, as (prefix, suffix) pairs in PaliGemma's prompt grammar."""

import random
from collections import Counter
from collections.abc import Callable

from paligemma.scenes.first.drawings import LABELS
from paligemma.scenes.first.world import NORM_BOX, Scene, Thing

MaskTokens = Callable[[Thing], str]  # the sixteen `<seg>` tokens of a thing's mask, from a mask codec
NUMBERS = ("zero", "one", "two", "three", "four")


def plural(label: str) -> str:
    irregular = {"fish": "fish", "mushroom": "mushrooms"}
    return irregular.get(label, label + "s")


def article(word: str) -> str:
    return "an" if word[0] in "aeiou" else "a"


def caption(scene: Scene) -> str:
    """Groups of equal things from left to right: `two red cats and a blue boat`. What is printed is for `ocr`."""
    counts = Counter((thing.color, thing.label) for thing in scene.things)
    groups = []
    for (color, label), count in counts.items():  # insertion order: the leftmost of each group
        if count == 1:
            groups.append(f"{article(color)} {color} {label}")
        else:
            groups.append(f"{NUMBERS[count]} {color} {plural(label)}")
    listed = " and ".join(filter(None, [", ".join(groups[:-1]), *groups[-1:]]))
    return listed or ("nothing" if scene.text is None else "a word")


def location(box: NORM_BOX) -> str:
    """`<locYMIN><locXMIN><locYMAX><locXMAX>` with bins round(1023 * fraction)."""
    return "".join(f"<loc{min(1023, max(0, round(c * 1023))):04d}>" for c in box)


def detection(things: list[Thing]) -> str:
    return " ; ".join(f"{location(thing.box)} {thing.label}" for thing in things)


def segmentation(things: list[Thing], mask_tokens: MaskTokens) -> str:
    return " ; ".join(f"{location(thing.box)}{mask_tokens(thing)} {thing.label}" for thing in things)


def ask_caption(scene: Scene, rng: random.Random) -> tuple[str, str]:
    return "caption en", caption(scene)


def ask_detect(scene: Scene, rng: random.Random) -> tuple[str, str]:
    wanted, found = _wanted(scene, rng)
    return "detect " + " ; ".join(wanted), detection(found)


def ask_segment(scene: Scene, rng: random.Random, mask_tokens: MaskTokens) -> tuple[str, str]:
    wanted, found = _wanted(scene, rng)
    return "segment " + " ; ".join(wanted), segmentation(found, mask_tokens)


def _wanted(scene: Scene, rng: random.Random) -> tuple[list[str], list[Thing]]:
    """Mostly what is there, sometimes several kinds, sometimes something that is not; and the things meant."""
    present = sorted({thing.label for thing in scene.things})
    absent = rng.choice([label for label in LABELS if label not in present])
    roll = rng.random()
    if roll < 0.55:
        wanted = [rng.choice(present)]
    elif roll < 0.9:
        wanted = rng.sample([*present, absent], k=min(len(present) + 1, rng.randint(2, 3)))
    else:
        wanted = [absent]
    return wanted, [thing for thing in scene.things if thing.label in wanted]


def ask_count(scene: Scene, rng: random.Random) -> tuple[str, str]:
    counts = Counter(thing.label for thing in scene.things)
    label = rng.choice(sorted(counts)) if rng.random() < 0.75 else rng.choice(LABELS)
    if rng.random() < 0.2:
        return "answer en how many objects are there?", str(len(scene.things))
    ending = rng.choice(("?", " are there?", " are in the picture?"))
    return f"answer en how many {plural(label)}{ending}", str(counts[label])


def ask_color(scene: Scene, rng: random.Random) -> tuple[str, str]:
    counts = Counter(thing.label for thing in scene.things)
    single = [thing for thing in scene.things if counts[thing.label] == 1]
    if not single:
        return ask_count(scene, rng)
    thing = rng.choice(single)
    return f"answer en what color is the {thing.label}?", thing.color


def ask_presence(scene: Scene, rng: random.Random) -> tuple[str, str]:
    labels = {thing.label for thing in scene.things}
    label = rng.choice(sorted(labels)) if rng.random() < 0.5 else rng.choice(LABELS)
    return f"answer en is there {article(label)} {label}?", "yes" if label in labels else "no"


def ask_read(scene: Scene, rng: random.Random) -> tuple[str, str]:
    word = scene.text.word if scene.text else ""
    if rng.random() < 0.7:
        return "ocr", word
    return "answer en what is written?", word or "nothing"


QUESTIONS = {
    ask_caption: 0.42,
    ask_detect: 0.27,
    ask_count: 0.13,
    ask_color: 0.06,
    ask_presence: 0.05,
    ask_read: 0.07,
}
SEGMENT_SHARE = 0.27  # beside the others' sum of 1, where there is a mask codec


def examples(
    scene: Scene, rng: random.Random, count: int, mask_tokens: MaskTokens | None = None
) -> list[tuple[str, str]]:
    """`count` different kinds of (prefix, suffix) about one scene; `segment` among them with `mask_tokens`."""
    asks: dict[Callable[[Scene, random.Random], tuple[str, str]], float] = dict(QUESTIONS)
    if mask_tokens is not None:
        asks[lambda scene, rng: ask_segment(scene, rng, mask_tokens)] = SEGMENT_SHARE
    kinds, weights = list(asks), list(asks.values())
    picks: list[tuple[str, str]] = []
    while len(picks) < count:
        ask = rng.choices(kinds, weights)[0]
        if not scene.things and ask not in (ask_caption, ask_read):
            continue
        weights[kinds.index(ask)] *= 0.2  # rarely the same kind twice
        pair = ask(scene, rng)
        if pair not in picks or sum(weights) < 0.1:
            picks.append(pair)
    return picks
