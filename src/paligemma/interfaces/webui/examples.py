"""Pictures to begin with, and words that fit each: drawn by program, so that the page works at once and offline."""

from collections import Counter
from dataclasses import dataclass

from PIL import Image

from paligemma.scenes.first import draw_scene, plural

SEEDS = tuple(1_000_000_000 + k for k in (32, 0, 35, 5, 26, 8))
SIZE_PX = 448  # shown; the model sees them at its own size


@dataclass(frozen=True, kw_only=True)
class Example:
    """A picture with something to ask about it."""

    picture: Image.Image
    objects: str
    question: str
    prompt: str


def draw_examples(seeds: tuple[int, ...] = SEEDS) -> list[Example]:
    """One example per seed of `draw_scene`."""
    return [_example(seed) for seed in seeds]


def _example(seed: int) -> Example:
    scene = draw_scene(seed, SIZE_PX)
    counts = Counter(thing.label for thing in scene.things)
    often = counts.most_common(1)[0][0]
    return Example(
        picture=scene.image,
        objects="; ".join(counts),
        question=f"how many {plural(often)} are there?",
        prompt=f"answer en what color is the {scene.things[0].label}?",
    )
