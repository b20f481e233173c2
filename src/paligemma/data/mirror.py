"""Left and right in texts: what a sentence says once its picture is mirrored.

In: a text in any of the five languages of the drawn scenes. Out: the same text with left and right exchanged, or None
where that cannot be done surely: the picture must then stay as it is. Not done here: boxes and pixels (`augment`).
"""

import re
from collections.abc import Callable

# Words that are each other's mirror image. German and Spanish endings are kept.
_PAIRS = (
    ("left", "right"), ("leftmost", "rightmost"), ("lefthand", "righthand"),
    ("leftward", "rightward"), ("leftwards", "rightwards"),
    ("links", "rechts"), *((f"link{ending}", f"recht{ending}") for ending in ("e", "en", "er", "es", "em")),
    ("izquierda", "derecha"), ("izquierdas", "derechas"), ("izquierdo", "derecho"), ("izquierdos", "derechos"),
    ("à gauche", "à droite"), ("la gauche", "la droite"), ("de gauche", "de droite"),
)  # fmt: skip
_MIRROR = {**dict(_PAIRS), **{right: left for left, right in _PAIRS}}
_WORDS = re.compile(rf"\b(?:{'|'.join(sorted(_MIRROR, key=len, reverse=True))})\b", re.IGNORECASE)
_CHINESE = str.maketrans("左右", "右左")

# Where a side cannot be exchanged surely: a French adjective follows its noun's gender; right may mean correct or
# just; 左右 is "about".
_UNSURE = re.compile(
    r"\b(?:gauche|gauches|droit|droits|droite|droites)\b|左右"
    r"|\b(?:all right|right now|right away|right side up|right angles?|human rights?|right of way)\b",
    re.IGNORECASE,
)
_GOLF = re.compile(r"\blinks\b", re.IGNORECASE)  # a German side and an English noun

# What a mirrored picture no longer shows: writing, and turning one way.
_ONE_WAY = re.compile(
    r"\b(?:text|words?|letters?|digits?|numbers?|numerals?|written|writing|handwritten|reads?|says?|spell(?:s|ed)?"
    r"|printed|title|(?:counter|anti)?-?clockwise"
    r"|wort|worte|wörter|steht|geschrieben|buchstaben?|ziffern?|zahl|zahlen|titel|uhrzeigersinns?"
    r"|textes?|mots?|écrit|écrite|lettres?|chiffres?|titre|aiguilles"
    r"|texto|palabras?|escrito|escrita|letras?|dígitos?|cifras?|título|agujas)\b|[字写文读]|时针",
    re.IGNORECASE,
)


def mirrored(text: str, language: str = "") -> str | None:
    """The text for the mirrored picture; None where its words depend on writing, or cannot be exchanged surely.

    Args:
        language: code in the prompt, such as `de`; tells a German `links` from an English one.
    """
    if _ONE_WAY.search(text) or (_GOLF.search(text) and language != "de"):
        return None
    certain = _WORDS.sub(" ", text)
    if _UNSURE.search(certain) or _UNSURE.search(_WORDS.sub(_kept_english, text)):
        return None
    return _WORDS.sub(_exchanged, text).translate(_CHINESE)


def _kept_english(match: "re.Match[str]") -> str:
    """English words stay, for phrases are made of them; the others are out of the way."""
    return match.group() if match.group().lower() in ("left", "right") else " "


def _exchanged(match: "re.Match[str]") -> str:
    found = match.group()
    other = _MIRROR[found.lower()]
    change: Callable[[str], str] = str.upper if found.isupper() else str
    if found[0].isupper() and not found.isupper():
        return other[0].upper() + other[1:]
    return change(other)
