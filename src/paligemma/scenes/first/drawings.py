"""The drawn objects: each is a few filled shapes in the unit square (x right, y down), in shades of one colour.

`draw(label, size_px, rgb)` gives an RGBA picture cut tightly around what was drawn. To add an object, write a function
taking a `Pen` and enter it in `DRAWINGS` with its natural width / height.
"""

import math
from collections.abc import Callable, Sequence

from PIL import Image, ImageDraw

RGB = tuple[int, int, int]
SUPERSAMPLING = 2
OPAQUE = 128  # alpha from which a pixel belongs to the object

COLORS: dict[str, RGB] = {
    "red": (215, 35, 40),
    "green": (45, 160, 60),
    "blue": (40, 85, 215),
    "yellow": (245, 215, 40),
    "orange": (245, 140, 25),
    "purple": (130, 50, 165),
    "pink": (245, 140, 185),
    "brown": (125, 75, 35),
    "black": (25, 25, 28),
    "white": (248, 248, 248),
}


class Pen:
    """Draws in unit coordinates. `shade` moves the colour towards black (-1) or white (+1)."""

    def __init__(self, width_px: int, height_px: int, rgb: RGB):
        self.size = (width_px, height_px)
        self.image = Image.new("RGBA", self.size, (0, 0, 0, 0))
        self._draw = ImageDraw.Draw(self.image)
        self._rgb = rgb

    def _color(self, shade: float) -> tuple[int, int, int, int]:
        target = 255 if shade > 0 else 0
        red, green, blue = (round(c + (target - c) * abs(shade)) for c in self._rgb)
        return red, green, blue, 255

    def _at(self, x: float, y: float) -> tuple[float, float]:
        return x * (self.size[0] - 1), y * (self.size[1] - 1)

    def ellipse(self, x0: float, y0: float, x1: float, y1: float, shade: float = 0) -> None:
        self._draw.ellipse((*self._at(x0, y0), *self._at(x1, y1)), fill=self._color(shade))

    def box(self, x0: float, y0: float, x1: float, y1: float, shade: float = 0) -> None:
        self._draw.rectangle((*self._at(x0, y0), *self._at(x1, y1)), fill=self._color(shade))

    def polygon(self, *points: tuple[float, float], shade: float = 0) -> None:
        self._draw.polygon([self._at(*p) for p in points], fill=self._color(shade))

    def slice(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, shade: float = 0) -> None:
        """A pie slice between two angles in degrees, clockwise from three o'clock."""
        self._draw.pieslice((*self._at(x0, y0), *self._at(x1, y1)), start, end, fill=self._color(shade))

    def line(self, points: Sequence[tuple[float, float]], thickness: float, shade: float = 0) -> None:
        width = max(1, round(thickness * min(self.size)))
        self._draw.line([self._at(*p) for p in points], fill=self._color(shade), width=width, joint="curve")

    def erase(self, x0: float, y0: float, x1: float, y1: float) -> None:
        self._draw.ellipse((*self._at(x0, y0), *self._at(x1, y1)), fill=(0, 0, 0, 0))


def _ray(angle: float, radius: float) -> tuple[float, float]:
    return 0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)


def _ball(pen: Pen) -> None:
    pen.ellipse(0, 0, 1, 1)
    pen.slice(0, 0, 1, 1, 20, 90, 0.5)
    pen.slice(0, 0, 1, 1, 200, 270, 0.5)
    pen.ellipse(0.38, 0.38, 0.62, 0.62, -0.3)


def _star(pen: Pen) -> None:
    pen.polygon(*(_ray(math.pi * (k / 5 - 0.5), 0.5 if k % 2 == 0 else 0.21) for k in range(10)))


def _heart(pen: Pen) -> None:
    pen.ellipse(0, 0, 0.52, 0.56)
    pen.ellipse(0.48, 0, 1, 0.56)
    pen.polygon((0.04, 0.42), (0.5, 0.2), (0.96, 0.42), (0.5, 1))


def _house(pen: Pen) -> None:
    pen.box(0.1, 0.42, 0.9, 1)
    pen.polygon((0, 0.45), (0.5, 0), (1, 0.45), shade=-0.4)
    pen.box(0.4, 0.65, 0.6, 1, -0.6)
    pen.box(0.18, 0.55, 0.32, 0.7, 0.7)
    pen.box(0.68, 0.55, 0.82, 0.7, 0.7)


def _tree(pen: Pen) -> None:
    pen.box(0.42, 0.6, 0.58, 1, -0.6)
    pen.polygon((0.5, 0), (0.85, 0.4), (0.15, 0.4), shade=0.15)
    pen.polygon((0.5, 0.2), (1, 0.75), (0, 0.75))


def _car(pen: Pen) -> None:
    pen.polygon((0.2, 0.45), (0.32, 0), (0.7, 0), (0.85, 0.45), shade=-0.2)
    pen.box(0.36, 0.1, 0.5, 0.42, 0.7)
    pen.box(0.55, 0.1, 0.7, 0.42, 0.7)
    pen.box(0, 0.42, 1, 0.8)
    for x in (0.12, 0.64):
        pen.ellipse(x, 0.55, x + 0.24, 1, -0.75)


def _fish(pen: Pen) -> None:
    pen.ellipse(0, 0.08, 0.78, 0.92)
    pen.polygon((0.66, 0.5), (1, 0), (1, 1), shade=-0.25)
    pen.ellipse(0.14, 0.3, 0.26, 0.46, 0.9)
    pen.ellipse(0.17, 0.34, 0.23, 0.42, -0.9)


def _face(pen: Pen, top: float) -> None:
    pen.ellipse(0.08, top, 0.92, 1)
    for x in (0.3, 0.58):
        pen.ellipse(x, 0.48, x + 0.12, 0.62, 0.9)
        pen.ellipse(x + 0.03, 0.5, x + 0.09, 0.6, -0.9)


def _cat(pen: Pen) -> None:
    pen.polygon((0.08, 0), (0.5, 0.35), (0.1, 0.65))
    pen.polygon((0.92, 0), (0.5, 0.35), (0.9, 0.65))
    _face(pen, 0.2)
    pen.polygon((0.44, 0.68), (0.56, 0.68), (0.5, 0.76), shade=-0.7)
    for y in (0.7, 0.82):
        pen.line([(0, y), (0.35, 0.76)], 0.03, -0.7)
        pen.line([(1, y), (0.65, 0.76)], 0.03, -0.7)


def _dog(pen: Pen) -> None:
    _face(pen, 0)
    pen.ellipse(0, 0.1, 0.26, 0.75, -0.5)
    pen.ellipse(0.74, 0.1, 1, 0.75, -0.5)
    pen.ellipse(0.3, 0.6, 0.7, 0.95, 0.5)
    pen.ellipse(0.41, 0.6, 0.59, 0.74, -0.85)


def _flower(pen: Pen) -> None:
    for k in range(6):
        x, y = _ray(math.pi * k / 3, 0.31)
        pen.ellipse(x - 0.19, y - 0.19, x + 0.19, y + 0.19)
    pen.ellipse(0.34, 0.34, 0.66, 0.66, -0.55)


def _sun(pen: Pen) -> None:
    for k in range(8):
        angle = math.pi * k / 4
        pen.polygon(_ray(angle, 0.5), _ray(angle - 0.22, 0.3), _ray(angle + 0.22, 0.3))
    pen.ellipse(0.22, 0.22, 0.78, 0.78, 0.2)


def _moon(pen: Pen) -> None:
    pen.ellipse(0, 0, 1.35, 1)
    pen.erase(0.42, -0.02, 1.7, 0.9)


def _cup(pen: Pen) -> None:
    pen.ellipse(0.55, 0.2, 1, 0.75, -0.2)
    pen.erase(0.68, 0.32, 0.9, 0.63)
    pen.polygon((0, 0), (0.75, 0), (0.66, 1), (0.09, 1))
    pen.ellipse(0.02, 0, 0.73, 0.14, -0.5)


def _boat(pen: Pen) -> None:
    pen.polygon((0, 0.66), (1, 0.66), (0.8, 1), (0.2, 1), shade=-0.3)
    pen.box(0.47, 0, 0.53, 0.66, -0.7)
    pen.polygon((0.56, 0.04), (0.92, 0.58), (0.56, 0.58))
    pen.polygon((0.44, 0.14), (0.44, 0.58), (0.14, 0.58), shade=0.4)


def _umbrella(pen: Pen) -> None:
    pen.slice(0, 0, 1, 1.05, 180, 360)
    pen.slice(0.3, 0, 0.7, 1.05, 180, 360, 0.45)
    pen.line([(0.5, 0.5), (0.5, 0.92), (0.6, 0.98), (0.7, 0.9)], 0.06, -0.7)


def _key(pen: Pen) -> None:
    pen.ellipse(0, 0.05, 0.42, 0.95)
    pen.erase(0.12, 0.3, 0.3, 0.7)
    pen.box(0.38, 0.4, 1, 0.6)
    pen.box(0.74, 0.5, 0.82, 0.95)
    pen.box(0.9, 0.5, 1, 0.85)


def _mushroom(pen: Pen) -> None:
    pen.box(0.34, 0.45, 0.66, 1, 0.65)
    pen.slice(0, 0, 1, 1.2, 180, 360)
    for x, y in ((0.2, 0.3), (0.45, 0.1), (0.65, 0.35)):
        pen.ellipse(x, y, x + 0.15, y + 0.15, 0.8)


def _apple(pen: Pen) -> None:
    pen.ellipse(0, 0.2, 0.62, 1)
    pen.ellipse(0.38, 0.2, 1, 1)
    pen.line([(0.5, 0.3), (0.56, 0)], 0.07, -0.7)
    pen.ellipse(0.56, 0.02, 0.88, 0.18, -0.35)


def _rocket(pen: Pen) -> None:
    pen.polygon((0.2, 0.6), (0, 1), (0.3, 0.9), shade=-0.4)
    pen.polygon((0.8, 0.6), (1, 1), (0.7, 0.9), shade=-0.4)
    pen.ellipse(0.2, 0, 0.8, 1.15)
    pen.ellipse(0.36, 0.3, 0.64, 0.52, 0.75)


def _hat(pen: Pen) -> None:
    pen.ellipse(0, 0.68, 1, 1, -0.2)
    pen.box(0.24, 0, 0.76, 0.84)
    pen.box(0.24, 0.56, 0.76, 0.74, -0.6)


DRAWINGS: dict[str, tuple[Callable[[Pen], None], float]] = {
    "apple": (_apple, 0.95),
    "ball": (_ball, 1.0),
    "boat": (_boat, 1.1),
    "car": (_car, 1.9),
    "cat": (_cat, 1.05),
    "cup": (_cup, 1.1),
    "dog": (_dog, 1.1),
    "fish": (_fish, 1.7),
    "flower": (_flower, 1.0),
    "hat": (_hat, 1.35),
    "heart": (_heart, 1.05),
    "house": (_house, 1.0),
    "key": (_key, 2.2),
    "moon": (_moon, 0.75),
    "mushroom": (_mushroom, 1.0),
    "rocket": (_rocket, 0.6),
    "star": (_star, 1.0),
    "sun": (_sun, 1.0),
    "tree": (_tree, 0.75),
    "umbrella": (_umbrella, 1.0),
}
LABELS: tuple[str, ...] = tuple(DRAWINGS)


def draw(label: str, height_px: float, rgb: RGB, stretch: float = 1.0, flip: bool = False) -> Image.Image:
    """RGBA picture of one object, cut tightly. `stretch` widens it; `flip` mirrors it left-right."""
    function, aspect = DRAWINGS[label]
    height = max(8, round(height_px * SUPERSAMPLING))
    pen = Pen(max(8, round(height * aspect * stretch)), height, rgb)
    function(pen)
    picture = pen.image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else pen.image
    picture = picture.reduce(SUPERSAMPLING)
    opaque = picture.getchannel("A").point(lambda a: 255 if a >= OPAQUE else 0)
    return picture.crop(opaque.getbbox())
