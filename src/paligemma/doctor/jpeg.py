"""A JPEG file as TensorFlow decodes it, for comparing with big_vision's arrays.

Comes in: the bytes of a JPEG. Goes out: uint8[H, W, 3]. TensorFlow's `decode_image` takes libjpeg's fast integer DCT
and its smooth ("fancy") chroma upsampling; Pillow takes the accurate DCT, or, in draft mode, the fast one with chroma
repeated instead of smoothed. Up to 7 grey levels lie between the two. So the planes come from Pillow in draft mode, and
the smoothing and the colour conversion are done here. Not used for answering: nobody sees that difference.

Source: libjpeg's documented arithmetic (triangle filter of 3/4 and 1/4; JFIF's YCbCr matrix in 16-bit fixed point).
"""

import io

import numpy as np
from PIL import Image, JpegImagePlugin

_FAST_DCT = (1, 1)  # scale, draft
_FIXED = 1 << 16


def decode_as_tensorflow(data: bytes) -> np.ndarray:
    """uint8[H, W, 3] of a JPEG file's bytes, not turned by EXIF; grey and CMYK files become RGB as Pillow does it."""
    image = Image.open(io.BytesIO(data), formats=["JPEG"])
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    image.draft("YCbCr", image.size)
    image.decoderconfig = _FAST_DCT
    image.load()
    if image.mode != "YCbCr":
        return np.array(image.convert("RGB"))
    planes = np.array(image).astype(np.int32)
    factors = [(component[1], component[2]) for component in image.layer]  # horizontal, vertical
    widest, tallest = max(h for h, _ in factors), max(v for _, v in factors)
    full = [_smooth(planes[..., i], widest // h, tallest // v) for i, (h, v) in enumerate(factors)]
    return _to_rgb(*full)


def _smooth(repeated: np.ndarray, across: int, down: int) -> np.ndarray:
    """int[H, W] with each sample repeated `across` x `down` times -> the same plane, interpolated as libjpeg does.

    libjpeg smooths 2 x 1, 2 x 2 and 1 x 2, and only planes wider than two samples; everything else stays repeated.
    """
    height, width = repeated.shape
    samples = repeated[::down, ::across]
    if (across, down) not in ((2, 1), (2, 2), (1, 2)) or (across == 2 and samples.shape[1] <= 2):
        return repeated
    if (across, down) == (2, 1):
        out = _interleave(samples, 1, (1, 2), 2)
        out[:, 0], out[:, 2 * samples.shape[1] - 1] = samples[:, 0], samples[:, -1]
    elif (across, down) == (1, 2):
        out = _interleave(samples, 0, (1, 2), 2)
    else:
        out = _interleave(_interleave(samples, 0, (0, 0), 0), 1, (8, 7), 4)
    return out[:height, :width]


def _interleave(samples: np.ndarray, axis: int, bias: tuple[int, int], shift: int) -> np.ndarray:
    """Twice as many samples along `axis`: each 3/4 of the nearer and 1/4 of the further one, the edge repeated."""
    size = samples.shape[axis]
    before = samples.take(np.maximum(np.arange(size) - 1, 0), axis)
    after = samples.take(np.minimum(np.arange(size) + 1, size - 1), axis)
    pair = ((3 * samples + before + bias[0]) >> shift, (3 * samples + after + bias[1]) >> shift)
    shape = list(samples.shape)
    shape[axis] *= 2
    return np.stack(pair, axis + 1).reshape(shape)


def _to_rgb(luma: np.ndarray, blue: np.ndarray, red: np.ndarray) -> np.ndarray:
    blue, red = blue - 128, red - 128
    half = _FIXED // 2
    r = luma + ((_fix(1.402) * red + half) >> 16)
    g = luma + ((-_fix(0.34414) * blue - _fix(0.71414) * red + half) >> 16)
    b = luma + ((_fix(1.772) * blue + half) >> 16)
    return np.stack([r, g, b], axis=-1).clip(0, 255).astype(np.uint8)


def _fix(factor: float) -> int:
    return int(factor * _FIXED + 0.5)
