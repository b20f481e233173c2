import numpy as np
import pytest
from PIL import Image

from paligemma.scenes import Line, Scene, Thing, draw_scene
from paligemma.scenes.catalog import COLORS, LABELS
from paligemma.scenes.patches import BLANK, CHARACTERS, NOTHING, UNKNOWN, patch_truth

BOX = (0.25, 0.5, 0.75, 1.0)


def thing(box: tuple[float, float, float, float], label: str = "cat", side: int = 32) -> Thing:
    mask = np.zeros((side, side), bool)
    y0, x0, y1, x1 = (round(c * side) for c in box)
    mask[y0:y1, x0:x1] = True
    return Thing(label=label, color="red", box=box, mask=mask)


def scene(things: tuple[Thing, ...] = (), lines: tuple[Line, ...] = ()) -> Scene:
    return Scene(image=Image.new("RGB", (32, 32)), things=things, lines=lines)


def test_patches_of_an_object_know_it_and_its_edges() -> None:
    truth = patch_truth(scene((thing(BOX),)), 4)
    label = truth.label.reshape(4, 4)
    assert (label[1:3, 2:] == LABELS.index("cat")).all()
    assert (label == NOTHING).sum() == 12
    assert set(truth.color[truth.label != NOTHING]) == {list(COLORS).index("red")}
    assert set(truth.color[truth.label == NOTHING]) == {UNKNOWN}
    np.testing.assert_allclose(
        truth.box.reshape(4, 4, 4)[1, 2], np.array(BOX) - np.array([0.375, 0.625] * 2), atol=1e-6
    )


def test_a_line_lower_than_a_patch_belongs_to_the_row_of_its_middle() -> None:
    boxes = tuple((0.26, 0.25 + k * 0.125, 0.3, 0.375 + k * 0.125) for k in range(3))
    line = Line(text="A 7", box=(0.26, 0.25, 0.3, 0.625), char_boxes=boxes, font="plain")
    read = patch_truth(scene(lines=(line,)), 4).characters.reshape(4, 4, 2)
    assert read[1, 1, 0] == CHARACTERS.index("A")
    assert read[1, 2, 0] == CHARACTERS.index("7")
    assert (read != BLANK).sum() == 2


def test_a_window_is_the_truth_of_a_picture_of_its_own() -> None:
    whole = patch_truth(scene((thing(BOX),)), 8)
    window = whole.window(2, 4, 4)  # its upper left corner is at (0.25, 0.5)
    assert (window.label != NOTHING).all()
    moved = (np.array(BOX) - np.array([0.25, 0.5] * 2)) * 2
    centers = (np.stack(np.meshgrid(range(4), range(4), indexing="ij"), -1).reshape(-1, 2) + 0.5) / 4
    np.testing.assert_allclose(window.box, moved - np.tile(centers, 2), atol=1e-6)


@pytest.mark.parametrize("seed", range(30))
def test_drawn_scenes_agree_with_their_patches(seed: int) -> None:
    drawn = draw_scene(seed, 112)
    truth = patch_truth(drawn, 8)
    assert set(truth.label) - {NOTHING} <= {LABELS.index(one.label) for one in drawn.things}
    read = {CHARACTERS[number] for number in truth.characters.ravel() if number != BLANK}
    assert read <= set("".join(line.text for line in drawn.lines))
