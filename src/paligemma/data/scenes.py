"""The drawn world -> examples without end: each index is a picture nobody has seen, and one question about it.

Training, validation and test draw from seeds that never meet. Masks are asked for only where a codec can spell them.
Not done here: what is drawn (`scenes.world`) and what is asked (`scenes.language`).
"""

import hashlib
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

from paligemma.config import did_you_mean
from paligemma.data.example import ENDLESS, Example
from paligemma.data.order import key_of
from paligemma.errors import UsageError
from paligemma.scenes import VERSION, Scene, Thing
from paligemma.scenes.language import LANGUAGE_SHARES, SHARES, Ask, asks, scene_kind
from paligemma.scenes.world import draw_scene

if TYPE_CHECKING:
    from paligemma.model.mask_codec import MaskCodec

STARTS = {"train": 0, "validation": 2 * ENDLESS, "test": 4 * ENDLESS}  # first seed of each split
KINDS = ("objects", "text", "chart", "table", "hand")
_TRIES = 100  # scenes drawn until one can be asked what is wanted


class SceneSource:
    """One question about the scene of each seed from `start` on.

    Args:
        start: seed of index 0; `STARTS` keeps splits apart.
        kind: of scenes, one of `KINDS`; None draws all in their shares.
        languages: of questions and answers; None for all in their shares.
        asks: kinds of questions, of those of `scenes.language`; None for all in their shares.
        codec: spells masks; without it none are asked for.
        side_px: of the pictures.

    Raises:
        UsageError: an unknown kind, question or language.
    """

    def __init__(
        self, *, start: int = 0, kind: str | None = None, languages: Sequence[str] | None = None,
        asks: Sequence[str] | None = None, codec: "MaskCodec | None" = None, side_px: int = 224, name: str = "scenes",
    ):  # fmt: skip
        _check([] if kind is None else [kind], KINDS, "kind of scenes")
        _check(languages or (), tuple(LANGUAGE_SHARES), "language of scenes")
        _check(asks or (), sorted({ask for shares in SHARES.values() for ask in shares}), "kind of question")
        if asks is not None and set(asks) == {"segment"} and codec is None:
            raise UsageError(
                "the scenes are to be asked for masks, but the model has no mask codec; ask something else"
            )
        self.name, self._start, self._kind, self._side_px = name, start, kind, side_px
        self._languages = None if languages is None else {code: LANGUAGE_SHARES[code] for code in languages}
        self._asks, self._codec = None if asks is None else frozenset(asks), codec
        facts = (VERSION, start, kind, self._languages, sorted(asks or ()), codec is not None, side_px)
        self.fingerprint = hashlib.sha256(repr(facts).encode()).hexdigest()

    def __len__(self) -> int:
        return ENDLESS

    def __getitem__(self, index: int) -> Example:
        seed = self._start + index
        for again in range(_TRIES):
            scene = draw_scene(seed, self._side_px, self._kind)
            ask = self._ask(scene, random.Random(key_of("ask", seed)))
            if ask is not None:
                return Example(
                    id=f"scenes:{seed}", images=(scene.image,), prefix=ask.prefix, suffix=ask.suffix, source=self.name
                )
            seed = self._start + key_of("again", self._start, index, again) % ENDLESS
        wanted = ", ".join(sorted(self._asks or ()))
        raise UsageError(f"no scene of kind {self._kind} can be asked for {wanted}; choose others")

    def shares_seeds(self, other: "SceneSource") -> bool:
        """Whether both will ever draw from the same seed."""
        return abs(self._start - other._start) < ENDLESS

    def _ask(self, scene: Scene, rng: random.Random) -> Ask | None:
        """A question about a scene; None where what is wanted cannot be asked of it."""
        kinds = SHARES[scene_kind(scene)]
        if self._asks is not None:
            kinds = {kind: share for kind, share in kinds.items() if kind in self._asks}
        tokens = None if self._codec is None else self._mask_tokens
        if not set(kinds) - ({"segment"} if tokens is None else set()):
            return None
        found = asks(scene, rng, 1, kinds=kinds, languages=self._languages, mask_tokens=tokens)
        return found[0] if found else None

    def _mask_tokens(self, thing: Thing) -> str:
        """The sixteen mask tokens of what can be seen of a thing, within its box."""
        from paligemma.tasks.masks import encode_masks

        assert self._codec is not None
        codes = encode_masks(self._codec, [thing.mask], boxes_yxyx_norm=[thing.box])[0].mask_codes or ()
        return "".join(f"<seg{code:03d}>" for code in codes)


def _check(words: Sequence[str], known: Sequence[str], what: str) -> None:
    for word in words:
        if word not in known:
            raise UsageError(f"unknown {what} {word!r}{did_you_mean(word, list(known))}")
