"""Questions about drawn scenes that no training ever saw, with the whole truth beside them.

In: a seed and how many scenes. Out: `Question`s: of each scene one of every kind that has an answer in it, in five
languages by turns, and of every tenth a clip. Scene i of seed S is the world's `10**9 + S * 10**6 + i`; training draws
below `10**9`. Figures are comparable within one `scenes.VERSION` only.
"""

import random
from collections.abc import Iterator, Sequence
from functools import cache

from paligemma.config import did_you_mean
from paligemma.errors import UsageError
from paligemma.results import Corners
from paligemma.scenes import LABELS, NormBox, Scene, draw_scene
from paligemma.scenes.clips import draw_clip
from paligemma.scenes.language import KINDS, SHARES, Ask, asks, clip_asks, scene_kind
from paligemma.scenes.vocabulary import LANGUAGES, forms
from paligemma.tasks import task_of
from paligemma.tasks.grammar import split_objects
from paligemma.train.judging.grading import Question, TrueObject

SCENES_HELD_OUT = 10**9
SCENES_OF_A_SEED = 10**6
SCENES_PER_CLIP = 10
CLIP = "clip"
ALL_KINDS = (*KINDS, CLIP)
_OF_TEXT = ("ocr", "read")  # asked where something is printed or written


def scene_questions(
    seed: int, limit: int, *, size_px: int, kinds: Sequence[str] | None = None, languages: Sequence[str] | None = None
) -> Iterator[Question]:
    """Questions about the first `limit` held-out scenes of a seed, drawn as they are asked for.

    Args:
        size_px: side of the pictures.
        kinds: of questions, see `ALL_KINDS`; default all.
        languages: default all five; each is asked equally often.

    Raises:
        UsageError: an unknown kind or language, or more scenes than a seed has.
    """
    check(seed, limit, kinds, languages)
    wanted, spoken = tuple(kinds or ALL_KINDS), tuple(languages or LANGUAGES)
    for i in range(limit):
        number = SCENES_HELD_OUT + seed * SCENES_OF_A_SEED + i
        yield from _about_scene(draw_scene(number, size_px), number, i, wanted, spoken)
        if CLIP in wanted and i % SCENES_PER_CLIP == 0:
            yield from _about_clip(number, i // SCENES_PER_CLIP, size_px, spoken)


def check(seed: int, limit: int, kinds: Sequence[str] | None, languages: Sequence[str] | None) -> None:
    """
    Raises:
        UsageError: as `scene_questions`, before anything is drawn.
    """
    for what, given, known in (("kind of question", kinds, ALL_KINDS), ("language", languages, LANGUAGES)):
        for name in given or ():
            if name not in known:
                raise UsageError(f"unknown {what} {name!r}{did_you_mean(name, list(known))}")
    if not 1 <= limit <= SCENES_OF_A_SEED:
        raise UsageError(f"{limit} scenes were asked for; give 1 to {SCENES_OF_A_SEED:,}, or another seed")
    if seed < 0:
        raise UsageError(f"the seed is {seed}; give 0 or more, below are the scenes of training")


def _about_scene(
    scene: Scene, number: int, i: int, kinds: Sequence[str], languages: Sequence[str]
) -> Iterator[Question]:
    rng = random.Random(number)
    group = scene_kind(scene)
    for k, kind in enumerate(SHARES[group]):
        if kind not in kinds or (kind in _OF_TEXT and not scene.lines):
            continue
        language = languages[(i + k) % len(languages)]
        for ask in asks(scene, rng, 1, kinds={kind: 1.0}, languages={language: 1.0}, mask_tokens=lambda thing: ""):
            yield _question(ask, scene, f"scenes:{number}", kind if task_of(ask.prefix) == "ask" else group)


def _about_clip(number: int, i: int, size_px: int, languages: Sequence[str]) -> Iterator[Question]:
    clip = draw_clip(number, size_px)
    language = languages[i % len(languages)]
    for ask in clip_asks(clip, random.Random(number), 2, {language: 1.0}):
        yield Question(
            id=f"clips:{number}", images=clip.frames, prefix=ask.prefix, suffix=ask.suffix, kind=ask.kind,
            language=ask.language, source="scenes",
        )  # fmt: skip


def _question(ask: Ask, scene: Scene, id: str, kind: str) -> Question:
    boxed = task_of(ask.prefix) in ("detect", "segment")
    labels = _labels(ask.language) if boxed else {}
    return Question(
        id=id, images=(scene.image,), prefix=ask.prefix, suffix=ask.suffix, kind=kind, language=ask.language,
        source="scenes", labels=labels, objects=_asked_for(ask, scene) if boxed else None,
    )  # fmt: skip


def _asked_for(ask: Ask, scene: Scene) -> tuple[TrueObject, ...]:
    """The things that the prompt names, with the masks that were painted."""
    names = split_objects(ask.prefix.partition(" ")[2])
    return tuple(
        TrueObject(name=name, label=thing.label, xyxyn=_x_first(thing.box), mask=thing.mask)
        for thing in scene.things
        if (name := forms(thing.label, ask.language).one) in names
    )


def _x_first(box: NormBox) -> Corners:
    return box[1], box[0], box[3], box[2]


@cache
def _labels(language: str) -> dict[str, str]:
    """The English key of each noun."""
    return {forms(label, language).one: label for label in LABELS}
