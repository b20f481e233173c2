"""What can occur in the drawn world: kinds of objects, colours, motions, as English keys.

The words for them in five languages are `words`'; how they look is `drawings`'. Keys are part of `truth.VERSION`.
"""

RGB = tuple[int, int, int]

GROUPS: dict[str, tuple[str, ...]] = {
    "animals": ("bird", "butterfly", "cat", "crab", "dog", "elephant", "fish", "rabbit", "snail", "snake", "turtle"),
    "vehicles": ("airplane", "bicycle", "boat", "bus", "car", "rocket"),
    "food": ("apple", "carrot", "cherry", "mushroom"),
    "household": (
        *("ball", "book", "bottle", "chair", "clock", "crown", "cup", "guitar", "hammer", "hat", "key", "ladder"),
        *("lamp", "umbrella"),
    ),
    "buildings": ("castle", "house", "windmill"),
    "nature": ("cactus", "cloud", "flower", "moon", "sun", "tree"),
    "shapes": ("arrow", "heart", "star"),
}
LABELS: tuple[str, ...] = tuple(sorted(label for labels in GROUPS.values() for label in labels))

COLORS: dict[str, RGB] = {
    "red": (215, 35, 40),
    "orange": (242, 130, 20),
    "yellow": (245, 215, 40),
    "green": (45, 160, 60),
    "turquoise": (60, 205, 195),
    "blue": (40, 85, 215),
    "purple": (130, 50, 165),
    "pink": (245, 140, 185),
    "brown": (125, 75, 35),
    "black": (25, 25, 28),
    "gray": (130, 132, 135),
    "white": (248, 248, 248),
}

MOTIONS: tuple[str, ...] = ("left", "right", "up", "down", "growing", "shrinking", "turning")
