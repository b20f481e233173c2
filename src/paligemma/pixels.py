"""An RGB image -> float32[3, S, S] in [-1, 1], squashed to a square by one of the named resizers in `RESIZES`.

The references resize differently, and their answers move a little with it, so each way has a name:

    bicubic                   Hugging Face, PIL backend: antialias, rounds to 8 bits after each axis. Our default
    bicubic-torch             Hugging Face, torchvision backend: the same filter in torch's 8-bit kernel
    bicubic-truncated         big_vision `resize(S, "bicubic", antialias=True)`
    bilinear-antialias        big_vision `resize(S, antialias=True)`: VQA, documents, counting
    bilinear                  big_vision `resize(S)`: captions, GQA, NLVR2, RefCOCO; no antialias
    bilinear-antialias-float  the fine-tuning notebook: no 8-bit step
    bilinear-float            big_vision's frames of videos: no antialias, no 8-bit step

The aspect ratio is not kept, as in both references. Sources: big_vision `pp/ops_image.py`,
`pp/proj/paligemma/video.py`; transformers `SiglipImageProcessor`. `doctor/images.py` compares each with their arrays.
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from paligemma.config import did_you_mean
from paligemma.errors import UsageError

DEFAULT_RESIZE = "bicubic"
# tf.cast truncates. Float32 sums of a flat 255 end a hair below it, and would lose a whole level; this is above the
# rounding error (about 3e-5) and far below what changes a picture.
TRUNCATION_SLACK = 1e-4


def to_pixels(image: Image.Image, size_px: int, resize: str = DEFAULT_RESIZE) -> Tensor:
    """The model's view of one RGB image: float32[3, S, S] in [-1, 1], S = `size_px`.

    Args:
        image: mode RGB, from `images.open_image`.
        resize: a name in `RESIZES`.

    Raises:
        UsageError: unknown resizer, another mode, or a size below 1.
    """
    if resize not in RESIZES:
        raise UsageError(f"unknown resize {resize!r}{did_you_mean(resize, RESIZES)}")
    if image.mode != "RGB":
        raise UsageError(f"found an image of mode {image.mode}, expected RGB; pass it through images.open_image first")
    if size_px < 1:
        raise UsageError(f"found a size of {size_px} px, expected at least 1")
    levels = RESIZES[resize](np.array(image), size_px)
    return levels.movedim(-1, 0).contiguous() / 127.5 - 1.0


def _pil_bicubic(array: np.ndarray, size_px: int) -> Tensor:
    """Pillow's, height first where Pillow 13 begins with it: each axis rounds, and Pillow 12 begins with the width."""
    height, width = array.shape[:2]
    image = Image.fromarray(array)
    if height > size_px and 2 * width < height + size_px:
        image = image.resize((width, size_px), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image.resize((size_px, size_px), Image.Resampling.BICUBIC))).float()


def _torch_bicubic(array: np.ndarray, size_px: int) -> Tensor:
    planes = torch.from_numpy(array).movedim(-1, 0)[None]
    resized = F.interpolate(planes, size=(size_px, size_px), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].movedim(0, -1).float()


def resize_float(array: np.ndarray, size_px: int, mode: str, antialias: bool) -> Tensor:
    """float32[S, S, C] of an array [H, W, C], half-pixel centres: `tf.image.resize` up to float rounding.

    With antialias, torch's bicubic is the Keys kernel with a = -0.5, as TensorFlow's; without it, it is not (-0.75).
    """
    assert antialias or mode == "bilinear"
    planes = torch.from_numpy(array.astype(np.float32)).movedim(-1, 0)[None]
    resized = F.interpolate(planes, size=(size_px, size_px), mode=mode, antialias=antialias, align_corners=False)
    return resized[0].movedim(0, -1)


def _float(mode: str, antialias: bool) -> Callable[[np.ndarray, int], Tensor]:
    return lambda array, size_px: resize_float(array, size_px, mode, antialias)


def _truncated(mode: str, antialias: bool) -> Callable[[np.ndarray, int], Tensor]:
    def resizer(array: np.ndarray, size_px: int) -> Tensor:
        return (resize_float(array, size_px, mode, antialias) + TRUNCATION_SLACK).floor().clamp(0, 255)

    return resizer


# Each takes uint8[H, W, 3] and S, and gives float32[S, S, 3] in grey levels 0..255.
RESIZES: dict[str, Callable[[np.ndarray, int], Tensor]] = {
    "bicubic": _pil_bicubic,
    "bicubic-torch": _torch_bicubic,
    "bicubic-truncated": _truncated("bicubic", antialias=True),
    "bilinear-antialias": _truncated("bilinear", antialias=True),
    "bilinear": _truncated("bilinear", antialias=False),
    "bilinear-antialias-float": _float("bilinear", antialias=True),
    "bilinear-float": _float("bilinear", antialias=False),
}
