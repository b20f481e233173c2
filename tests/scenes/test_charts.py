import random
from functools import cache

import numpy as np
import pytest
from PIL import Image

from paligemma.scenes.catalog import COLORS
from paligemma.scenes.charts import KINDS, LARGEST_CELL, LARGEST_VALUE, draw_chart, draw_table
from paligemma.scenes.lettering import apart

PAPER = (250, 250, 246)


@cache
def charts(count: int, size_px: int = 224, ground=PAPER):
    return [draw_chart(random.Random(seed), size_px, ground) for seed in range(count)]


@cache
def tables(count: int, size_px: int = 224, ground=PAPER):
    return [draw_table(random.Random(seed), size_px, ground) for seed in range(count)]


def test_charts_are_of_all_kinds_with_three_to_five_named_values():
    made = [chart for _, chart, _ in charts(60)]
    assert {chart.kind for chart in made} == set(KINDS)
    assert {len(chart.labels) for chart in made} == {3, 4, 5}
    for chart in made:
        assert len(set(chart.labels)) == len(chart.labels) == len(chart.values) == len(chart.colors)
        assert all(1 <= value <= LARGEST_VALUE for value in chart.values)
        assert set(chart.colors) <= set(COLORS)
        if chart.kind == "pie":
            assert len(set(chart.colors)) == len(chart.colors)


def test_every_label_and_value_of_a_chart_is_printed():
    for _, chart, lines in charts(40):
        pairs = [text for label, value in zip(chart.labels, chart.values, strict=True) for text in (label, str(value))]
        assert [line.text for line in lines] == [chart.title, *pairs]


def test_tables_are_printed_row_by_row():
    sizes = set()
    for _, table, lines in tables(60):
        sizes.add((len(table.rows), len(table.columns)))
        assert len({*table.rows, *table.columns}) == len(table.rows) + len(table.columns)
        rows = [[name, *map(str, cells)] for name, cells in zip(table.rows, table.cells, strict=True)]
        assert [line.text for line in lines] == [*table.columns, *(text for row in rows for text in row)]
        assert all(0 <= value <= LARGEST_CELL for cells in table.cells for value in cells)
    assert sizes == {(rows, columns) for rows in (2, 3, 4) for columns in (2, 3)}


@pytest.mark.parametrize("draw", [draw_chart, draw_table])
def test_print_is_high_enough_inside_and_does_not_overlap(draw):
    for seed in range(60):
        _, _, lines = draw(random.Random(seed), 64, PAPER)
        for k, line in enumerate(lines):
            y0, x0, y1, x1 = line.box
            assert 0 <= y0 < y1 <= 1
            assert 0 <= x0 < x1 <= 1
            assert (y1 - y0) * 224 >= 15
            assert len(line.char_boxes) == len(line.text)
            for other in lines[k + 1 :]:
                assert apart(line.box, other.box, 0), (seed, line.text, other.text)


def test_a_bar_is_as_high_as_its_value():
    for image, chart, _ in charts(40, 336):
        if chart.kind != "bar" or len(set(chart.colors)) < len(chart.colors):
            continue
        pixels = np.asarray(image).astype(int)
        heights = []
        for color in chart.colors:
            close = np.abs(pixels - np.array(COLORS[color])).sum(2) < 12
            # the bar is the column in which most pixels have its colour
            heights.append(np.sort(close.sum(0))[-5])
        ratios = np.array(heights) / np.array(chart.values)
        assert ratios.max() - ratios.min() < 0.12 * ratios.max() + 4 / min(chart.values)


def test_a_slice_is_as_large_as_its_value():
    seen = 0
    for image, chart, _ in charts(40, 336):
        if chart.kind != "pie":
            continue
        left = np.asarray(image).astype(int)[45:, :168]
        areas = np.array([(np.abs(left - np.array(COLORS[c])).sum(2) < 12).sum() for c in chart.colors], float)
        shares = np.array(chart.values) / sum(chart.values)
        assert areas / areas.sum() == pytest.approx(shares, abs=0.04)
        seen += 1
    assert seen > 3


def test_charts_show_on_any_ground():
    for ground in ((20, 20, 24), (128, 128, 128), (215, 35, 40), (245, 245, 245)):
        for image, chart, _ in charts(6, 64, ground):
            assert image.size == (64, 64)
            assert all(np.abs(np.array(COLORS[c]) - ground).sum() >= 60 for c in chart.colors)


@pytest.mark.parametrize("draw", [draw_chart, draw_table])
def test_another_size_is_the_same_chart(draw):
    for seed in range(8):
        small, truth, lines = draw(random.Random(seed), 112, PAPER)
        large, truth_large, lines_large = draw(random.Random(seed), 224, PAPER)
        assert (truth, lines) == (truth_large, lines_large)
        shrunk = np.asarray(large.resize((112, 112), Image.Resampling.BOX), float)
        assert np.abs(shrunk - np.asarray(small, float)).mean() < 8
        assert draw(random.Random(seed), 112, PAPER)[0].tobytes() == small.tobytes()
