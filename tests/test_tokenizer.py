import itertools
import json
import re
import struct
import time
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from paligemma.config import IMAGE_SLOT
from paligemma.errors import CheckpointError, InputError, UnavailableError, UsageError
from paligemma.tokenizer import (
    CLASSES,
    CONTROL_NAMES,
    CONTROLS,
    LOC_NAMES,
    LOCATION_NAMES,
    LOCATIONS,
    SEG_NAMES,
    SYMBOLS,
    Tokenizer,
)

GOLDEN = Path(__file__).parent / "data" / "golden" / "processor"
FILES = ("tokenizer.model", "tok-hub", "tok-added")
BIG_VISION = frozenset({LOCATIONS, SYMBOLS})
SYMBOL_NAMES = ("<mask>", "<2mass>", "[@BOS@]", "<unused3>", "<start_of_turn>", "<end_of_turn>")
TRAPS = (
    *CONTROL_NAMES, *SYMBOL_NAMES, "<loc0000>", "<loc1023>", "<loc1024>", "<seg127>", "<seg128>", "<0x41>", "<0x0A>",
    "<e", "os>", "<loc", "0001>", "<EOS>", "\uff1ceos\uff1e", "<\u200beos>", "<<eos>>", "<", ">", "<b>", "</b>",
    "<table>", " ", "  ", "       ", "\u2581", "\u2581\u2581", "\n", "\n\n\n", "\t\t", "\r\n", "\x00", "cat",
    "caption en", "12.5", "Stra\u00dfe", "\u732b", "\U0001f431\u200d\U0001f464", "e\u0301\u0301", "\u0627\u0644",
)  # fmt: skip
texts = st.lists(st.one_of(st.sampled_from(TRAPS), st.text(max_size=4)), max_size=10).map("".join)
texts = texts.filter(lambda text: not re.search("[\ud800-\udfff]", text))

TOKENIZERS = {file: Tokenizer.load(GOLDEN / file) for file in FILES}
HUB = TOKENIZERS["tok-hub"]


def piece(name, kind=4, score=0.0):
    """One vocabulary entry of a SentencePiece file."""
    text = name.encode()
    body = b"\x0a" + bytes([len(text)]) + text + b"\x15" + struct.pack("<f", score) + b"\x18" + bytes([kind])
    return b"\x0a" + bytes([len(body)]) + body


def edited(tmp_path, change):
    """A copy of tok-hub/tokenizer.json that `change` was applied to."""
    data = json.loads((GOLDEN / "tok-hub" / "tokenizer.json").read_text())
    change(data)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(data))
    return file


# --- ids -------------------------------------------------------------------------------------------------------------


def test_ids_are_looked_up_in_every_kind_of_file():
    for file, expected in {"tok-hub": "hub", "tok-added": "added"}.items():
        meta = json.loads((GOLDEN / "cases.json").read_text())[expected]["meta"]
        ours = TOKENIZERS[file]
        assert (ours.image_id, ours.loc_start, ours.seg_start) == (meta["image_token_id"], meta["loc0"], meta["seg0"])
        assert (ours.pad_id, ours.eos_id, ours.bos_id, ours.vocab_size) == (0, 1, 2, meta["vocab_size"])
    ours = TOKENIZERS["tokenizer.model"]
    assert (ours.image_id, ours.seg_start - ours.loc_start, ours.vocab_size - ours.seg_start) == (None, 1024, 128)


@pytest.mark.parametrize("file", FILES)
def test_locations_are_one_id_each_in_a_row(file):
    ours = TOKENIZERS[file]
    locations = frozenset({LOCATIONS})
    assert ours.encode("".join(LOC_NAMES), allow=locations) == list(range(ours.loc_start, ours.loc_start + 1024))
    assert ours.encode("".join(SEG_NAMES), allow=locations) == list(range(ours.seg_start, ours.seg_start + 128))
    assert ours.decode(range(ours.seg_start, ours.seg_start + 128)) == "".join(SEG_NAMES)


def test_what_only_looks_like_a_location_is_text():
    near = [f"<loc{i:04d}>" for i in range(10_000)] + [f"<seg{i:03d}>" for i in range(1000)]
    first = HUB.loc_start
    for name in [*near, "<loc1>", "<loc00001>", "<loc\u0660\u0660\u0660\u0661>", "<LOC0001>"]:
        ids = HUB.encode(name, allow=frozenset({LOCATIONS}))
        assert (len(ids) == 1 and ids[0] >= first) == (name in LOCATION_NAMES), name


@pytest.mark.parametrize("file", FILES)
@given(text=texts)
def test_typed_text_never_becomes_a_special_id(file, text):
    ours = TOKENIZERS[file]
    special = ours.special_ids | set(range(ours.loc_start, ours.seg_start + 128)) | {ours.image_id, IMAGE_SLOT}
    special |= {ours.encode(name, allow=CLASSES)[0] for name in SYMBOL_NAMES}
    assert special.isdisjoint(ours.encode(text))


@given(text=texts, allow=st.frozensets(st.sampled_from([LOCATIONS, SYMBOLS, CONTROLS])))
def test_only_the_allowed_classes_become_special(text, allow):
    ids = HUB.encode(text, allow=allow)
    special = {i for name in SYMBOL_NAMES for i in HUB.encode(name, allow=CLASSES)} | {0, 1, 2, 3, HUB.image_id}
    controls = {0, 1, 2, 3, HUB.image_id}
    assert controls.isdisjoint(ids) or CONTROLS in allow
    assert (special - controls).isdisjoint(ids) or SYMBOLS in allow
    assert not any(HUB.loc_start <= i < HUB.seg_start + 128 for i in ids) or LOCATIONS in allow
    assert HUB.decode(ids, skip_controls=False) == text.replace("\u2581", " ")


def test_controls_by_type():
    assert HUB.encode("<bos>a<eos>", allow=frozenset({CONTROLS})) == [2, *HUB.encode("a"), 1]
    assert HUB.encode("<image>", allow=frozenset({CONTROLS})) == [HUB.image_id]


def test_unknown_class_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'locations'"):
        HUB.encode("x", allow=frozenset({"location"}))


# --- the references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES)
def test_ids_equal_big_visions(file):
    golden = json.loads((GOLDEN / "bv_tokens.json").read_text())
    ours, first = TOKENIZERS[file], golden["meta"]["loc0"][0]
    for case in golden["prompts"]:
        expected = [i + ours.loc_start - first if i >= first else i for i in case["prefix_ids"]]
        assert [2, *ours.encode(case["text"], allow=BIG_VISION), ours.newline_id] == expected
        assert ours.decode(expected) == case["decoded"]


@pytest.fixture(scope="module")
def spm():
    added = b"".join(piece(name) for name in LOC_NAMES + SEG_NAMES)  # as big_vision adds them: the fields just repeat
    return sentencepiece.SentencePieceProcessor(model_proto=(GOLDEN / "tokenizer.model").read_bytes() + added)


@given(text=texts)
def test_both_kinds_of_file_equal_sentencepiece(spm, text):
    expected = spm.encode(text)
    assert TOKENIZERS["tokenizer.model"].encode(text, allow=BIG_VISION) == expected
    assert HUB.encode(text, allow=BIG_VISION) == expected


@pytest.mark.parametrize("character", ["a", "e", " ", "\n", "A", "th", "\u2581"])
def test_long_runs_equal_sentencepiece(spm, character):
    for length in range(70):
        text = character * length + "and"
        assert TOKENIZERS["tokenizer.model"].encode(text, allow=BIG_VISION) == spm.encode(text)


@pytest.mark.parametrize("file", ["tok-hub", "tok-added"])
def test_with_all_classes_ids_equal_hugging_faces(file):
    theirs = tokenizers.Tokenizer.from_file(str(GOLDEN / file / "tokenizer.json"))

    @given(text=texts)
    def check(text):
        assert TOKENIZERS[file].encode(text, allow=CLASSES) == theirs.encode(text, add_special_tokens=False).ids

    check()


# --- text that is none, and long text ---------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["\ud83d", "a\udc31", "\ud83d \udc31"])
def test_half_a_surrogate_pair_is_refused(text):
    with pytest.raises(InputError, match=r"half of a surrogate pair, at character [01]"):
        HUB.encode(text)


def test_nul_is_one_ordinary_byte():
    ids = HUB.encode("a\x00b")
    assert len(ids) == 3
    assert HUB.decode(ids) == "a\x00b"


@pytest.mark.parametrize("text", [None, b"caption", 3, ["caption"]])
def test_what_is_no_string_is_refused(text):
    with pytest.raises(InputError, match="a text was expected"):
        HUB.encode(text)


@pytest.mark.parametrize("unit", ["a", "<eos>", " ", "<loc0001>"])
def test_a_megabyte_takes_seconds(unit):
    text = unit * (10**6 // len(unit))
    start = time.monotonic()
    ids = HUB.encode(text, allow=BIG_VISION)
    assert time.monotonic() - start < 20  # quadratic would be hours
    assert len(ids) >= HUB.fewest_tokens(text)


@given(text=texts)
def test_fewest_tokens_is_a_lower_bound(text):
    assert HUB.fewest_tokens(text) <= len(HUB.encode(text, allow=CLASSES))


# --- decoding ---------------------------------------------------------------------------------------------------------


@given(ids=st.lists(st.integers(IMAGE_SLOT, HUB.vocab_size - 1)), skip=st.booleans())
def test_streamed_parts_join_to_decode(ids, skip):
    stream = HUB.stream(skip_controls=skip)
    parts = [stream.push(i) for i in ids]
    assert "".join([*parts, stream.flush()]) == HUB.decode(ids, skip_controls=skip)


@given(text=texts)
def test_no_streamed_part_ends_inside_a_character(text):
    stream, text = HUB.stream(), text.replace("\u2581", " ")
    done = ""
    for i in HUB.encode(text):
        done += stream.push(i)
        assert text.startswith(done)
    assert (done, stream.flush()) == (text, "")


def test_an_unfinished_character_is_marked_at_the_end():
    ids = HUB.encode("\U0001f431")
    assert len(ids) == 4
    stream = HUB.stream()
    assert [stream.push(i) for i in ids[:3]] == ["", "", ""]
    assert stream.flush() == HUB.decode(ids[:3]) == "\ufffd"
    assert stream.push(*ids) == "\U0001f431"  # flushed streams start anew


def test_controls_are_dropped_and_locations_kept():
    ids = [*HUB.encode("<bos>a<loc0001><mask><eos>", allow=CLASSES), IMAGE_SLOT, HUB.image_id]
    assert HUB.decode(ids) == "a<loc0001><mask>"
    assert HUB.decode(ids, skip_controls=False) == "<bos>a<loc0001><mask><eos><image><image>"


@pytest.mark.parametrize("token", [-2, HUB.vocab_size, 10**9])
def test_an_id_outside_the_vocabulary_is_refused(token):
    with pytest.raises(InputError, match=f"{token} is outside the vocabulary of {HUB.vocab_size}"):
        HUB.decode([token])


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_a_directory_and_nothing(tmp_path):
    assert Tokenizer.load(GOLDEN / "tok-hub" / "tokenizer.json").image_id == HUB.image_id
    with pytest.raises(UnavailableError, match=r"neither tokenizer\.json nor tokenizer\.model"):
        Tokenizer.load(tmp_path)
    with pytest.raises(UnavailableError, match="there is no tokenizer file"):
        Tokenizer.load(tmp_path / "tokenizer.model")


def without(names):
    def change(data):
        data["added_tokens"] = [entry for entry in data["added_tokens"] if entry["content"] not in names]
        for name in names:
            data["model"]["vocab"].pop(name, None)

    return change


def test_locations_are_appended_to_a_json_without_them(tmp_path):
    ours = Tokenizer.load(edited(tmp_path, without(LOCATION_NAMES)))
    assert (ours.loc_start, ours.seg_start, ours.vocab_size) == (2353, 3377, 3505)
    assert ours.encode("<seg001>", allow=frozenset({LOCATIONS})) == [3378]


def swap_locations(data):
    vocab = data["model"]["vocab"]
    vocab["<loc0005>"], vocab["<loc0006>"] = vocab["<loc0006>"], vocab["<loc0005>"]
    data["added_tokens"] = [entry for entry in data["added_tokens"] if "<loc" not in entry["content"]]


def break_merge(data):
    data["model"]["merges"].append(["no such", "piece"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without(["<loc0007>", "<seg000>"]), "lacks 2 of 1152 location tokens, the first is <loc0007>"),
        (swap_locations, "gives <loc0005> the id"),
        (without(["<eos>"]), "has no token '<eos>'"),
        (lambda data: data["added_tokens"][0].update(id=7), "two ids"),
        (lambda data: data["model"]["vocab"].update(cat=5), "no distinct natural numbers"),
        (lambda data: data["model"]["vocab"].update(cat=-5), "no distinct natural numbers"),
        (lambda data: data["model"]["vocab"].update(cat="5"), "no distinct natural numbers"),
        (lambda data: data.update(normalizer=None), "is not a Gemma tokenizer"),
        (lambda data: data.update(pre_tokenizer={"type": "ByteLevel"}), "is not a Gemma tokenizer"),
        (lambda data: data["model"].update(type="Unigram"), "is not a Gemma tokenizer"),
        (lambda data: data.pop("model"), "no readable tokenizer file"),
        (break_merge, "merges that do not fit"),
    ],
)
def test_a_json_that_does_not_fit_is_refused(tmp_path, change, message):
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.load(edited(tmp_path, change))


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"model": {"vocab": 3}}', b"\xff\xfe", b"[" * 100_000])
def test_a_broken_json_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(CheckpointError):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("kept", [0, 1, 7, 1000, 19_000])
def test_a_torn_model_is_refused(tmp_path, kept):
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / "tokenizer.model").read_bytes()[:kept])
    with pytest.raises(CheckpointError):
        Tokenizer.load(tmp_path)


@given(data=st.binary(max_size=60))
def test_random_bytes_are_no_model(tmp_path_factory, data):
    file = tmp_path_factory.getbasetemp() / "random.model"
    file.write_bytes(data)
    with pytest.raises(CheckpointError):
        Tokenizer.load(file)


@pytest.mark.parametrize("field", [b"\x12\x02\x18\x01", b"\x1a\x06\x18\x01\x20\x00\x28\x01", b"\x1a\x02\x18\x00"])
def test_a_model_of_another_kind_is_refused(tmp_path, field):
    """A later field replaces an earlier one: unigram, a dummy prefix, removal of extra spaces."""
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / "tokenizer.model").read_bytes() + field)
    with pytest.raises(CheckpointError, match="is not a Gemma tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_model_with_its_own_locations_keeps_them(tmp_path):
    added = b"".join(piece(name) for name in ("<extra>", *LOC_NAMES, *SEG_NAMES))
    (tmp_path / "tokenizer.model").write_bytes((GOLDEN / "tokenizer.model").read_bytes() + added)
    assert Tokenizer.load(tmp_path).loc_start == TOKENIZERS["tokenizer.model"].loc_start + 1


def test_merges_cannot_make_a_special_token(tmp_path):
    def change(data):
        data["model"]["vocab"].update({"<e": 9000, "os>": 9001, "<": 9003, ">": 9004})
        data["model"]["merges"][:0] = [["<", "e"], ["o", "s"], ["os", ">"], ["<e", "os>"]]
        data["model"]["vocab"].setdefault("os", 9002)

    file = edited(tmp_path, change)
    assert Tokenizer.load(file).encode("<eos>") == [9000, 9001]


def test_truncation_padding_and_old_merges_in_the_file_change_nothing(tmp_path):
    def change(data):
        data["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]

    text = "a long prompt that must not be cut"
    assert Tokenizer.load(edited(tmp_path, change)).encode(text) == HUB.encode(text)


@pytest.mark.slow
def test_a_vocabulary_of_gemmas_size_loads_in_seconds(tmp_path):
    alphabet = "abcdefghijklmnopqrstu\u2581"
    words = ("".join(letters) for size in range(1, 5) for letters in itertools.product(alphabet, repeat=size))
    data = {word: 10_000 + i for i, word in enumerate(words)}
    assert len(data) > 240_000

    def change(file):
        vocab = {**data, **file["model"]["vocab"]}
        merges = [[w[:i], w[i:]] for w in data for i in range(1, len(w)) if w[:i] in vocab and w[i:] in vocab]
        file["model"].update(vocab=vocab, merges=merges)

    file = edited(tmp_path, change)
    start = time.monotonic()
    ours = Tokenizer.load(file)
    assert time.monotonic() - start < 15
    assert ours.decode(ours.encode("detect cat ; dog")) == "detect cat ; dog"
