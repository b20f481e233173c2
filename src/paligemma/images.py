"""Anything that holds a picture -> one upright RGB image; a video or an animation -> a list of them.

Comes in: a path, bytes, a binary file, a PIL image or a uint8 array. Goes out: a PIL image, RGB, without metadata.
Whatever cannot be used is an `InputError` of one sentence. The size is checked in the header, before anything is
decoded, and only the parsers of `FORMATS` are ever entered. Not done here: resizing (`pixels.py`), fetching URLs,
colour profiles (ignored, as both reference implementations do).

Our rules: upright by EXIF, transparency shown on white, 16 bits scaled to 8. The references differ in each of them
(big_vision and plain `PIL.Image.open` keep the sensor's orientation, big_vision drops alpha, Pillow clips 16 bits);
the arguments `exif`, `alpha` and `depth` give their pictures, and `doctor/images.py` compares with them.
"""

import io
import math
import os
import stat
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, BinaryIO, Literal, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from paligemma.errors import InputError, PaliGemmaError, ResourceError, UnavailableError, UsageError

Source = str | os.PathLike[str] | bytes | BinaryIO | Image.Image | np.ndarray

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
MAX_PIXELS = 50_000_000
MAX_BYTES = 512 * 2**20  # of an image file; a 50 MP TIFF of 16 bits and four channels needs 400 MB
ALPHA_RULES = ("white", "drop")
DEPTH_RULES = ("scale", "clip")
VIDEO_CONTAINERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf"  # none that opens other files

HEAD_BYTES = 64  # of a file that say what it is
EXPECTED = "expected JPEG, PNG, WebP, BMP, GIF, TIFF or PPM"
UNNAMED = "the image"
ORIENTATION_TAG = 0x0112
UPRIGHT = {  # EXIF orientation -> what makes it 1
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIGNATURES = (  # offset, bytes, what a file that begins so is
    (0, b"\xff\xd8\xff", "JPEG"),
    (0, b"\x89PNG\r\n\x1a\n", "PNG"),
    (8, b"WEBP", "WebP"),
    (0, b"GIF8", "GIF"),
    (0, b"II*\0", "TIFF"),
    (0, b"MM\0*", "TIFF"),
    (0, b"BM", "BMP"),
    *((0, b"P%d" % n, "PPM") for n in range(1, 7)),
    (0, b"%PDF", "a PDF document"),
    (0, b"PK\3\4", "a zip archive"),
    (0, b"\x7fELF", "a program"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\0\x0cjP  ", "a JPEG 2000 image"),
    (4, b"ftypavi", "an AVIF image"),
    (4, b"ftyphei", "a HEIC image"),
    (4, b"ftypmif1", "a HEIF image"),
    (4, b"ftyp", "a video"),
    (0, b"\x1aE\xdf\xa3", "a video"),
    (8, b"AVI ", "a video"),
    (0, b"<svg", "an SVG drawing"),
    (0, b"<?xml", "an XML document"),
    (0, b"<html", "an HTML page"),
    (0, b"<!doctype html", "an HTML page"),
)
READABLE = ("JPEG", "PNG", "WebP", "GIF", "TIFF", "BMP", "PPM")  # their names in SIGNATURES


def open_image(
    source: Source, *, max_pixels: int = MAX_PIXELS, exif: bool = True, alpha: str = "white", depth: str = "scale"
) -> Image.Image:
    """One upright RGB image without metadata; the source is left as it was.

    Of an animation or a file of several pages the first picture is taken, with a warning; `read_frames` takes more.

    Args:
        source: path of a regular file, its bytes, a binary file, a PIL image, or uint8[H, W], [H, W, 3], [H, W, 4].
        max_pixels: limit of width x height, checked before decoding.
        exif: turn the picture as its EXIF orientation says (TIFF is always turned: Pillow does it while reading).
        alpha: "white" shows transparent parts on white; "drop" shows the colours stored below them.
        depth: "scale" keeps the upper 8 of 16 bits, reads 32-bit integers as 8 bits if they are 0..255, else as 16, and
            floats as 0..1 if they are, else as 0..255; "clip" cuts everything at 255, as Pillow's convert does.

    Raises:
        InputError: missing, not a regular file, too large, another format, damaged, or an unusable array.
        UsageError: a source of another type, or an unknown rule.
    """
    if alpha not in ALPHA_RULES or depth not in DEPTH_RULES:
        raise UsageError(f"unknown rule alpha={alpha!r}, depth={depth!r}; use one of {ALPHA_RULES} and {DEPTH_RULES}")
    if isinstance(source, np.ndarray):
        return _flatten(_from_array(source, max_pixels), alpha)
    if isinstance(source, Image.Image):
        _check_size(UNNAMED, source.size, max_pixels)
        return _to_rgb(source, UNNAMED, exif=exif, alpha=alpha, depth=depth)
    name, data = _read(source)
    image = _identify(name, data, max_pixels)
    upright = _to_rgb(image, name, exif=exif, alpha=alpha, depth=depth)
    if _has_more_frames(image):
        warnings.warn(f"{name} has more than one frame; only the first one is used", stacklevel=2)
    return upright


def read_frames(
    path: str | os.PathLike[str], *, frames: int = 16, stride: int | None = None, max_pixels: int = MAX_PIXELS
) -> list[Image.Image]:
    """Exactly `frames` upright RGB images of a video, or of an animated GIF, WebP, PNG or TIFF, in order of time.

    A clip that gives fewer is repeated from its start until there are enough, as big_vision's `video_replicate_img`
    does. The clip is decoded up to the last frame wanted, so a film takes its time.

    Args:
        stride: take every `stride`-th source frame from the first; None takes the middles of `frames` equal parts.
        max_pixels: limit of width x height of one frame.

    Raises:
        InputError: missing, no video, damaged, too large, or without a frame.
        UnavailableError: it is a video and the `av` package is not installed.
    """
    if frames < 1 or (stride is not None and stride < 1):
        raise UsageError(f"found frames={frames}, stride={stride}; both must be at least 1")
    chosen: dict[str, Any] = {"frames": frames} if stride is None else {"stride": stride}
    picked = [frame.image for frame in islice(each_frame(path, **chosen, max_pixels=max_pixels), frames)]
    return [picked[i % len(picked)] for i in range(frames)]


class Frame(NamedTuple):
    """One frame: its number from 0, its time in seconds after the first, and the picture."""

    number: int
    time_s: float
    image: Image.Image


def each_frame(
    path: str | os.PathLike[str],
    *,
    stride: int | None = None,
    fps: float | None = None,
    frames: int | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[Frame]:
    """The frames of a video or animation as upright RGB images, each decoded when it is asked for, none kept.

    Args:
        stride: every `stride`-th frame from the first. At most one of these three; without any, every frame comes.
        fps: so many per second of playing time, or all where there are fewer.
        frames: the middles of so many equal parts, or all where there are fewer.

    Raises:
        InputError: missing, no video, damaged, too large, or without a frame.
        UnavailableError: it is a video and the `av` package is not installed.
    """
    given = [value for value in (stride, fps, frames) if value is not None]
    if len(given) > 1 or not all(0 < value < math.inf for value in given):
        raise UsageError(f"found stride={stride}, fps={fps}, frames={frames}; give one of them, above 0")
    name, nothing = _shown(path), True
    with _open_regular(path) as file:
        is_video = _kind(file.read(HEAD_BYTES)) not in READABLE
        file.seek(0)
        walk = _walk_video if is_video else _walk_animation
        for i, time_s, image in _chosen(walk(file, name, frames, max_pixels), stride or 1, fps):
            nothing = False
            yield Frame(i, time_s, image())
    if nothing:
        raise InputError(f"{name} has no frame that can be decoded; convert it to MP4 (H.264) first")


def recognise(head: bytes) -> Literal["picture", "video", "other"]:
    """What the first `HEAD_BYTES` of a file say that it is; videos without a signature are "other"."""
    kind = _kind(head)
    return "picture" if kind in READABLE else "video" if kind == "a video" else "other"


# --- reading and recognising -----------------------------------------------------------------------------------------


def _shown(path: object) -> str:
    """A path as it may stand in a message: one line, no control characters."""
    text = os.fsdecode(path)  # type: ignore[arg-type]
    return text if text.isprintable() else ascii(text)


def _read(source: Any) -> tuple[str, bytes]:
    """Name for messages and content of a path, bytes or a binary file."""
    if isinstance(source, bytes | bytearray | memoryview):
        name, data = UNNAMED, bytes(source)
        if len(data) > MAX_BYTES:
            raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB; shrink it")
    elif isinstance(source, str | os.PathLike):
        name = _shown(source)
        with _open_regular(source) as file:
            data = _limited(file, name)
    elif hasattr(source, "read"):
        name = _shown(source.name) if isinstance(getattr(source, "name", None), str) else UNNAMED
        data = _limited(source, name)
    else:
        raise UsageError(
            f"found a {type(source).__name__}, expected a path, bytes, a binary file, a PIL image or a uint8 array"
        )
    if not data:
        raise InputError(f"{name} is empty (0 bytes), {EXPECTED}; give another file")
    return name, data


def _limited(file: Any, name: str) -> bytes:
    """The rest of a file, `MAX_BYTES` at most."""
    try:
        data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # ValueError: closed
        raise InputError(f"{name} cannot be read; give an open, readable file") from error
    if not isinstance(data, bytes):
        raise UsageError(f"{name} was opened as text; open it with mode 'rb'")
    if len(data) > MAX_BYTES:
        raise InputError(f"{name} is larger than {MAX_BYTES // 2**20} MiB; shrink it")
    return data


def _open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """Opens a regular file and nothing else: a pipe, socket or device could block or never end."""
    name = _shown(path)
    if name.startswith(("http://", "https://", "data:")):
        raise InputError(f"{name[:80]} is a URL, expected a file; download it first")
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise InputError(f"there is no file {name}; check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = getattr(error, "strerror", None) or "not a file name"
        raise InputError(f"{name} cannot be opened ({reason}); give a readable file") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise InputError(f"{name} is {kind}; give an image file")
    return os.fdopen(descriptor, "rb")


def _kind(data: bytes) -> str:
    """What a file seems to be, by its first bytes."""
    head = data[:64].lstrip() if data[:1].isspace() else data[:64]
    for offset, magic, kind in SIGNATURES:
        found = head[offset : offset + len(magic)]
        if found == magic or (magic[:1] == b"<" and found.lower() == magic):
            return kind
    text = data[:256].decode("utf-8", errors="ignore")
    if text and len(text.encode()) >= len(data[:256]) - 3 and all(c.isprintable() or c.isspace() for c in text):
        return "text"
    return "an unknown format"


def _identify(name: str, data: bytes, max_pixels: int) -> Image.Image:
    """Reads the header only, with the parsers of `FORMATS` only, and checks the size."""
    kind = _kind(data)
    if kind in READABLE:
        problem = f"{name} is a damaged {kind} file of {len(data)} bytes: its header cannot be read; get a fresh copy"
    else:
        hint = "read_frames takes videos" if kind == "a video" else "convert it first"
        problem = f"{name} is {kind} of {len(data)} bytes, {EXPECTED}; {hint}"
    with _decoding(name, problem):
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(name, image.size, max_pixels)
    return image


def _check_size(name: str, size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise InputError(f"{name} is {width} x {height} px, expected at least one pixel; give another image")
    if width * height > max_pixels:
        megapixels = f"{width * height / 1e6:,.1f} MP"
        raise InputError(
            f"{name} is {width} x {height} px ({megapixels}), the limit is {max_pixels / 1e6:,.1f} MP; "
            "shrink it or raise max_pixels"
        )


@contextmanager
def _decoding(name: str, problem: str) -> Iterator[None]:
    """Turns whatever a decoder raises on broken bytes into the sentence `problem`; the cause stays chained."""
    try:
        yield
    except PaliGemmaError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        limit = (Image.MAX_IMAGE_PIXELS or 0) * 2 / 1e6
        raise InputError(f"{name} has more pixels than Pillow opens ({limit:,.0f} MP); shrink it") from error
    except MemoryError as error:
        raise ResourceError(f"not enough memory to decode {name}; shrink it or lower max_pixels") from error
    except UnidentifiedImageError:
        raise InputError(problem) from None  # its own text is the address of a buffer
    except Exception as error:  # parsers of foreign bytes raise anything: OSError, SyntaxError, struct.error
        raise InputError(problem) from error


def _has_more_frames(image: Image.Image) -> bool:
    """Whether something follows the first picture; a broken second one counts."""
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # the first picture is whole, and that is the one that is used
        return True


# --- one picture -> RGB ----------------------------------------------------------------------------------------------


def _to_rgb(
    image: Image.Image, name: str, *, exif: bool = True, alpha: str = "white", depth: str = "scale"
) -> Image.Image:
    kind = image.format or image.mode
    with _decoding(name, f"the {kind} data of {name} are truncated or damaged; get a fresh copy"):
        image.load()
        eight_bits = _eight_bits(image, name) if depth == "scale" and image.mode[:1] in "IF" else image
        rgb = _flatten(eight_bits, alpha)
    turn = UPRIGHT.get(_orientation(image, name)) if exif else None
    return rgb if turn is None else rgb.transpose(turn)


def _orientation(image: Image.Image, name: str) -> int:
    try:
        found = image.getexif().get(ORIENTATION_TAG, 1)
    except Exception as error:  # metadata written by a thousand programs must not cost the picture
        warnings.warn(f"the EXIF data of {name} are broken ({type(error).__name__}) and ignored", stacklevel=4)
        return 1
    return found if isinstance(found, int) else 1


def _eight_bits(image: Image.Image, name: str) -> Image.Image:
    """Greyscale of 16 or 32 bits or of floats -> 8 bits, by the rule that `open_image` states."""
    values = np.asarray(image)
    low, high = values.min(), values.max()
    if image.mode == "F":
        if not (low >= 0 and high <= 255):  # false for nan as well
            raise InputError(f"{name} holds floats from {low:g} to {high:g}, expected 0..1 or 0..255; scale it first")
        levels = np.rint(values * 255 if high <= 1 else values)
    else:
        if low < 0 or high > 65_535:
            raise InputError(f"{name} holds integers from {low} to {high}, expected 0..65535; scale it first")
        # Pillow gives 16-bit PGM the 32-bit mode. The upper byte is what TensorFlow keeps, and it undoes both ways of
        # widening 8 bits, x * 256 and x * 257.
        sixteen = image.mode != "I" or image.format == "PPM" or high > 255
        levels = values >> 8 if sixteen else values
    grey = Image.fromarray(levels.astype(np.uint8))
    see_through = image.info.get("transparency")
    if isinstance(see_through, int):
        opaque = np.where(values == see_through, 0, 255).astype(np.uint8)
        return Image.merge("LA", (grey, Image.fromarray(opaque)))
    return grey


def _flatten(image: Image.Image, alpha: str) -> Image.Image:
    """Any mode of 8 bits -> a new RGB image without metadata, transparency by the rule `alpha`."""
    if image.mode in ("La", "RGBa"):  # premultiplied
        image = image.convert({"La": "LA", "RGBa": "RGBA"}[image.mode])
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        if alpha == "white":
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    rgb = image.convert("RGB")  # a copy, even of an RGB image
    rgb.info.clear()  # or a second open_image would turn it again
    return rgb


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    shape = " x ".join(map(str, array.shape))
    if array.dtype != np.uint8:
        raise InputError(f"found a {array.dtype} array, expected uint8; scale it to 0..255 and convert it")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InputError(f"found an array of {shape}, expected H x W, H x W x 3 or H x W x 4; move the channels last")
    _check_size("the array", (array.shape[1], array.shape[0]), max_pixels)
    return Image.fromarray(np.ascontiguousarray(array))


# --- several pictures ------------------------------------------------------------------------------------------------


def _wanted(count: int, frames: int, stride: int | None) -> list[int]:
    """Which of `count` source frames to take: increasing, without repeats, `frames` at most."""
    if stride is not None:
        return list(range(0, count, stride))[:frames]
    if count <= frames:
        return list(range(count))
    return [int((i + 0.5) * count / frames) for i in range(frames)]


Walked = Iterator[tuple[int, float, Callable[[], Image.Image]]]  # number, seconds, and what decodes the frame to RGB


def _chosen(walked: Walked, stride: int, fps: float | None) -> Walked:
    """Leaves out what the stride or the rate does not want."""
    due = 0.0
    for i, time_s, image in walked:
        if fps is None:
            wanted = i % stride == 0
        else:
            moment = time_s * fps + 1e-6  # times are fractions of the container's clock, rounded
            wanted = moment >= due
            due = math.floor(moment) + 1 if wanted else due
        if wanted:
            yield i, time_s, image


def _walk_animation(file: BinaryIO, name: str, frames: int | None, max_pixels: int) -> Walked:
    """Every frame of an animation, or the middles of `frames` parts; a frame without a duration lasts 0.1 s."""
    animation = _identify(name, _limited(file, name), max_pixels)
    with _decoding(name, f"the frames of {name} cannot be counted; get a fresh copy"):
        count = getattr(animation, "n_frames", 1)
    wanted = None if frames is None else set(_wanted(count, frames, None))
    time_s = 0.0
    for i in range(count):
        with _decoding(name, f"frame {i} of {name} is damaged; get a fresh copy"):
            animation.seek(i)
        if wanted is None or i in wanted:
            yield i, time_s, lambda: _to_rgb(animation, name)
        time_s += float(animation.info.get("duration") or 100) / 1000


def _walk_video(file: BinaryIO, name: str, frames: int | None, max_pixels: int) -> Walked:
    """The same of a video; for `frames` its packets are counted first."""
    try:
        import av
    except ImportError:
        raise UnavailableError(
            f"{name} is no image, and reading it as a video needs the av package; pip install 'paligemma[video]'"
        ) from None
    # Playlists would make FFmpeg open other files and addresses, so they are not among the containers.
    options = {"format_whitelist": VIDEO_CONTAINERS, "protocol_whitelist": "file"}
    size = os.fstat(file.fileno()).st_size

    def convert(frame: Any) -> Image.Image:
        _check_size(name, (frame.width, frame.height), max_pixels)
        turn = round(frame.rotation / 90) * 90  # degrees, counter-clockwise, as Image.rotate counts
        with _decoding(name, problem):
            return frame.to_image().convert("RGB").rotate(turn, expand=True)

    problem = f"{name} is {_kind(file.read(256))} of {size} bytes, expected a whole video or an image; convert it first"
    with _decoding(name, problem):
        wanted = None
        if frames is not None:
            file.seek(0)
            with av.open(file, "r", container_options=options) as container:
                count = sum(packet.size > 0 for packet in container.demux(video=0)) if container.streams.video else 0
            wanted = _wanted(count, frames, None)
        file.seek(0)
        with av.open(file, "r", container_options=options) as container:
            if not container.streams.video or wanted == []:
                return
            stream = container.streams.video[0]
            _check_size(name, (stream.width, stream.height), max_pixels)
            rate, first_s = float(stream.average_rate or 25), None
            for i, frame in enumerate(container.decode(stream)):
                time_s = i / rate if frame.time is None else frame.time
                first_s = time_s if first_s is None else first_s
                if wanted is None or i in wanted:
                    yield i, time_s - first_s, partial(convert, frame)
                if wanted is not None and i >= wanted[-1]:
                    return
