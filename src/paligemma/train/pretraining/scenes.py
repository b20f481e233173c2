"""Drawn scenes as steps of pre-training: pictures, the truth about their patches, packed questions and what they name.

In: a step's number. Out: micro-batches, drawn on the spot; every scene is seen once. What is held out (`HELD_OUT`) is
never drawn here. Only for models of the drawn world; other data goes through `data` and `streams`.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image

from paligemma.model import MaskCodec
from paligemma.processor import Processor
from paligemma.scenes import VERSION, Scene, Thing, draw_scene
from paligemma.scenes.clips import draw_clip
from paligemma.scenes.language import SHARES, Ask, asks, clip_asks, name_ends, scene_kind
from paligemma.scenes.mentions import mentions
from paligemma.scenes.patches import Patches, patch_truth
from paligemma.tasks.masks import crop_region, squeezed
from paligemma.train.pretraining.looking import MentionBatch, SeenAndPacked
from paligemma.train.pretraining.packing import PackedBatch, pack
from paligemma.train.pretraining.seeing import PatchBatch, SeenBatch

HELD_OUT = 10**9  # seeds from here on are for validation and calibration
ZOOM = 2  # of a window: a part of a picture of twice the side


@dataclass(frozen=True, kw_only=True)
class ScenePlan:
    """What is drawn and asked.

    Attributes:
        pictures: of one step over all processes; `micro` of them at a time.
        questions: about each picture; 0 for the truth about patches alone.
        alone: share of the steps whose questions have rows of their own, as the model will be asked.
        alone_questions: about each picture of such a step.
        clips: of one step over all processes, beside the pictures, each asked `alone_questions` questions.
        moving: share of the steps that have clips.
        zoomed: share of pictures that are a window of one of twice the size (stage 0 only). The others' text is too
            small to be read, so pictures of text are windows `text_zoomed` times as often.
        kinds: shares of kinds of scenes; default the world's own.
        asked: shares of kinds of questions; default those of `scenes.language` for each kind of scene.
        oftener: how many times as often some kinds of questions are asked.
        languages: shares of languages.
    """

    pictures: int = 64
    micro: int = 32
    questions: int = 8
    alone: float = 0.0
    alone_questions: int = 4
    clips: int = 0
    moving: float = 1.0
    zoomed: float = 0.0
    text_zoomed: float = 1.0
    kinds: Mapping[str, float] | None = None
    asked: Mapping[str, float] | None = None
    oftener: Mapping[str, float] | None = None
    languages: Mapping[str, float] | None = None


@dataclass
class SceneStream:
    """A `StepStream` of scenes from `first_seed` on."""

    processor: Processor
    plan: ScenePlan
    codec: MaskCodec | None = None
    first_seed: int = 0
    fingerprint: str = field(init=False)

    def __post_init__(self) -> None:
        said = f"scenes {VERSION} {self.plan} {self.first_seed} {self.processor.image_size_px}"
        self.fingerprint = hashlib.sha256(said.encode()).hexdigest()

    def micro_batches(self, step: int, rank: int, world: int) -> "list[SeenBatch | PackedBatch]":
        """This process's pictures of a step: each `world`-th from `rank`; then its clips."""
        plan = self.plan
        first = self.first_seed + step * plan.pictures
        seeds = range(first + rank, first + plan.pictures, world)
        if seeds[-1] >= HELD_OUT:
            raise OverflowError("the scenes to train on are used up")
        parts = [seeds[start : start + plan.micro] for start in range(0, len(seeds), plan.micro)]
        if not plan.questions:
            return [self._seen(part) for part in parts]
        alone = random.Random(f"alone {step} {self.first_seed}").random() < plan.alone
        return [*(self._packed(part, alone) for part in parts), *self._clips(step, rank, world, alone)]

    def _clips(self, step: int, rank: int, world: int, alone: bool) -> list[PackedBatch]:
        """Those of a step that has some, in one batch."""
        plan = self.plan
        if not plan.clips or random.Random(f"moving {step} {self.first_seed}").random() >= plan.moving:
            return []
        first = self.first_seed + step * plan.clips
        seeds = range(first + rank, first + plan.clips, world)
        return [self._moving(seeds, alone)] if seeds else []

    def _scene(self, seed: int, size_px: int) -> Scene:
        return draw_scene(seed, size_px, self._kind(seed))

    def _kind(self, seed: int) -> str | None:
        kinds = self.plan.kinds
        return None if kinds is None else random.Random(seed ^ 0x5CE4E).choices(list(kinds), list(kinds.values()))[0]

    def _seen(self, seeds: Sequence[int]) -> SeenBatch:
        pairs = [self._picture(seed) for seed in seeds]
        pixels = torch.stack([self.processor.pixels(image) for image, _ in pairs])
        return SeenBatch(pixels=pixels, patches=PatchBatch.of([patches for _, patches in pairs]))

    def _picture(self, seed: int) -> tuple[Image.Image, Patches]:
        """A whole scene, or a window of one of twice the size."""
        rng = random.Random(~seed)
        side, grid = self.processor.image_size_px, round(self.processor.num_image_tokens**0.5)
        often = 1.0 if self._kind(seed) in (None, "objects") else self.plan.text_zoomed
        if rng.random() >= self.plan.zoomed * often:
            scene = self._scene(seed, side)
            return scene.image, patch_truth(scene, grid)
        scene = self._scene(seed, ZOOM * side)
        row, column = (rng.randint(0, (ZOOM - 1) * grid) for _ in range(2))
        patch = side // grid
        left, top = column * patch, row * patch
        window = scene.image.crop((left, top, left + side, top + side))
        return window, patch_truth(scene, ZOOM * grid).window(row, column, grid)

    def _packed(self, seeds: Sequence[int], alone: bool) -> SeenAndPacked:
        side, grid = self.processor.image_size_px, round(self.processor.num_image_tokens**0.5)
        scenes = [self._scene(seed, side) for seed in seeds]
        count = self.plan.alone_questions if alone else self.plan.questions
        asked = [self._asks(scene, seed, count) for scene, seed in zip(scenes, seeds, strict=True)]
        rows = pack(self.processor, [scene.image for scene in scenes], [_pairs(asks) for asks in asked], alone=alone)
        patches = PatchBatch.of([patch_truth(scene, grid) for scene in scenes])
        flat = [(scene, ask) for scene, asks in zip(scenes, asked, strict=True) for ask in asks]
        meant = [mentions(scene, ask.names) for scene, ask in flat]
        places = [self._places(ask) for _, ask in flat]
        return SeenAndPacked(**vars(rows), patches=patches, mentions=MentionBatch.of(meant, places))

    def _places(self, ask: Ask) -> list[int]:
        """The token at which each name ends, in the question's row."""
        return [len(self.processor.prompt_ids(ask.prefix[:end])) - 2 for end in name_ends(ask)]  # before the newline

    def _moving(self, seeds: Sequence[int], alone: bool) -> PackedBatch:
        clips = [draw_clip(seed, self.processor.image_size_px) for seed in seeds]
        plan, questions = self.plan, []
        for clip, seed in zip(clips, seeds, strict=True):
            questions.append(_pairs(clip_asks(clip, random.Random(~seed), plan.alone_questions, plan.languages)))
        return pack(self.processor, [clip.frames for clip in clips], questions, alone=alone)

    def _asks(self, scene: Scene, seed: int, count: int) -> list[Ask]:
        plan = self.plan
        spell = None if self.codec is None else partial(mask_tokens, self.codec)
        shares = plan.asked or SHARES[scene_kind(scene)]
        kinds = {kind: share * (plan.oftener or {}).get(kind, 1.0) for kind, share in shares.items()}
        return asks(scene, random.Random(~seed), count, kinds=kinds, languages=plan.languages, mask_tokens=spell)


def _pairs(asks: Sequence[Ask]) -> list[tuple[str, str]]:
    return [(ask.prefix, ask.suffix) for ask in asks]


def mask_tokens(codec: MaskCodec, thing: Thing) -> str:
    """The sixteen `<seg>` tokens of a thing's visible mask, as a user's own mask would get them."""
    side = len(thing.mask)
    top, left, bottom, right = crop_region(thing.box, (side, side))
    with torch.inference_mode():
        codes = codec.encode(squeezed(thing.mask[top:bottom, left:right])[None])[0]
    return "".join(f"<seg{code:03d}>" for code in codes.tolist())
