"""One training example, and what a source of examples is.

    source[index] -> Example -> (augmentation) -> processor.encode -> Batch

An example says what people write in JSONL: pictures, a prefix (the prompt) and a suffix (the answer to be learnt).
Boxes
and masks are spelled in the suffix, as the model will spell them; `tasks` reads and writes them.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from PIL import Image

from paligemma.tasks import task_of
from paligemma.tokenizer import LOCATIONS

Picture = Path | bytes | Image.Image  # a file, an encoded file's bytes, or pixels


@dataclass(frozen=True, kw_only=True)
class Example:
    """What to show, what to ask and what to answer.

    Attributes:
        id: where it comes from, for messages: `train.jsonl:12`, `scenes:1042`.
        images: in the order the model sees them; several are frames or views of one question.
        prefix: without newline. suffix: without eos; "" teaches to say nothing.
        source: name of the source, for figures per source.
    """

    id: str
    images: tuple[Picture, ...]
    prefix: str
    suffix: str
    source: str = ""

    @property
    def allow(self) -> frozenset[str]:
        """Classes of special tokens its texts may spell: locations and masks where the prompt asks for them."""
        return allowed_tokens(self.prefix)


def allowed_tokens(prefix: str) -> frozenset[str]:
    """What `Tokenizer.encode` may read as special tokens in a prefix and its suffix; elsewhere `<loc0001>` is text."""
    boxed = task_of(prefix) in ("detect", "segment") or "<loc" in prefix
    return frozenset({LOCATIONS}) if boxed else frozenset()


class Source(Protocol):
    """Examples by number; the same number always gives the same example.

    Attributes:
        name: for figures and messages.
        fingerprint: changes whenever the examples do; a run is only resumed on the data it began with.
    """

    name: str
    fingerprint: str

    def __len__(self) -> int:
        """Examples in one epoch; `ENDLESS` where they never repeat."""
        ...

    def __getitem__(self, index: int) -> Example: ...


ENDLESS = 2**40
