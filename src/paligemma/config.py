"""Every architecture number of the family, as frozen data.

`Config` joins a `VisionConfig` (SigLIP) and a `TextConfig` (Gemma 1 or 2). The two decoder generations differ by five
fields only: post-norms, the two soft-caps, the sliding window and the query scale. `VARIANTS` lists every published
checkpoint under its hub name. Sources: big_vision `models/vit.py`, `models/ppp/gemma.py`; PaliGemma 2 report, table 1.
"""

import difflib
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from paligemma.errors import UsageError

NUM_LOC_TOKENS = 1024
NUM_SEG_TOKENS = 128
GEMMA_VOCAB_SIZE = 256_000
VOCAB_SIZE = GEMMA_VOCAB_SIZE + NUM_LOC_TOKENS + NUM_SEG_TOKENS  # 257,152 rows in big_vision's files
IMAGE_SLOT = -1  # stands for one image token in a token row: no vocabulary id, so no text can ever become one
HF_PADDING_ROWS = 64  # Hugging Face's files hold 257,216 rows: `<image>` and 63 rows nothing ever produces


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """The SigLIP image encoder: a ViT without class token and without pooling."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    image_size_px: int
    patch_size_px: int = 14
    norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.image_size_px % self.patch_size_px:
            raise UsageError(
                f"an image side of {self.image_size_px} px was given, expected a multiple of the patch side of "
                f"{self.patch_size_px} px; choose one"
            )
        if self.width % self.num_heads:
            raise UsageError(f"vision width {self.width} cannot be split over {self.num_heads} heads")

    @property
    def head_dim(self) -> int:
        return self.width // self.num_heads

    @property
    def grid_size(self) -> int:
        """Patches along one side."""
        return self.image_size_px // self.patch_size_px

    @property
    def num_image_tokens(self) -> int:
        return self.grid_size**2

    @property
    def num_parameters(self) -> int:
        patch = 3 * self.patch_size_px**2 * self.width + self.width
        norms = 2 * 2 * self.width
        attention = 4 * (self.width**2 + self.width)
        mlp = 2 * self.width * self.mlp_dim + self.mlp_dim + self.width
        position = self.num_image_tokens * self.width
        return patch + position + self.depth * (norms + attention + mlp) + 2 * self.width


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The Gemma decoder. Generations differ by data: the last five fields."""

    width: int
    depth: int
    mlp_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int = VOCAB_SIZE
    padding_rows: int = 0  # embedding rows beyond the vocabulary; present in HF files, never sampled
    rope_theta: float = 10_000.0
    max_positions: int = 8192
    norm_eps: float = 1e-6
    post_norms: bool = False
    attn_logit_softcap: float | None = None
    final_logit_softcap: float | None = None
    sliding_window: int | None = None  # in tokens, every other layer from the first; the prefix stays whole
    query_scale_dim: float | None = None  # queries are scaled by this ** -0.5; None means head_dim

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise UsageError(f"{self.num_heads} query heads cannot share {self.num_kv_heads} key-value heads evenly")
        if self.head_dim % 2:
            raise UsageError(f"rotary embeddings need an even head_dim, found {self.head_dim}")

    @property
    def query_scale(self) -> float:
        return (self.query_scale_dim or self.head_dim) ** -0.5

    @property
    def embedding_rows(self) -> int:
        return self.vocab_size + self.padding_rows

    @property
    def num_norms(self) -> int:
        """RMS norms per layer."""
        return 4 if self.post_norms else 2

    def window(self, layer: int) -> int | None:
        """The attention window of one layer in tokens; None sees everything."""
        return self.sliding_window if layer % 2 == 0 else None

    @property
    def num_parameters(self) -> int:
        attention = 2 * self.width * self.head_dim * (self.num_heads + self.num_kv_heads)
        layer = attention + 3 * self.width * self.mlp_dim + self.num_norms * self.width
        return self.embedding_rows * self.width + self.depth * layer + self.width

    @property
    def cache_bytes_per_token(self) -> int:
        """Bytes of key-value cache one token takes in bfloat16."""
        return 2 * self.depth * self.num_kv_heads * self.head_dim * 2


@dataclass(frozen=True, kw_only=True)
class Config:
    """One architecture: image encoder, linear projector, decoder."""

    vision: VisionConfig
    text: TextConfig

    @property
    def num_parameters(self) -> int:
        projector = self.vision.width * self.text.width + self.text.width
        return self.vision.num_parameters + projector + self.text.num_parameters

    def with_padding_rows(self, rows: int = HF_PADDING_ROWS) -> "Config":
        """The same architecture with `rows` extra embedding rows, as Hugging Face's files hold it."""
        return replace(self, text=replace(self.text, padding_rows=rows))

    def at_resolution(self, image_size_px: int) -> "Config":
        return replace(self, vision=replace(self.vision, image_size_px=image_size_px))

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "Config":
        """The inverse of `to_dict`. Unknown keys are a `UsageError`."""
        _refuse_unknown(data, {"vision", "text"}, "config")
        _refuse_unknown(data["vision"], set(VisionConfig.__dataclass_fields__), "config.vision")
        _refuse_unknown(data["text"], set(TextConfig.__dataclass_fields__), "config.text")
        return cls(vision=VisionConfig(**data["vision"]), text=TextConfig(**data["text"]))

    @staticmethod
    def of(name: str) -> "Config":
        """The architecture of a published variant, by hub name with or without `google/`."""
        return variant(name).config


def _refuse_unknown(data: dict[str, Any], known: set[str], where: str) -> None:
    for key in data:
        if key not in known:
            raise UsageError(f"unknown key {key!r} in {where}{did_you_mean(key, known)}")


def did_you_mean(word: str, known: set[str] | list[str] | dict[str, Any]) -> str:
    """`; did you mean 'x'?` when something close exists, otherwise what is known, shortened."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    if close:
        return f"; did you mean {close[0]!r}?"
    names = sorted(known)
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    return f"; known are {shown}"


# --- the four decoders and the one image encoder that were published -----------------------------------------------

GEMMA_2B = TextConfig(width=2048, depth=18, mlp_dim=16_384, num_heads=8, num_kv_heads=1, head_dim=256)
_GEMMA2 = TextConfig(
    width=2304, depth=26, mlp_dim=9216, num_heads=8, num_kv_heads=4, head_dim=256,
    post_norms=True, attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=4096, query_scale_dim=256.0,
)  # fmt: skip
GEMMA2_2B = _GEMMA2
GEMMA2_9B = replace(_GEMMA2, width=3584, depth=42, mlp_dim=14_336, num_heads=16, num_kv_heads=8)
GEMMA2_27B = replace(
    _GEMMA2, width=4608, depth=46, mlp_dim=36_864, num_heads=32, num_kv_heads=16, head_dim=128, query_scale_dim=144.0
)


def so400m(image_size_px: int) -> VisionConfig:
    """SigLIP So400m/14 at one of its three resolutions."""
    return VisionConfig(width=1152, depth=27, mlp_dim=4304, num_heads=16, image_size_px=image_size_px)


# --- what was published ----------------------------------------------------------------------------------------------

PT_TASKS = ("caption", "ask", "ocr", "detect", "segment")
ALL_TASKS = (*PT_TASKS, "generate")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One published checkpoint: its architecture and what its weights were trained for."""

    name: str
    config: Config
    family: str
    size: str
    kind: str  # pt: base for fine-tuning; mix: direct prompting; ft: one task; nano: ours
    task: str | None = None  # of an ft checkpoint
    tasks: tuple[str, ...] = field(default=PT_TASKS)  # verbs this checkpoint knows
    text_length: int | None = None  # longest text it was trained with, in tokens, where published
    licence: str = "gemma"

    @property
    def hub_id(self) -> str | None:
        return None if self.kind == "nano" else f"google/{self.name}"

    @property
    def parameters(self) -> int:
        """With the 257,152 rows of the vocabulary."""
        return self.config.num_parameters

    @property
    def parameters_padded(self) -> int:
        """With the 64 padding rows of Hugging Face's files: 257,216 in all for the published ones."""
        return self.config.with_padding_rows().num_parameters


def _v1(px: int, kind: str, task: str | None = None, **more: Any) -> Variant:
    name = "-".join(filter(None, ("paligemma-3b", kind, task, str(px))))
    config = Config(vision=so400m(px), text=GEMMA_2B)
    return Variant(name=name, config=config, family="PaliGemma", size="3B", kind=kind, task=task, **more)


def _v2(size: str, px: int, kind: str, task: str | None = None, **more: Any) -> Variant:
    text = {"3b": GEMMA2_2B, "10b": GEMMA2_9B, "28b": GEMMA2_27B}[size]
    name = "-".join(filter(None, (f"paligemma2-{size}", kind, task, str(px))))
    config = Config(vision=so400m(px), text=text)
    return Variant(name=name, config=config, family="PaliGemma 2", size=size.upper(), kind=kind, task=task, **more)


# Task of each single-task PaliGemma 1 checkpoint: the verb it answers to and its resolutions in px.
_FT_V1: dict[str, tuple[str, tuple[int, ...]]] = {
    "ai2d": ("ask", (224, 448)),
    "aokvqa-da": ("ask", (224, 448)),
    "aokvqa-mc": ("ask", (224, 448)),
    "chartqa": ("ask", (224, 448)),
    "coco35l": ("caption", (224, 448)),
    "cococap": ("caption", (224, 448)),
    "docvqa": ("ask", (224, 448, 896)),
    "gqa": ("ask", (224, 448)),
    "infovqa": ("ask", (224, 448, 896)),
    "nlvr2": ("ask", (224, 448)),
    "ocrvqa": ("ask", (224, 448, 896)),
    "okvqa": ("ask", (224, 448)),
    "refcoco-seg": ("segment", (224, 448, 896)),
    "rsvqa-hr": ("ask", (224, 448)),
    "rsvqa-lr": ("ask", (224, 448)),
    "science-qa": ("ask", (224, 448)),
    "scicap": ("caption", (224, 448)),
    "screen2words": ("caption", (224, 448)),
    "stvqa": ("ask", (224, 448, 896)),
    "tallyqa": ("ask", (224, 448)),
    "textcaps": ("caption", (224, 448)),
    "textvqa": ("ask", (224, 448, 896)),
    "vizwizvqa": ("ask", (224, 448)),
    "vqav2": ("ask", (224, 448)),
    "widgetcap": ("caption", (224, 448)),
}


def nano(image_size_px: int) -> Config:
    """Our own small model of the drawn world: Gemma 2's blocks without the cap on attention, which SDPA cannot do."""
    return Config(
        vision=VisionConfig(width=192, depth=6, mlp_dim=768, num_heads=6, image_size_px=image_size_px),
        text=TextConfig(
            width=192, depth=6, mlp_dim=768, num_heads=6, num_kv_heads=2, head_dim=32, vocab_size=3200,
            post_norms=True, final_logit_softcap=30.0, sliding_window=4096,
        ),
    )  # fmt: skip


def _nano(kind: str, px: int) -> Variant:
    return Variant(
        name=f"nano-{kind}-{px}",
        config=nano(px),
        family="PaliGemma 2",
        size="nano",
        kind="nano",
        text_length=256,
        licence="apache-2.0",
    )


_ALL: list[Variant] = [
    _nano("pt", 112),
    _nano("pt", 224),
    _nano("mix", 224),
    _v1(224, "pt", text_length=128),
    _v1(448, "pt", text_length=512),
    _v1(896, "pt", text_length=512),
    _v1(224, "mix", text_length=256, tasks=ALL_TASKS),
    _v1(448, "mix", text_length=512, tasks=ALL_TASKS),
    *(_v1(px, "ft", task, tasks=(verb,)) for task, (verb, sizes) in _FT_V1.items() for px in sizes),
    _v2("3b", 224, "pt", text_length=128),
    _v2("3b", 448, "pt", text_length=512),
    _v2("3b", 896, "pt", text_length=512),
    _v2("10b", 224, "pt", text_length=128),
    _v2("10b", 448, "pt", text_length=512),
    _v2("10b", 896, "pt", text_length=512),
    _v2("28b", 224, "pt", text_length=128),
    _v2("28b", 448, "pt", text_length=512),
    _v2("28b", 896, "pt", text_length=512),
    _v2("3b", 448, "ft", "docci", tasks=("caption",)),
    _v2("10b", 448, "ft", "docci", tasks=("caption",)),
    _v2("3b", 224, "mix", tasks=ALL_TASKS),
    _v2("3b", 448, "mix", tasks=ALL_TASKS),
    _v2("10b", 224, "mix", tasks=ALL_TASKS),
    _v2("10b", 448, "mix", tasks=ALL_TASKS),
    _v2("28b", 224, "mix", tasks=ALL_TASKS),
    _v2("28b", 448, "mix", tasks=ALL_TASKS),
]  # fmt: skip
VARIANTS: dict[str, Variant] = {v.name: v for v in _ALL}
ALIASES = {"nano": "nano-mix-224"}  # the model that answers when none is named


def find_variant(name: str) -> Variant | None:
    """The published checkpoint of a hub name, with or without `google/`, or of an alias; None where there is none."""
    short = name.removeprefix("google/")
    return VARIANTS.get(ALIASES.get(short, short))


def variant(name: str) -> Variant:
    """Looks a variant up by hub name, with or without `google/`.

    Raises:
        UsageError: unknown name; the sentence suggests the nearest one.
    """
    found = find_variant(name)
    if found is None:
        near = did_you_mean(name.removeprefix("google/"), [*ALIASES, *VARIANTS])
        raise UsageError(f"unknown model {name!r}{near} (`paligemma list` shows all)")
    return found
