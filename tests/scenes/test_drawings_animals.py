from paligemma.scenes.catalog import GROUPS
from paligemma.scenes.drawings_animals import ANIMALS
from paligemma.scenes.pen import Pen


def test_the_animals_are_the_catalog_s():
    assert tuple(ANIMALS) == GROUPS["animals"]


def test_every_animal_has_light_and_dark_details():
    for label, (function, aspect) in ANIMALS.items():
        pen = Pen(aspect)
        function(pen)
        shades = pen.figure().shades
        assert min(shades) < -0.2 < 0 < 0.25 < max(shades), label
