"""Text for pictures: a font that can draw it, lines that fit, colours that can be read.

Pillow's own font holds little more than ASCII, so fonts of the user's system are looked up by name, the first that has
every character. Shaping and right-to-left order are Pillow's (Raqm). Nothing is downloaded and no font comes along.
"""

import math
import unicodedata
from functools import lru_cache
from typing import Any

from PIL import ImageFont

DARK, LIGHT = (17, 17, 20), (255, 255, 255)
Color = tuple[int, int, int]

# Those with many scripts first; together they cover the 35 languages the models were trained on.
SYSTEM_FONTS = (
    "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "arial.ttf", "NotoSansCJK-Regular.ttc", "PingFang.ttc",
    "msyh.ttc", "malgun.ttf", "Arial Unicode.ttf", "NotoSansArabic-Regular.ttf", "NotoSansHebrew-Regular.ttf",
    "NotoSansThai-Regular.ttf", "NotoSansDevanagari-Regular.ttf", "NotoSansBengali-Regular.ttf",
    "NotoSansTelugu-Regular.ttf", "Nirmala.ttc", "Nirmala.ttf", "FreeSans.ttf", "unifont.otf",
)  # fmt: skip

_UNDRAWABLE = ("Cc", "Cs", "Co", "Cn")  # control, surrogate, private and unassigned: fonts have nothing to show


@lru_cache(maxsize=256)
def named_font(name: str, size_px: int) -> Any:
    """Pillow's own font for the empty name; None where the system lacks the font."""
    if not name:
        return ImageFont.load_default(size_px)
    try:
        return ImageFont.truetype(name, size_px)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _glyph(name: str, character: str) -> tuple[tuple[int, int], bytes]:
    font = named_font("", 20)
    if name:
        font = ImageFont.truetype(name, 20, layout_engine=ImageFont.Layout.BASIC)  # shaping gives marks a circle
    drawn = font.getmask(character)
    return drawn.size, bytes(drawn)


def _has_glyph(name: str, character: str) -> bool:
    blank = character.isspace() or unicodedata.category(character) == "Cf"  # spaces and joiners show nothing
    return blank or _glyph(name, character) != _glyph(name, "\U0010fffe")  # never a character


def readable(text: str, size_px: int) -> tuple[str, Any]:
    """The text and the font that can draw most of it; accents are dropped where only Pillow's own font is there."""
    text, name, missing = _best_font(text)
    if missing and not name:
        text = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return text, named_font(name, size_px)


def drawable(text: str) -> bool:
    """False where no font on this system has most of the characters, so that only empty frames would be seen."""
    shown, _ = readable(text, 20)
    _, _, missing = _best_font(shown)
    return 2 * missing <= len(set(shown) - {" "})


@lru_cache(maxsize=1024)
def _best_font(text: str) -> tuple[str, str, int]:
    """The text with what no font draws as spaces, the best font's name, and how many characters it lacks."""
    text = "".join(" " if c != "\n" and unicodedata.category(c) in _UNDRAWABLE else c for c in text)
    best, fewest = "", len(text) + 1
    for name in ("", *SYSTEM_FONTS):
        if named_font(name, 20) is not None:
            missing = sum(not _has_glyph(name, c) for c in set(text))
            if missing < fewest:
                best, fewest = name, missing
            if not missing:
                break
    return text, best, fewest


def width(text: str, font: Any) -> int:
    """Pixels, rounded up."""
    return math.ceil(font.getlength(text))


def shortened(text: str, font: Any, most_px: int) -> str:
    """The text, its end left out where it is wider."""
    if width(text, font) <= most_px:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if width(text[:middle].rstrip() + "...", font) <= most_px else (low, middle - 1)
    return text[:low].rstrip() + "..."


def wrapped(text: str, font: Any, most_px: int, most_lines: int) -> list[str]:
    """Lines no wider than `most_px`, broken at spaces, inside a word only where it is wider than a line."""
    lines: list[str] = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            candidate = f"{line} {word}" if line else word
            if width(candidate, font) <= most_px:
                line = candidate
                continue
            if line:
                lines.append(line)
            line = word
            while width(line, font) > most_px and len(line) > 1:
                cut = next((n for n in range(len(line) - 1, 1, -1) if width(line[:n], font) <= most_px), 1)
                lines.append(line[:cut])
                line = line[cut:]
        lines.append(line)
    return lines if len(lines) <= most_lines else [*lines[: most_lines - 1], "..."]


def text_color(background: Color) -> Color:
    """Dark or light, whichever reads better on it (relative luminance)."""
    linear = [(c / 255) ** 2.2 for c in background]
    return DARK if 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2] > 0.18 else LIGHT
