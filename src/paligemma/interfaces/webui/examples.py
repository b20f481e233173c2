"""Pictures to begin with, and words that fit each: drawn by program, so that the page works at once and offline."""

from collections import Counter
from dataclasses import dataclass
from functools import cache

from PIL import Image

from paligemma.scenes import Scene, draw_scene
from paligemma.scenes.phrases import phrase
from paligemma.scenes.vocabulary import forms

SEEDS = tuple(1_000_000_000 + k for k in (0, 19, 12, 4, 30, 16))  # held out from training
SIZE_PX = 448  # shown; the model sees them at its own size


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture with something to ask about it."""

    picture: Image.Image
    objects: str
    question: str
    prompt: str


def draw_examples(language: str, seeds: tuple[int, ...] = SEEDS) -> list[Example]:
    """One example per seed of `draw_scene`; questions in one of `scenes.vocabulary.LANGUAGES`, objects in English."""
    return [_example(seed, language) for seed in seeds]


def _example(seed: int, language: str) -> Example:
    scene = _scene(seed)
    counts = Counter(thing.label for thing in scene.things)
    often, rare = counts.most_common()[0][0], counts.most_common()[-1][0]
    color = phrase("color", language, name=forms(rare, language).the)
    return Example(
        picture=scene.image,
        objects="; ".join(counts),
        question=phrase("count", language, x=forms(often, language)),
        prompt=f"answer {language} {color}",
    )


@cache
def _scene(seed: int) -> Scene:
    """Drawn once for all languages."""
    return draw_scene(seed, SIZE_PX, "objects")
