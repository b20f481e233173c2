import pytest

from paligemma.scenes.faces import CAP_HEIGHT, CHARACTERS, PIXELS, STROKES, flatten, strokes


def test_both_faces_have_every_character():
    assert set(PIXELS) == set(STROKES) == set(CHARACTERS)


def test_pixel_characters_are_seven_rows_of_five_cells_and_all_different():
    for rows in PIXELS.values():
        assert [len(row) for row in rows.split()] == [5] * 7
        assert set(rows) <= set("#. ")
    assert len(set(PIXELS.values())) == len(PIXELS)


@pytest.mark.parametrize("character", CHARACTERS)
def test_strokes_stay_between_top_and_base_line(character):
    for way in STROKES[character]:
        for curved, points in strokes(way):
            line = flatten(curved, points)
            assert len(points) >= 2
            assert all(-0.01 <= x <= 6 and -0.01 <= y <= CAP_HEIGHT + 0.5 for x, y in line)
    if character.isalnum():  # as high as a capital
        ys = [y for curved, points in strokes(STROKES[character][0]) for _, y in flatten(curved, points)]
        assert min(ys) < 0.4
        assert max(ys) > CAP_HEIGHT - 0.4


def test_a_curve_begins_and_ends_at_its_ends_and_passes_the_middles_of_its_inner_edges():
    line = flatten(True, [(0, 0), (4, 0), (4, 6), (0, 6)])
    assert line[0] == (0, 0)
    assert line[-1] == (0, 6)
    assert (4, 3) in line
    assert flatten(False, [(0, 0), (4, 0), (4, 6)]) == [(0, 0), (4, 0), (4, 6)]
