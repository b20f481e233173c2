"""Text to token ids and back, for Gemma's alphabet with PaliGemma's 1,024 `<loc>` and 128 `<seg>` tokens.

A string comes in, ids go out. Only the program makes special ids: `<eos>`, `<mask>` or `<loc0001>` in a string is
ordinary text unless the caller allows its class by name. What is spelled like a special token is cut out by a regular
expression and looked up; everything else goes through one BPE, to which no special token is reachable: none is among
its added words, and no merge makes one. White-space runs and html tags stay words of that BPE, as in SentencePiece.

Not done here: the order of bos, prompt, newline and answer (see `processor`). NUL is an ordinary character (one byte
token). Sources: SentencePiece `sentencepiece_model.proto` and its BPE; big_vision `pp/ops_text.py`.
"""

import codecs
import json
import re
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from paligemma.config import IMAGE_SLOT, NUM_LOC_TOKENS, NUM_SEG_TOKENS, did_you_mean
from paligemma.errors import CheckpointError, InputError, UnavailableError, UsageError

LOCATIONS = "locations"  # <loc0000>..<loc1023>, <seg000>..<seg127>
SYMBOLS = "symbols"  # pieces the vocabulary's makers defined: <mask>, <start_of_turn>, <unused0>, ...
CONTROLS = "controls"  # <pad> <eos> <bos> <unk> <image>
UNDERLINES = (
    "underlines"  # typed runs of U+2581, apart from the spaces beside them; only Hugging Face's dialect needs it
)
CLASSES = frozenset({LOCATIONS, SYMBOLS, CONTROLS, UNDERLINES})

SPACE = "\u2581"  # how a space is written inside the vocabulary
CONTROL_NAMES = ("<pad>", "<eos>", "<bos>", "<unk>", "<image>")
LOC_NAMES = tuple(f"<loc{i:04d}>" for i in range(NUM_LOC_TOKENS))
SEG_NAMES = tuple(f"<seg{i:03d}>" for i in range(NUM_SEG_TOKENS))
LOCATION_NAMES = frozenset(LOC_NAMES + SEG_NAMES)
BYTE_NAMES = {f"<0x{byte:02X}>": bytes([byte]) for byte in range(256)}
HTML_TAG = re.compile(
    r"</?(a|b|blockquote|br|caption|center|code|dd|del|div|dl|dt|em|h[1-6]|hr|i|ins|kbd|li|ol|p|pre|s|small|span|"
    r"strong|sub|sup|table|tbody|td|tfoot|th|thead|tr|tt|u|ul)>"
)


class Tokenizer:
    """Ids of one vocabulary file; make it with `Tokenizer.load`.

    Attributes:
        pad_id, eos_id, bos_id, unk_id, newline_id: ids; newline_id is of one newline, the separator.
        image_id: id of Hugging Face's `<image>`, None where the file has none.
        loc_start, seg_start: ids of `<loc0000>` and `<seg000>`; the others follow them.
        vocab_size: number of ids, added ones included.
        special_ids: what the file calls special; Hugging Face's `skip_special_tokens` drops these.
    """

    def __init__(self, vocabulary: "Vocabulary"):
        pieces = dict(vocabulary.pieces)
        _append_locations(pieces, vocabulary.name)
        self.pad_id, self.eos_id, self.bos_id, self.unk_id, self.newline_id = (
            _require(pieces, name, vocabulary.name) for name in ("<pad>", "<eos>", "<bos>", "<unk>", "\n")
        )
        self.image_id = pieces.get("<image>")
        self.loc_start = _first_of_row(pieces, LOC_NAMES, vocabulary.name)
        self.seg_start = _first_of_row(pieces, SEG_NAMES, vocabulary.name)
        self.vocab_size = max(pieces.values()) + 1
        self.special_ids = frozenset(pieces[name] for name in vocabulary.special)

        words = [
            name for name in vocabulary.defined if name.isspace() or set(name) == {SPACE} or HTML_TAG.fullmatch(name)
        ]
        symbols = vocabulary.defined - LOCATION_NAMES - BYTE_NAMES.keys() - set(CONTROL_NAMES) - set(words)
        names = {
            LOCATIONS: LOCATION_NAMES,
            SYMBOLS: symbols,
            CONTROLS: {name for name in CONTROL_NAMES if name in pieces},
            UNDERLINES: vocabulary.underlines,
        }
        self._ids = {kind: {name: pieces[name] for name in members} for kind, members in names.items()}
        self._patterns: dict[frozenset[str], tuple[re.Pattern[str], dict[str, int]]] = {}
        self._bytes: dict[int, bytes] = {}
        self._control_ids = frozenset(self._ids[CONTROLS].values()) | {IMAGE_SLOT}
        self._longest_piece = max(map(len, pieces))
        unreachable = LOCATION_NAMES.union(CONTROL_NAMES, BYTE_NAMES, symbols)
        self._bpe = _build_bpe(pieces, vocabulary, words, unreachable)

    @classmethod
    def load(cls, path: str | Path) -> "Tokenizer":
        """Reads tokenizer.json (Hugging Face) or tokenizer.model (SentencePiece), or the one a directory holds.

        A file without location tokens gets them after its last id, loc then seg, as big_vision does.

        Raises:
            UnavailableError: nothing is there.
            CheckpointError: the file is broken or no Gemma tokenizer, or a location token is not one id in its row.
        """
        file = _find_file(Path(path))
        try:
            return cls(_read_json(file) if file.suffix == ".json" else _read_sentencepiece(file))
        except OSError as error:
            raise CheckpointError(f"{file.name} cannot be read ({error.strerror}); check the file") from error

    def encode(self, text: str, *, allow: frozenset[str] = frozenset()) -> list[int]:
        """Token ids of `text`, without bos or eos.

        Args:
            allow: which of `LOCATIONS`, `SYMBOLS` and `CONTROLS` may become special ids; the others stay text.

        Raises:
            InputError: `text` is no string, or holds a lone surrogate.
            UsageError: `allow` names an unknown class.
        """
        _refuse_bad_text(text)
        if not allow:
            return self._encode_words(text)
        pattern, known = self._pattern(frozenset(allow))
        ids: list[int] = []
        done = 0
        for match in pattern.finditer(text):
            ids += self._encode_words(text[done : match.start()])
            ids.append(known[match.group()])
            done = match.end()
        return ids + self._encode_words(text[done:])

    def fewest_tokens(self, text: str) -> int:
        """A lower bound of `len(encode(text))` that costs nothing, to refuse huge texts unread."""
        return -(-len(text) // self._longest_piece)

    def decode(self, ids: Iterable[int], *, skip_controls: bool = True) -> str:
        """The text of `ids`; locations and symbols stay in it, spelled out; bytes that are no UTF-8 become U+FFFD.

        Raises:
            InputError: an id outside the vocabulary. `IMAGE_SLOT` is inside: it reads as `<image>`.
        """
        stream = TextStream(self, skip_controls=skip_controls)
        return stream.push(*ids) + stream.flush()

    def stream(self, *, skip_controls: bool = True) -> "TextStream":
        """A decoder for ids that arrive one by one."""
        return TextStream(self, skip_controls=skip_controls)

    def bytes_of(self, token: int, *, skip_controls: bool = True) -> bytes:
        """The UTF-8 one id stands for; a byte token gives one byte of a longer character.

        Raises:
            InputError: `token` is outside the vocabulary.
        """
        if token in self._control_ids and skip_controls:
            return b""
        if token not in self._bytes:
            self._bytes[token] = self._spell(token)
        return self._bytes[token]

    def _spell(self, token: int) -> bytes:
        if token == IMAGE_SLOT:
            return b"<image>"
        piece = self._bpe.id_to_token(token) if 0 <= token < self.vocab_size else None
        if piece is None:
            raise InputError(
                f"token id {token} is outside the vocabulary of {self.vocab_size} ids; give ids this model made"
            )
        return BYTE_NAMES.get(piece) or piece.replace(SPACE, " ").encode()

    def _encode_words(self, text: str) -> list[int]:
        return self._bpe.encode(text, add_special_tokens=False).ids if text else []

    def _pattern(self, allow: frozenset[str]) -> tuple[re.Pattern[str], dict[str, int]]:
        if allow not in self._patterns:
            for kind in allow - CLASSES:
                raise UsageError(f"unknown class of special tokens {kind!r}{did_you_mean(kind, set(CLASSES))}")
            known = {name: token for kind in allow for name, token in self._ids[kind].items()}
            # Location tokens by one branch, kept exact: 1,152 branches would be tried at every "<".
            branches = [re.escape(name) for name in sorted(set(known) - LOCATION_NAMES, key=len, reverse=True)]
            if LOCATIONS in allow:
                branches.append(r"<loc(?:0[0-9]{3}|10[01][0-9]|102[0-3])>|<seg(?:0[0-9]{2}|1[01][0-9]|12[0-7])>")
            self._patterns[allow] = re.compile("|".join(branches) or r"(?!)"), known
        return self._patterns[allow]


class TextStream:
    """Ids in, text out as soon as it is whole: never half a character; the parts join to what `decode` gives."""

    def __init__(self, tokenizer: Tokenizer, *, skip_controls: bool = True):
        self._tokenizer = tokenizer
        self._skip_controls = skip_controls
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, *ids: int) -> str:
        """The text that became complete; may be empty."""
        data = b"".join(self._tokenizer.bytes_of(int(token), skip_controls=self._skip_controls) for token in ids)
        return self._decoder.decode(data)

    def flush(self) -> str:
        """What is left when no more ids come: U+FFFD for an unfinished character, otherwise nothing."""
        return self._decoder.decode(b"", final=True)


def _refuse_bad_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text was expected, found {type(text).__name__}; give a string")
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"the text holds U+{ord(text[error.start]):04X}, half of a surrogate pair, at character {error.start}; "
            "give valid Unicode"
        ) from error


# --- what a vocabulary file says, whatever its kind ------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The content of a tokenizer file."""

    name: str  # of the file, for messages
    pieces: dict[str, int]  # text -> id, added tokens included
    merges: list[tuple[str, str]]  # best first
    defined: frozenset[str]  # pieces found as a whole before any merging
    special: frozenset[str]
    underlines: frozenset[str]  # runs of U+2581 that Hugging Face finds in the text as typed


def _require(pieces: dict[str, int], name: str, file: str) -> int:
    if name not in pieces:
        raise CheckpointError(
            f"{file} has no token {name!r}, which every PaliGemma tokenizer has; give the model's own file"
        )
    return pieces[name]


def _append_locations(pieces: dict[str, int], file: str) -> None:
    """Adds the location tokens after the last id where there are none; some of them only is a broken file."""
    missing = [name for name in LOC_NAMES + SEG_NAMES if name not in pieces]
    if missing and len(missing) < len(LOCATION_NAMES):
        raise CheckpointError(
            f"{file} lacks {len(missing)} of {len(LOCATION_NAMES)} location tokens, the first is {missing[0]}; "
            "give a file with all of them or none"
        )
    first = max(pieces.values(), default=-1) + 1
    pieces.update((name, first + i) for i, name in enumerate(missing))


def _first_of_row(pieces: dict[str, int], names: tuple[str, ...], file: str) -> int:
    first = pieces[names[0]]
    for i, name in enumerate(names):
        if pieces[name] != first + i:
            raise CheckpointError(
                f"{file} gives {name} the id {pieces[name]}, but {first + i} was expected: the ids of {names[0]}.."
                f"{names[-1]} must follow one another; give the model's own file"
            )
    return first


def _build_bpe(
    pieces: dict[str, int], vocabulary: Vocabulary, words: Iterable[str], unreachable: frozenset[str]
) -> tokenizers.Tokenizer:
    merges = [pair for pair in vocabulary.merges if pair[0] + pair[1] not in unreachable]
    try:
        model = tokenizers.models.BPE(
            vocab=pieces, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback="<0x00>" in pieces
        )
    except Exception as error:  # the library raises nothing more specific
        raise CheckpointError(f"{vocabulary.name} has merges that do not fit its vocabulary ({error})") from error
    bpe = tokenizers.Tokenizer(model)
    bpe.normalizer = tokenizers.normalizers.Replace(" ", SPACE)
    # normalized: runs of U+2581 are looked for where spaces are already written so, as SentencePiece does
    bpe.add_tokens([tokenizers.AddedToken(word, normalized=True, special=False) for word in sorted(words)])
    return bpe


def _find_file(path: Path) -> Path:
    if path.is_dir():
        for name in ("tokenizer.json", "tokenizer.model"):
            if (path / name).is_file():
                return path / name
        raise UnavailableError(f"{path} holds neither tokenizer.json nor tokenizer.model; copy one of them there")
    if not path.is_file():
        raise UnavailableError(
            f"there is no tokenizer file {path}; give a tokenizer.json, a tokenizer.model or their directory"
        )
    return path


# --- tokenizer.json (Hugging Face) -----------------------------------------------------------------------------------

_SPACE_TO_UNDERLINE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}


def _read_json(file: Path) -> Vocabulary:
    try:
        data = json.loads(file.read_bytes())
        _refuse_other_kinds(data, file.name)
        pieces: dict[str, int] = dict(data["model"]["vocab"])
        added = [(entry["content"], entry["id"], entry) for entry in data.get("added_tokens") or []]
        merges = [_pair(merge) for merge in data["model"]["merges"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{file.name} is no readable tokenizer file ({type(error).__name__}: {error}); copy it again"
        ) from error
    for name, token, _ in added:
        if pieces.setdefault(name, token) != token:
            raise CheckpointError(
                f"{file.name} gives {name!r} two ids, {pieces[name]} and {token}; give the model's own file"
            )
    _refuse_bad_ids(pieces, file.name)
    return Vocabulary(
        name=file.name,
        pieces=pieces,
        merges=merges,
        defined=frozenset(name for name, _, _ in added),
        special=frozenset(name for name, _, entry in added if entry.get("special")),
        underlines=frozenset(
            name for name, _, entry in added if set(name) == {SPACE} and not entry.get("normalized", True)
        ),
    )


def _refuse_other_kinds(data: dict[str, Any], file: str) -> None:
    """Other normalisers or models would give wrong ids silently. Truncation and padding in the file are not used."""
    normalizer, splitter, model = data.get("normalizer"), data.get("pre_tokenizer"), data["model"]
    if normalizer and normalizer.get("type") == "Sequence" and len(normalizer["normalizers"]) == 1:
        normalizer = normalizer["normalizers"][0]
    splits_at_space = not splitter or (splitter.get("type") == "Split" and splitter["pattern"] == {"String": " "})
    is_plain = not (
        model.get("continuing_subword_prefix") or model.get("end_of_word_suffix") or model.get("ignore_merges")
    )
    if model.get("type", "BPE") != "BPE" or normalizer != _SPACE_TO_UNDERLINE or not splits_at_space or not is_plain:
        raise CheckpointError(
            f"{file} is not a Gemma tokenizer (a BPE over text with spaces written as U+2581, nothing else changed); "
            "give the model's own file"
        )


def _pair(merge: Any) -> tuple[str, str]:
    """Files write a merge as ["a", "b"] or, older ones, as "a b"."""
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left, right


def _refuse_bad_ids(pieces: dict[str, int], file: str) -> None:
    ids = pieces.values()
    if not pieces or not all(type(i) is int and 0 <= i < 2**31 for i in ids) or len(set(ids)) != len(pieces):
        raise CheckpointError(f"{file} has ids that are no distinct natural numbers; give the model's own file")
    if not all(pieces):
        raise CheckpointError(f"{file} has an empty token; give the model's own file")


# --- tokenizer.model (SentencePiece) ---------------------------------------------------------------------------------
# Read here, without the sentencepiece package: its Python side does not tell which pieces are user-defined.

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED = 1, 2, 3, 4
_BPE = 2


def _read_sentencepiece(file: Path) -> Vocabulary:
    pieces: dict[str, int] = {}
    scores: dict[str, float] = {}  # of normal pieces
    kinds: dict[int, list[str]] = {_UNKNOWN: [], _CONTROL: [], _USER_DEFINED: []}
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    count = 0
    try:
        for number, value in _fields(file.read_bytes()):
            if number == 1:
                entry = dict(_fields(value))
                name, kind = entry[1].decode(), entry.get(3, _NORMAL)
                pieces[name] = count
                count += 1
                if kind == _NORMAL:
                    (scores[name],) = struct.unpack("<f", entry[2])
                kinds.setdefault(kind, []).append(name)
            elif number == 2:
                trainer = dict(_fields(value))
            elif number == 3:
                normalizer = dict(_fields(value))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, struct.error) as error:
        raise CheckpointError(f"{file.name} is no readable SentencePiece model; copy it again") from error
    if count != len(pieces):
        raise CheckpointError(f"{file.name} has {count - len(pieces)} pieces twice; give the model's own file")
    _refuse_bad_ids(pieces, file.name)
    # fields: 2 character map, 3 dummy prefix, 4 removal of extra spaces, 5 spaces as U+2581 (the last three default on)
    settings = [normalizer.get(2, b""), *(normalizer.get(number, 1) for number in (3, 4, 5))]
    if trainer.get(3) != _BPE or settings != [b"", 0, 0, 1]:
        raise CheckpointError(
            f"{file.name} is not a Gemma tokenizer (BPE, identity normaliser, no dummy prefix); "
            "give the model's own file"
        )
    defined = frozenset(kinds[_CONTROL] + kinds[_UNKNOWN] + kinds[_USER_DEFINED])
    return Vocabulary(
        name=file.name,
        pieces=pieces,
        merges=_merges(scores, pieces),
        defined=defined,
        special=frozenset(kinds[_CONTROL] + kinds[_UNKNOWN]),
        underlines=frozenset(name for name in kinds[_USER_DEFINED] if set(name) == {SPACE}),
    )


def _merges(scores: dict[str, float], pieces: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of normal pieces that joins to a normal piece, highest score first: what SentencePiece would merge."""
    merges = []
    for whole in sorted(scores, key=scores.__getitem__, reverse=True):
        pairs = [(whole[:cut], whole[cut:]) for cut in range(1, len(whole)) if whole[:cut] in scores]
        pairs = [pair for pair in pairs if pair[1] in scores]
        merges += sorted(pairs, key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    return merges


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values of one protocol-buffer message: int for varints, bytes for everything else."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        if key & 7 == 2:
            size, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}[key & 7]
        if at + size > len(data):
            raise ValueError("the message ends inside a field")
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number has more than 64 bits")
