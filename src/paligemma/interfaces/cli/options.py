"""Options that several commands share.

Values are checked here as far as that is possible without a model; what is left belongs to `api`. What the arguments
themselves mean is in `sources`, where answers go in `formats` and `saving`.
"""

import re
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

from cyclopts import Group, Parameter

from paligemma.errors import UsageError

STDIN = "\ue000-"  # how `main` hands a lone `-` on; no keyboard makes this character

_SOURCE = Group("Source", sort_key=1)
_MODEL = Group("Model", sort_key=2)
_ANSWER = Group("Answer", sort_key=3)
_BOXES = Group("Boxes", sort_key=4)
_OUTPUT = Group("Output", sort_key=5)

_ROWS_BY_COLUMNS = re.compile(r"[1-9]\d?[xX][1-9]\d?")
Images = Annotated[list[str], Parameter(name="IMAGES", negative=())]
Flag = Annotated[bool, Parameter(negative=(), show_default=False)]
Json = Annotated[bool, Parameter(group=_OUTPUT, negative=(), show_default=False)]
Format = Literal["table", "json", "jsonl", "csv", "coco", "yolo", "labelstudio", "pipeline"]


@Parameter(name="*", group=_SOURCE)
@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """Which pictures the arguments stand for."""

    recursive: Annotated[Flag, Parameter(alias="-r")] = False
    """Pictures in the folders below a folder too."""
    stride: int | None = None
    """Of a video every so many-th frame; by default one frame per second."""
    fps: float | None = None
    """Of a video so many frames per second of playing time."""
    frames: int | None = None
    """Of a video so many frames, evenly spread."""
    clip: Flag = False
    """The frames of a video are one example and get one answer; by default 16 of them."""
    allow_url: Flag = False
    """Download pictures that are named as http:// or https:// addresses; never from private networks."""

    def __post_init__(self) -> None:
        at_least("--stride", self.stride, 1)
        at_least("--frames", self.frames, 1)
        if self.fps is not None and not 0 < self.fps < float("inf"):
            raise UsageError(f"--fps {self.fps} is out of range; give a number above 0")
        if sum(value is not None for value in (self.stride, self.fps, self.frames)) > 1:
            raise UsageError("--stride, --fps and --frames each choose the frames of a video; give one of them")

    @property
    def wants_frames(self) -> bool:
        """Whether anything is said about videos: then animations, and videos in folders, count as such."""
        return self.clip or any(value is not None for value in (self.stride, self.fps, self.frames))


@Parameter(name="*", group=_MODEL)
@dataclass(frozen=True, kw_only=True)
class ModelOptions:
    """Which model answers, and where it runs."""

    model: str = "nano"
    """Bundled model, directory, .npz file, or hub name that `paligemma pull` fetched."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number type to compute in; auto takes that of the file, where it is safe."""
    revision: str | None = None
    """Of a hub name; default main."""
    tokenizer: str | None = None
    """Model, file or directory that has the tokenizer, for models that come without."""
    calibration: str | None = None
    """File of `paligemma calibrate`; by default calibration.json beside the model."""
    adapter: str | None = None
    """Directory of a LoRA in PEFT's format to answer with, trained on this model."""
    any_base: Flag = False
    """Accept an adapter that was trained on another model."""
    quantize: str | None = None
    """Keep matrices in fewer bits: int8, int4, nf4, fp8, or by part as in lm=int4,head=int8 (vision, lm, head)."""
    invariant: Flag = False
    """An answer has the same bits whoever is answered beside it; about half as fast."""
    parallel: Literal["tensor"] | None = None
    """Share the decoder among the processes that torchrun started; the first one prints."""
    offload: int | Literal["auto"] | None = None
    """On a card that is too small: so many decoder layers, or as many as must, wait in the host's memory."""

    def in_one_process(self, what: str) -> None:
        """
        Raises:
            UsageError: several processes would each do `what`.
        """
        if self.parallel is not None:
            raise UsageError(f"--parallel {self.parallel} only prints answers and cannot {what}; leave one out")


@Parameter(name="*", group=_ANSWER)
@dataclass(frozen=True, kw_only=True)
class AnswerOptions:
    """How the answer's tokens are chosen."""

    max_tokens: int | None = None
    """Longest answer in tokens; by default as the task needs."""
    temperature: float = 0.0
    """0 takes the likeliest token; above 0 draws one."""
    top_k: int | None = None
    """Draw among this many likeliest tokens."""
    top_p: float | None = None
    """Draw among the likeliest tokens that hold this share of the probability."""
    seed: int | None = None
    """Makes drawing repeatable; by default another one each time."""
    num_beams: int = 1
    """Beam search over this many answers."""
    stop_repeats: int | None = None
    """End an answer that runs in circles after so many rounds; by default 16, 0 for never."""
    batch_size: int = 8
    """Pictures answered together."""

    def __post_init__(self) -> None:
        at_least("--max-tokens", self.max_tokens, 1)
        at_least("--top-k", self.top_k, 1)
        at_least("--num-beams", self.num_beams, 1)
        if self.stop_repeats:
            at_least("--stop-repeats", self.stop_repeats, 2)
        at_least("--batch-size", self.batch_size, 1)
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"--temperature {self.temperature} is out of range; give 0 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError(f"--top-p {self.top_p} is out of range; give a number above 0, at most 1")
        if self.num_beams > 1 and self.temperature:
            raise UsageError("--num-beams searches and --temperature draws; give one of them")
        if not self.temperature and (self.top_k or self.top_p):
            raise UsageError("--top-k and --top-p change only how tokens are drawn; give --temperature as well")

    def of_api(self) -> dict[str, object]:
        """The keywords of `api` that these options are."""
        given = {key: value for key, value in asdict(self).items() if key not in ("batch_size", "stop_repeats")}
        return given if self.stop_repeats is None else {**given, "stop_repeats": self.stop_repeats or None}


@Parameter(name="*", group=_BOXES)
@dataclass(frozen=True, kw_only=True)
class BoxChoices:
    """Which boxes are found and kept."""

    conf: float = 0.0
    """Leave out boxes with a lower score, 0 to 1."""
    max_objects: int | None = None
    """Stop after so many boxes."""
    tiles: str | None = None
    """Look through overlapping windows, for small objects: auto, or rows x columns such as 2x3."""
    no_grammar: Flag = False
    """Let the model write anything, also what is no box."""
    any_label: Flag = False
    """Allow other labels than those asked for, for fine-tuned models with names of their own."""
    duplicates: Flag = False
    """Allow a box that repeats an earlier one of its label."""

    def __post_init__(self) -> None:
        at_least("--max-objects", self.max_objects, 1)
        if self.tiles is not None and self.tiles != "auto" and not _ROWS_BY_COLUMNS.fullmatch(self.tiles):
            raise UsageError(f"--tiles {self.tiles} cannot be read; give auto, or rows x columns such as 2x3")
        if not 0 <= self.conf <= 1:
            raise UsageError(f"--conf {self.conf} is out of range; give a score from 0 to 1")

    def of_api(self) -> dict[str, object]:
        """The keywords of `api` that these options are, those left at their defaults apart: texts know none of them."""
        given: dict[str, object] = {"conf": self.conf} if self.conf else {}
        if self.max_objects is not None:
            given["max_objects"] = self.max_objects
        if self.tiles is not None:
            given["tiles"] = True if self.tiles == "auto" else tuple(int(n) for n in self.tiles.lower().split("x"))
        given |= {"any_label": True} if self.any_label else {}
        given |= {"duplicates": True} if self.duplicates else {}
        return given | ({"grammar": False} if self.no_grammar else {})


@Parameter(name="*", group=_BOXES)
@dataclass(frozen=True, kw_only=True)
class BoxOptions(BoxChoices):
    """Which boxes are kept, and what is cut out along them."""

    save_crops: str | None = None
    """Directory for the cut-out boxes, one picture each."""
    save_mask: str | None = None
    """Directory for the masks, one black-and-white picture per box."""


@Parameter(name="*", group=_OUTPUT)
@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Where the answers go."""

    save: str | None = None
    """Picture with the answer drawn in: a file, or a directory (for several images)."""
    format: Format | None = None
    """How answers are written; table unless --out ends in .json, .jsonl or .csv."""
    out: str | None = None
    """File (for yolo a directory) that takes the answers instead of stdout."""
    json: Flag = False
    """Short for --format json: one JSON object and nothing else; for several images with a list `results`."""
    jsonl: Flag = False
    """Short for --format jsonl: one JSON object per image and line, as soon as it is answered."""
    raw: Flag = False
    """Print exactly what the model wrote, location tokens and all."""
    quiet: Annotated[Flag, Parameter(alias="-q")] = False
    """Nothing on stderr but errors."""
    verbose: Annotated[Flag, Parameter(alias="-v")] = False
    """Tell times, tokens, scores and every warning in full on stderr."""

    def __post_init__(self) -> None:
        chosen = [f"--format {self.format}"] * (self.format is not None) + ["--json"] * self.json
        chosen += ["--jsonl"] * self.jsonl + ["--raw"] * self.raw
        if len(chosen) > 1:
            raise UsageError(f"{' and '.join(chosen)} each say how answers are written; give one of them")
        if self.quiet and self.verbose:
            raise UsageError("--quiet and --verbose contradict each other; give one of them")
        if self.format == "yolo" and not self.out:
            raise UsageError("--format yolo writes a file per picture; name their directory with --out labels/")

    @property
    def kind(self) -> str:
        """The format that holds: a key of `formats.FORMATS`, or "raw"."""
        if self.raw or self.json or self.jsonl or self.format:
            return "raw" if self.raw else "json" if self.json else "jsonl" if self.jsonl else str(self.format)
        _, dot, suffix = (self.out or "").lower().rpartition(".")
        return suffix if dot and suffix in ("json", "jsonl", "csv") else "table"


def at_least(option: str, value: int | None, least: int) -> None:
    if value is not None and value < least:
        raise UsageError(f"{option} {value} is too small; give at least {least}")
