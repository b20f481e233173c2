import numpy as np
from PIL import Image

from paligemma.scenes import Scene, Thing


def test_a_thing_knows_its_centre() -> None:
    thing = Thing(label="cat", color="red", box=(0.1, 0.2, 0.3, 0.6), mask=np.zeros((4, 4), bool))
    assert (thing.center_y, thing.center_x) == (0.2, 0.4)


def test_pictures_are_not_compared_and_not_printed() -> None:
    """Two scenes of one truth are one scene, whatever their size."""
    small, large = (Scene(image=Image.new("RGB", (side, side))) for side in (8, 16))
    assert small == large
    assert "image" not in repr(small)
