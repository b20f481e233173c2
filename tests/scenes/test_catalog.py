from itertools import combinations

from paligemma.scenes.catalog import COLORS, GROUPS, LABELS, MOTIONS


def test_labels_are_sorted_distinct_plain_words_of_the_groups():
    assert list(LABELS) == sorted(set(LABELS))
    assert len(LABELS) == sum(map(len, GROUPS.values())) >= 44
    assert all(label.isalpha() and label.islower() for label in LABELS)


def test_no_two_colors_are_close():
    assert len(COLORS) == 12
    for a, b in combinations(COLORS, 2):
        assert sum(abs(p - q) for p, q in zip(COLORS[a], COLORS[b], strict=True)) > 90, (a, b)


def test_motions_are_distinct():
    assert len(set(MOTIONS)) == len(MOTIONS) >= 7
