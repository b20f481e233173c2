"""The drawn objects: one function per label of `catalog`, a silhouette with a few details in shades of one colour.

A drawing is made in the unit square (x right, y down); its shape alone says what it is. To add an object, write a
function taking a `Pen`, enter it in `DRAWINGS` with its natural width / height, and its key in `catalog.GROUPS`.
"""

import math
from collections.abc import Callable
from functools import cache

import numpy as np

from paligemma.scenes.drawings_animals import ANIMALS
from paligemma.scenes.pen import HOLE, OPAQUE, Figure, Pen, Point, Pose, paint, posed

THINNEST_OUTLINE = 0.015


def _ray(angle: float, radius: float) -> Point:
    """A point around the middle of the unit square, the angle in radians."""
    return 0.5 + radius * math.cos(angle), 0.5 + radius * math.sin(angle)


def _airplane(pen: Pen) -> None:
    pen.polygon((0.40, 0.45), (0.62, 0.45), (0.42, 0.0), (0.30, 0.0), shade=-0.3)
    pen.polygon((0.40, 0.58), (0.62, 0.58), (0.42, 1.0), (0.30, 1.0), shade=-0.3)
    pen.polygon((0.0, 0.22), (0.09, 0.22), (0.2, 0.5), (0.09, 0.78), (0.0, 0.78), shade=-0.3)
    pen.blob((0.03, 0.5), (0.2, 0.41), (0.75, 0.39), (0.98, 0.5), (0.75, 0.61), (0.2, 0.59))
    pen.polygon((0.8, 0.43), (0.9, 0.46), (0.9, 0.54), (0.8, 0.57), shade=0.75)


def _apple(pen: Pen) -> None:
    pen.blob((0.5, 0.3), (0.74, 0.2), (0.98, 0.45), (0.85, 0.85), (0.62, 1), (0.5, 0.95), (0.38, 1), (0.15, 0.85),
             (0.02, 0.45), (0.26, 0.2))  # fmt: skip
    pen.curve([(0.5, 0.33), (0.5, 0.2), (0.44, 0.04)], 0.07, -0.7)
    pen.blob((0.52, 0.2), (0.66, 0.02), (0.88, 0.02), (0.76, 0.17), shade=-0.35)
    pen.ellipse(0.16, 0.36, 0.3, 0.6, 0.6)


def _arrow(pen: Pen) -> None:
    pen.polygon((0, 0.32), (0.55, 0.32), (0.55, 0), (1, 0.5), (0.55, 1), (0.55, 0.68), (0, 0.68))


def _ball(pen: Pen) -> None:
    pen.ellipse(0, 0, 1, 1)
    for start in (20, 140, 260):
        pen.sector(0, 0, 1, 1, start, start + 60, 0.6)
    pen.ellipse(0.4, 0.4, 0.6, 0.6, -0.45)


def _bicycle(pen: Pen) -> None:
    for x in (0.21, 0.79):
        pen.ring(x, 0.66, 0.34, 0.085)
        pen.disc(x, 0.66, 0.07)
    pen.line([(0.21, 0.66), (0.36, 0.26), (0.68, 0.26), (0.48, 0.68), (0.21, 0.66)], 0.075, -0.25)
    pen.line([(0.36, 0.26), (0.48, 0.68)], 0.075, -0.25)
    pen.line([(0.79, 0.66), (0.66, 0.06), (0.76, 0.05)], 0.075, -0.25)
    pen.line([(0.35, 0.26), (0.33, 0.14)], 0.06, -0.6)
    pen.line([(0.26, 0.13), (0.41, 0.13)], 0.09, -0.6)


def _boat(pen: Pen) -> None:
    pen.box(0.46, 0.0, 0.51, 0.75, -0.7)
    pen.polygon((0.51, 0.03), (0.94, 0.62), (0.51, 0.62), shade=0.3)
    pen.polygon((0.46, 0.14), (0.46, 0.62), (0.12, 0.62), shade=0.6)
    pen.polygon((0, 0.7), (1, 0.7), (0.82, 1), (0.18, 1))


def _book(pen: Pen) -> None:
    pen.polygon((0, 0.16), (0.5, 0.3), (1, 0.16), (1, 0.92), (0.5, 1), (0, 0.92), shade=-0.35)
    for side in (0, 1):
        pen.blob(*((abs(side - x), y) for x, y in ((0.05, 0.09), (0.25, 0.0), (0.48, 0.12), (0.49, 0.5), (0.48, 0.9),
                                                   (0.25, 0.8), (0.05, 0.85), (0.05, 0.5))))  # fmt: skip
        for y in (0.26, 0.42, 0.58):
            pen.line([(abs(side - 0.13), y - 0.03), (abs(side - 0.4), y + 0.04)], 0.045, 0.7)
    pen.box(0.485, 0.1, 0.515, 0.97, -0.7)


def _bottle(pen: Pen) -> None:
    pen.box(0.36, 0, 0.64, 0.1, -0.6)
    pen.polygon((0.38, 0.08), (0.62, 0.08), (0.62, 0.28), (1, 0.46), (1, 0.97), (0.94, 1), (0.06, 1), (0, 0.97),
                (0, 0.46), (0.38, 0.28))  # fmt: skip
    pen.box(0, 0.58, 1, 0.84, 0.65)


def _bus(pen: Pen) -> None:
    pen.polygon((0.03, 0), (0.95, 0), (1, 0.1), (1, 0.86), (0, 0.86), (0, 0.05))
    for x in (0.06, 0.25, 0.44, 0.63):
        pen.box(x, 0.14, x + 0.14, 0.44, 0.75)
    pen.box(0.83, 0.14, 0.94, 0.8, 0.75)
    pen.box(0, 0.54, 0.8, 0.62, -0.4)
    for x in (0.2, 0.68):
        pen.disc(x, 0.84, 0.16, -0.8)
        pen.disc(x, 0.84, 0.06, 0.5)


def _cactus(pen: Pen) -> None:
    for points in ([(0.42, 0.66), (0.12, 0.62), (0.12, 0.34)], [(0.56, 0.54), (0.88, 0.5), (0.88, 0.2)]):
        pen.line(points, 0.15)
    pen.line([(0.5, 0.13), (0.5, 0.8)], 0.25)
    pen.line([(0.5, 0.14), (0.5, 0.7)], 0.04, -0.4)
    pen.polygon((0.1, 0.78), (0.9, 0.78), (0.76, 1), (0.24, 1), shade=-0.5)


def _car(pen: Pen) -> None:
    pen.blob((0.14, 0.5), (0.28, 0.03), (0.5, 0), (0.66, 0.04), (0.86, 0.5), (0.5, 0.6), shade=-0.15)
    pen.polygon((0.24, 0.42), (0.32, 0.12), (0.46, 0.1), (0.46, 0.42), shade=0.75)
    pen.polygon((0.52, 0.42), (0.52, 0.1), (0.64, 0.12), (0.75, 0.42), shade=0.75)
    pen.polygon((0.03, 0.44), (0.85, 0.42), (0.98, 0.52), (1, 0.8), (0, 0.8), (0, 0.5))
    for x in (0.22, 0.78):
        pen.disc(x, 0.77, 0.23, -0.8)
        pen.disc(x, 0.77, 0.09, 0.5)


def _carrot(pen: Pen) -> None:
    for x, y in ((0.02, 0.1), (0.35, 0.0), (0.68, 0.0), (0.98, 0.1)):
        pen.blob((0.42, 0.32), (x - 0.02, y), (x + 0.06, y), (0.58, 0.32), shade=-0.5)
    pen.blob((0.1, 0.3), (0.5, 0.25), (0.9, 0.3), (0.8, 0.55), (0.52, 1), (0.47, 1), (0.2, 0.55))
    pen.line([(0.2, 0.46), (0.45, 0.46)], 0.03, -0.35)
    pen.line([(0.55, 0.6), (0.74, 0.6)], 0.03, -0.35)


def _castle(pen: Pen) -> None:
    for x in (0.0, 0.7):
        pen.box(x, 0.2, x + 0.3, 1, -0.08)
        for tooth in (0.0, 0.115, 0.23):
            pen.box(x + tooth, 0.08, x + tooth + 0.07, 0.22, -0.08)
        pen.box(x + 0.115, 0.36, x + 0.185, 0.54, -0.7)
    pen.box(0.28, 0.45, 0.72, 1)
    for x in (0.32, 0.46, 0.6):
        pen.box(x, 0.36, x + 0.08, 0.47)
    pen.sector(0.38, 0.62, 0.62, 1.0, 180, 360, -0.7)
    pen.box(0.38, 0.8, 0.62, 1, -0.7)


def _chair(pen: Pen) -> None:
    pen.polygon((0.0, 0.0), (0.15, 0.0), (0.24, 0.58), (0.24, 1.0), (0.1, 1.0), (0.1, 0.6))
    pen.polygon((0.08, 0.5), (0.95, 0.5), (0.95, 0.65), (0.12, 0.65), shade=-0.3)
    pen.polygon((0.8, 0.65), (0.94, 0.65), (1.0, 1.0), (0.87, 1.0))


def _cherry(pen: Pen) -> None:
    pen.curve([(0.24, 0.72), (0.36, 0.35), (0.62, 0.05)], 0.055, -0.6)
    pen.curve([(0.76, 0.78), (0.74, 0.4), (0.62, 0.05)], 0.055, -0.6)
    pen.blob((0.62, 0.06), (0.78, -0.02), (1.0, 0.1), (0.82, 0.22), shade=-0.4)
    pen.disc(0.24, 0.75, 0.21)
    pen.disc(0.76, 0.79, 0.21)
    for x, y in ((0.18, 0.68), (0.7, 0.72)):
        pen.disc(x, y, 0.055, 0.7)


def _clock(pen: Pen) -> None:
    pen.line([(0.27, 0.8), (0.15, 0.96)], 0.1, -0.6)
    pen.line([(0.73, 0.8), (0.85, 0.96)], 0.1, -0.6)
    pen.ellipse(0.02, 0.02, 0.42, 0.36, -0.35)
    pen.ellipse(0.58, 0.02, 0.98, 0.36, -0.35)
    pen.box(0.46, 0, 0.54, 0.2, -0.6)
    pen.ellipse(0.06, 0.12, 0.94, 0.96)
    pen.ellipse(0.22, 0.27, 0.78, 0.81, 0.75)
    pen.line([(0.5, 0.33), (0.5, 0.54), (0.64, 0.61)], 0.06, -0.8)


def _cloud(pen: Pen) -> None:
    pen.ellipse(0, 0.42, 0.4, 1)
    pen.ellipse(0.17, 0.12, 0.58, 0.8)
    pen.ellipse(0.4, 0, 0.82, 0.75)
    pen.ellipse(0.62, 0.38, 1, 1)
    pen.box(0.18, 0.6, 0.82, 1)
    pen.ellipse(0.5, 0.12, 0.72, 0.4, 0.4)


def _crown(pen: Pen) -> None:
    pen.polygon((0.1, 1), (0, 0.2), (0.26, 0.55), (0.5, 0.05), (0.74, 0.55), (1, 0.2), (0.9, 1))
    for x, y in ((0.03, 0.18), (0.5, 0.07), (0.97, 0.18)):
        pen.disc(x, y, 0.09)
    pen.box(0.1, 0.8, 0.9, 1, -0.4)
    for x in (0.27, 0.5, 0.73):
        pen.disc(x, 0.68, 0.065, 0.7)


def _cup(pen: Pen) -> None:
    pen.ellipse(0.52, 0.2, 1, 0.78, -0.25)
    pen.ellipse(0.66, 0.34, 0.88, 0.64, HOLE)
    pen.polygon((0, 0.06), (0.74, 0.06), (0.64, 1), (0.1, 1))
    pen.ellipse(0, 0, 0.74, 0.14, -0.5)
    pen.box(0.06, 0.44, 0.69, 0.58, 0.5)


def _flower(pen: Pen) -> None:
    pen.curve([(0.5, 0.5), (0.48, 0.8), (0.5, 0.98)], 0.055, -0.6)
    pen.blob((0.5, 0.92), (0.62, 0.7), (0.88, 0.66), (0.76, 0.86), shade=-0.45)
    pen.blob((0.5, 0.96), (0.38, 0.76), (0.12, 0.72), (0.24, 0.9), shade=-0.45)
    for k in range(5):
        angle = math.tau * k / 5 - math.pi / 2
        pen.disc(0.5 + 0.25 * math.cos(angle) / 0.8, 0.33 + 0.2 * math.sin(angle), 0.145)
    pen.disc(0.5, 0.33, 0.11, -0.55)


def _guitar(pen: Pen) -> None:
    pen.box(0.4, 0.06, 0.6, 0.6, -0.5)
    pen.box(0.3, 0, 0.7, 0.14, -0.65)
    pen.blob((0.5, 0.44), (0.78, 0.46), (0.8, 0.6), (0.98, 0.76), (0.86, 0.97), (0.5, 1), (0.14, 0.97), (0.02, 0.76),
             (0.2, 0.6), (0.22, 0.46))  # fmt: skip
    pen.disc(0.5, 0.64, 0.09, -0.7)
    pen.box(0.3, 0.82, 0.7, 0.87, -0.7)


def _hammer(pen: Pen) -> None:
    pen.polygon((0.42, 0.2), (0.62, 0.2), (0.65, 1), (0.39, 1), shade=0.35)
    pen.polygon((0.15, 0.04), (0.62, 0.02), (0.85, 0.1), (1, 0.3), (0.72, 0.27), (0.15, 0.27))
    pen.box(0.0, 0.0, 0.2, 0.31, -0.25)


def _hat(pen: Pen) -> None:
    pen.ellipse(0, 0.7, 1, 1, -0.2)
    pen.polygon((0.2, 0), (0.8, 0), (0.75, 0.85), (0.25, 0.85))
    pen.polygon((0.235, 0.56), (0.765, 0.56), (0.75, 0.78), (0.25, 0.78), shade=-0.6)


def _heart(pen: Pen) -> None:
    pen.blob((0.5, 0.2), (0.56, 0.1), (0.75, 0.0), (0.98, 0.15), (0.95, 0.45), (0.72, 0.78), (0.515, 0.99),
             (0.485, 0.99), (0.28, 0.78), (0.05, 0.45), (0.02, 0.15), (0.25, 0.0), (0.44, 0.1))  # fmt: skip
    pen.ellipse(0.16, 0.14, 0.34, 0.32, 0.5)


def _house(pen: Pen) -> None:
    pen.box(0.7, 0.05, 0.82, 0.4, -0.6)
    pen.box(0.1, 0.42, 0.9, 1)
    pen.polygon((0, 0.47), (0.5, 0), (1, 0.47), shade=-0.45)
    pen.box(0.42, 0.62, 0.62, 1, -0.65)
    pen.box(0.17, 0.56, 0.34, 0.74, 0.75)
    pen.box(0.69, 0.56, 0.84, 0.74, 0.75)


def _key(pen: Pen) -> None:
    pen.ring(0.22, 0.45, 0.45, 0.21)
    pen.box(0.4, 0.35, 1, 0.55)
    pen.box(0.72, 0.5, 0.81, 0.95)
    pen.box(0.9, 0.5, 1, 0.85)


def _ladder(pen: Pen) -> None:
    for k in range(5):
        y = 0.08 + 0.19 * k
        pen.box(0.05, y, 0.95, y + 0.075, -0.3)
    pen.box(0.0, 0, 0.2, 1)
    pen.box(0.8, 0, 1, 1)


def _lamp(pen: Pen) -> None:
    pen.box(0.455, 0.4, 0.545, 0.95, -0.6)
    pen.polygon((0.3, 0), (0.7, 0), (1, 0.5), (0, 0.5))
    pen.polygon((0.38, 0.06), (0.5, 0.06), (0.4, 0.44), (0.18, 0.44), shade=0.6)
    pen.sector(0.2, 0.84, 0.8, 1.16, 180, 360, -0.4)


def _moon(pen: Pen) -> None:
    outer = [math.radians(angle) for angle in range(110, -111, -10)]
    inner = [math.radians(angle) for angle in range(-90, 91, 10)]
    pen.polygon(
        *((0.7 - 0.7 * math.cos(t), 0.5 - 0.5 * math.sin(t)) for t in outer),
        *((0.94 - 0.52 * math.cos(t), 0.5 - 0.47 * math.sin(t)) for t in inner),
    )


def _mushroom(pen: Pen) -> None:
    pen.blob((0.36, 0.5), (0.64, 0.5), (0.66, 0.8), (0.7, 0.98), (0.5, 1), (0.3, 0.98), (0.34, 0.8), shade=0.65)
    pen.sector(0, 0, 1, 1.16, 180, 360)
    for x, y, radius in ((0.26, 0.36, 0.1), (0.52, 0.17, 0.09), (0.74, 0.4, 0.1)):
        pen.disc(x, y, radius, 0.8)


def _rocket(pen: Pen) -> None:
    pen.polygon((0.34, 0.5), (0.0, 0.74), (0.0, 0.94), (0.36, 0.8), shade=-0.45)
    pen.polygon((0.66, 0.5), (1.0, 0.74), (1.0, 0.94), (0.64, 0.8), shade=-0.45)
    pen.polygon((0.38, 0.8), (0.62, 0.8), (0.57, 0.92), (0.5, 1), (0.43, 0.92), shade=0.55)
    pen.blob((0.5, 0), (0.65, 0.18), (0.72, 0.45), (0.66, 0.84), (0.34, 0.84), (0.28, 0.45), (0.35, 0.18))
    pen.disc(0.5, 0.36, 0.085, 0.8)


def _star(pen: Pen) -> None:
    pen.polygon(*(_ray(math.pi * (k / 5 - 0.5), 0.5 if k % 2 == 0 else 0.21) for k in range(10)))


def _sun(pen: Pen) -> None:
    for k in range(12):
        angle = math.tau * k / 12
        pen.polygon(_ray(angle, 0.5), _ray(angle - 0.25, 0.28), _ray(angle + 0.25, 0.28), shade=-0.1)
    pen.ellipse(0.2, 0.2, 0.8, 0.8)
    pen.ellipse(0.27, 0.27, 0.73, 0.73, 0.35)


def _tree(pen: Pen) -> None:
    pen.box(0.42, 0.7, 0.58, 1, -0.65)
    pen.polygon((0.5, 0.36), (1, 0.84), (0, 0.84))
    pen.polygon((0.5, 0.18), (0.9, 0.58), (0.1, 0.58), shade=-0.15)
    pen.polygon((0.5, 0), (0.8, 0.34), (0.2, 0.34))


def _umbrella(pen: Pen) -> None:
    pen.curve([(0.5, 0.1), (0.5, 0.6), (0.5, 0.88), (0.58, 0.97), (0.67, 0.92), (0.68, 0.84)], 0.06, -0.65)
    pen.sector(0, 0.02, 1, 1.06, 180, 360)
    pen.sector(0.33, 0.02, 0.67, 1.06, 180, 360, 0.45)
    for x in (0.0, 0.335, 0.67):
        pen.ellipse(x, 0.47, x + 0.33, 0.62, HOLE)
    pen.box(0.47, 0.42, 0.53, 0.7, -0.65)


def _windmill(pen: Pen) -> None:
    pen.polygon((0.36, 0.36), (0.64, 0.36), (0.76, 1), (0.24, 1))
    pen.box(0.44, 0.8, 0.56, 1, -0.7)
    for turn in range(4):
        angle = math.pi / 4 + turn * math.pi / 2
        along, aside = (math.cos(angle), math.sin(angle)), (-math.sin(angle), math.cos(angle))
        corners = ((0.02, 0.02), (0.48, 0.02), (0.48, 0.19), (0.14, 0.19))
        pen.polygon(*(((0.5 + (along[0] * u + aside[0] * v) / 0.9), 0.38 + along[1] * u + aside[1] * v)
                      for u, v in corners), shade=-0.25)  # fmt: skip
    pen.disc(0.5, 0.38, 0.06, -0.75)


DRAWINGS: dict[str, tuple[Callable[[Pen], None], float]] = {
    **ANIMALS,
    "airplane": (_airplane, 1.15),
    "apple": (_apple, 0.95),
    "arrow": (_arrow, 1.35),
    "ball": (_ball, 1.0),
    "bicycle": (_bicycle, 1.65),
    "boat": (_boat, 1.1),
    "book": (_book, 1.45),
    "bottle": (_bottle, 0.42),
    "bus": (_bus, 1.9),
    "cactus": (_cactus, 0.75),
    "car": (_car, 1.9),
    "carrot": (_carrot, 0.5),
    "castle": (_castle, 1.1),
    "chair": (_chair, 0.65),
    "cherry": (_cherry, 1.0),
    "clock": (_clock, 0.95),
    "cloud": (_cloud, 1.6),
    "crown": (_crown, 1.3),
    "cup": (_cup, 1.1),
    "flower": (_flower, 0.8),
    "guitar": (_guitar, 0.42),
    "hammer": (_hammer, 0.75),
    "hat": (_hat, 1.3),
    "heart": (_heart, 1.05),
    "house": (_house, 1.0),
    "key": (_key, 2.1),
    "ladder": (_ladder, 0.5),
    "lamp": (_lamp, 0.75),
    "moon": (_moon, 0.8),
    "mushroom": (_mushroom, 1.0),
    "rocket": (_rocket, 0.62),
    "star": (_star, 1.0),
    "sun": (_sun, 1.0),
    "tree": (_tree, 0.7),
    "umbrella": (_umbrella, 1.0),
    "windmill": (_windmill, 0.9),
}


@cache
def figure(label: str) -> Figure:
    """The polygons of a kind of object, made once per process."""
    function, aspect = DRAWINGS[label]
    pen = Pen(aspect)
    function(pen)
    return pen.figure()


@cache
def widest_outline(label: str) -> float:
    """How thick an outline may be, as a fraction of the object's size, to leave most of the inside; 0 for none."""
    shape, size_px = figure(label), 64
    tile = paint(shape, posed(shape, Pose(size=1.0, longest=math.inf)), (0, 0, 0), size_px=size_px)
    solid = np.pad(np.asarray(tile.getchannel("A")) >= OPAQUE, 1)
    inside = solid[1:-1, :-2] & solid[1:-1, 2:] & solid[:-2, 1:-1] & solid[2:, 1:-1]
    edge = solid.sum() - (inside & solid[1:-1, 1:-1]).sum()
    limit = float(solid.sum() / edge / 4 / size_px)
    return limit if limit >= THINNEST_OUTLINE else 0.0
