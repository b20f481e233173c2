"""The automaton writes only what is read back without a warning, and accepts every truth."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import paligemma
from paligemma.errors import InputError, UsageError
from paligemma.results import Box
from paligemma.results.boxes import iou
from paligemma.tasks.constraint import BoxGrammar, State
from paligemma.tasks.grammar import boxes_to_text, text_to_boxes
from paligemma.tokenizer import LOCATIONS, Tokenizer

NANO = Path(paligemma.__file__).parent / "checkpoints" / "nano"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "processor"
TOKENIZERS = [Tokenizer.load(NANO), Tokenizer.load(GOLDEN / "tok-hub")]
NANO_TOKENIZER = TOKENIZERS[0]
SIZE = (640, 480)
NAMES = ["cat", "cat house", "tree", "red car", "猫", "l'été (2)", "a < b > c", "x" * 30]
SEG = tuple(range(0, 128, 8))

which = st.sampled_from(TOKENIZERS)
names = st.none() | st.lists(st.sampled_from(NAMES), min_size=1, max_size=5)
bins = st.tuples(*[st.integers(0, 1023)] * 4).filter(lambda b: b[0] < b[2] and b[1] < b[3])


def ids(tokenizer, text):
    return tokenizer.encode(text, allow=frozenset({LOCATIONS}))


def walk(grammar, seed, eos_share=0.2, limit=400):
    """Random tokens under the grammar up to its eos; ends of lists and labels are preferred, or walks never end."""
    rng, state, tokens = random.Random(seed), grammar.start(), []
    eos = grammar.tokenizer.eos_id
    while state.phase != "done":
        allowed = grammar.allowed(state)
        assert len(allowed) > 0
        ending = eos in allowed and (rng.random() < eos_share or len(tokens) > limit)
        token = eos if ending else rng.choice(allowed)
        state = grammar.advance(state, token)
        tokens.append(token)
    assert tokens.pop() == eos
    return tokens


def test_nothing_stands_alone_against_a_box_anywhere():
    grammar = BoxGrammar(NANO_TOKENIZER, ["cat"], masks=False)
    state = grammar.start()
    assert grammar.lone(state) == NANO_TOKENIZER.eos_id
    for token in ids(NANO_TOKENIZER, "<loc0001><loc0002><loc0003><loc0004> cat ; "):
        state = grammar.advance(state, token)
        assert grammar.lone(state) is None


@settings(max_examples=80, deadline=None)
@given(
    tokenizer=which, labels=names, masks=st.booleans(), labelled=st.booleans(), seed=st.integers(0, 2**32),
    max_objects=st.none() | st.integers(1, 3),
)  # fmt: skip
def test_any_walk_is_read_without_a_warning(tokenizer, labels, masks, labelled, seed, max_objects):
    grammar = BoxGrammar(tokenizer, labels, masks=masks, labelled=labelled, max_objects=max_objects)
    tokens = walk(grammar, seed)
    boxes, notices = text_to_boxes(tokenizer.decode(tokens), SIZE)
    assert notices == ()
    assert max_objects is None or len(boxes) <= max_objects
    assert all((box.mask_codes is not None) == masks for box in boxes)
    if labelled:
        assert all(box.label for box in boxes)
        assert labels is None or {box.label for box in boxes} <= set(labels)
    assert grammar.accepts(tokens)


@settings(max_examples=40, deadline=None)
@given(
    tokenizer=which, masks=st.booleans(), labelled=st.booleans(), free=st.booleans(),
    drawn=st.lists(st.tuples(st.sampled_from(NAMES), bins), max_size=4),
)  # fmt: skip
def test_every_truth_is_accepted(tokenizer, masks, labelled, free, drawn):
    boxes = [
        Box(label=label, box_yxyx_norm=tuple(b / 1023 for b in loc), image_size_px=SIZE, mask_codes=SEG)
        for label, loc in drawn
    ]
    grammar = BoxGrammar(
        tokenizer, None if free else NAMES, masks=masks, labelled=labelled, duplicates=True, max_label_tokens=99
    )
    assert grammar.accepts(ids(tokenizer, boxes_to_text(boxes, labels=labelled, masks=masks)))


def test_the_bins_of_a_box_leave_it_an_area():
    tokenizer = NANO_TOKENIZER
    grammar, first = BoxGrammar(tokenizer, ["cat"], masks=False), tokenizer.loc_start
    state = grammar.start()
    assert set(grammar.allowed(state)) == {tokenizer.eos_id, *range(first, first + 1023)}
    for location_bin, allowed in ((1022, range(0, 1023)), (7, range(1023, 1024)), (1023, range(8, 1024))):
        state = grammar.advance(state, first + location_bin)
        assert list(grammar.allowed(state)) == [first + b for b in allowed]
    with pytest.raises(UsageError, match="cannot follow"):
        grammar.advance(state, first + 7)


def test_what_is_certain_is_one_id():
    tokenizer = NANO_TOKENIZER
    grammar = BoxGrammar(tokenizer, ["cat"], masks=False)
    state = grammar.start()
    for token in ids(tokenizer, "<loc0001><loc0002><loc0003><loc0004>"):
        state = grammar.advance(state, token)
    cat, blank, semicolon, blank_again, _ = ids(tokenizer, " cat ; <loc0000>")
    assert grammar.allowed(state) == (cat,)
    state = grammar.advance(state, cat)
    assert set(grammar.allowed(state)) == {tokenizer.eos_id, blank}
    for token in (blank, semicolon, blank_again):
        assert token in grammar.allowed(state)
        state = grammar.advance(state, token)
    assert tokenizer.eos_id not in grammar.allowed(state)


def test_labels_that_begin_alike_and_labels_nobody_asked_for():
    tokenizer = NANO_TOKENIZER
    grammar = BoxGrammar(tokenizer, ["cat", "cat house"], masks=False)
    box = "<loc0001><loc0002><loc0003><loc0004>"
    assert grammar.accepts(ids(tokenizer, f"{box} cat house ; {box.replace('4>', '9>')} cat"))
    for wrong in (f"{box} house", f"{box} cats", f"{box}", f"{box} cat ;", f"{box} cat ; ", "cat", f"{box}cat"):
        assert not grammar.accepts(ids(tokenizer, wrong))


@pytest.mark.parametrize("labels", [["cat", "dog"], None])
def test_a_repeated_box_closes_the_list(labels):
    tokenizer = NANO_TOKENIZER
    a, near, b = ("<loc0100><loc0100><loc0900><loc0900>", "<loc0100><loc0100><loc0905><loc0900>",
                  "<loc0000><loc0000><loc0020><loc0030>")  # fmt: skip
    grammar = BoxGrammar(tokenizer, labels, masks=False)
    assert grammar.accepts(ids(tokenizer, f"{a} cat ; {a} dog ; {b} cat"))
    repeated = ids(tokenizer, f"{a} cat ; {b} dog ; {near} cat")
    assert grammar.accepts(repeated)
    assert not grammar.accepts(ids(tokenizer, f"{a} cat ; {near} cat ; {b} cat"))
    assert BoxGrammar(tokenizer, labels, masks=False, duplicates=True).accepts(
        ids(tokenizer, f"{a} cat ; {near} cat ; {b} cat")
    )
    assert grammar.notices(ids(tokenizer, f"{a} cat ; {b} cat")) == ()
    (notice,) = grammar.notices(repeated)
    assert (notice.code, "object 3" in notice.message) == ("duplicate", True)


def test_the_list_ends_after_max_objects():
    tokenizer = NANO_TOKENIZER
    grammar = BoxGrammar(tokenizer, ["cat"], masks=False, max_objects=2)
    a, b = "<loc0100><loc0100><loc0900><loc0900> cat", "<loc0000><loc0000><loc0020><loc0030> cat"
    assert not grammar.accepts(ids(tokenizer, f"{a} ; {b} ; {a}"))
    assert [n.code for n in grammar.notices(ids(tokenizer, f"{a} ; {b}"))] == ["max_objects"]
    assert grammar.notices(ids(tokenizer, a)) == ()


def test_a_free_label_cannot_spell_a_location_token():
    tokenizer = NANO_TOKENIZER
    grammar = BoxGrammar(tokenizer, None, masks=False, max_label_tokens=99)
    state = grammar.start()
    written = [*ids(tokenizer, "<loc0001><loc0002><loc0003><loc0004>"), *tokenizer.encode(" <loc0001>")]
    for token in written[:-1]:
        assert token in grammar.allowed(state)
        state = grammar.advance(state, token)
    assert tokenizer.bytes_of(written[-1]) == b">"
    assert written[-1] not in grammar.allowed(state)


def test_a_free_label_is_bounded():
    tokenizer = NANO_TOKENIZER
    grammar = BoxGrammar(tokenizer, None, masks=False, max_label_tokens=2)
    state = grammar.start()
    for token in ids(tokenizer, "<loc0001><loc0002><loc0003><loc0004> cat house"):
        state = grammar.advance(state, token)
    assert set(grammar.allowed(state)) == {tokenizer.eos_id, *ids(tokenizer, "<loc0001> ; <loc0001>")[1:2]}


def test_states_are_shared_safely():
    grammar = BoxGrammar(NANO_TOKENIZER, ["cat"], masks=False)
    state = grammar.start()
    one, other = (grammar.advance(state, NANO_TOKENIZER.loc_start + b) for b in (3, 4))
    assert (state, one != other, hash(one) != hash(state)) == (State(), True, True)


def test_settings_that_make_no_sense():
    for more in ({"max_objects": 0}, {"max_label_tokens": 1}):
        with pytest.raises(UsageError, match="give an integer"):
            BoxGrammar(NANO_TOKENIZER, None, masks=False, **more)
    with pytest.raises(UsageError, match="no label"):
        BoxGrammar(NANO_TOKENIZER, [], masks=False)
    with pytest.raises(InputError, match="rename it"):
        BoxGrammar(NANO_TOKENIZER, ["a;b"], masks=False)


def test_overlap():
    assert iou((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert iou((0, 0, 10, 10), (0, 5, 10, 15)) == pytest.approx(1 / 3)
    assert iou((0, 0, 10, 10), (10, 10, 20, 20)) == iou((1, 1, 1, 1), (1, 1, 1, 1)) == 0
