"""Builds nano's tokenizer.json: Gemma's structure at a small size.

ids: <pad> <eos> <bos> <unk> <mask>, a few unused, newline and space runs, 256 bytes, BPE pieces, then <loc0000>..,
<seg000>.. and <image> at the end, as in the published files.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from paligemma.scenes.first import LABELS, WORDS, draw_scene, examples, plural

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
SYMBOLS = [f"<unused{i}>" for i in range(8)] + ["<start_of_turn>", "<end_of_turn>"]
RUNS = ["\n" * n for n in range(1, 9)] + ["▁" * n for n in range(2, 9)]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
LOCATIONS = [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
BASE_SIZE = 1024


def corpus(scenes: int = 4000) -> Iterator[str]:
    rng = random.Random(0)
    for seed in range(scenes):
        scene = draw_scene(-1 - seed, 56)
        for prefix, suffix in examples(scene, rng, 3):
            yield prefix
            if "<loc" not in suffix:
                yield suffix
    for label in LABELS:
        yield from (f" {label}", f" {plural(label)}")
    for word in WORDS:
        yield from (word, f" {word}", f" {word.upper()}", word.upper())
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-+*/=%&#@[]<>_|"
    for character in characters:
        yield from (character, f" {character}")


def learned_pieces(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` BPE pieces and their merges, never across words (a space only ever begins a piece) nor digits."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=1, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    model = json.loads(tokenizer.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)
    return pieces, [tuple(merge) for merge in model["merges"]]


def build() -> dict:
    """The tokenizer.json as a dictionary."""
    head = [*CONTROLS, *SYMBOLS, *RUNS, *BYTES]
    pieces, merges = learned_pieces(BASE_SIZE - len(head))
    pieces = [piece for piece in pieces if piece not in head]
    filler = [f"<unused{8 + i}>" for i in range(BASE_SIZE - len(head) - len(pieces))]
    ordered = [*head, *pieces, *filler, *LOCATIONS, "<image>"]
    vocab = {piece: index for index, piece in enumerate(ordered)}
    special = {*CONTROLS, "<image>"}
    added = [*CONTROLS, *SYMBOLS, *RUNS, *filler, *LOCATIONS, "<image>"]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    data = json.loads(tokenizer.to_str())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    data["added_tokens"] = [
        {"id": vocab[token], "content": token, **flags, "special": token in special} for token in added
    ]
    return data


def write(path: Path) -> None:
    path.write_text(json.dumps(build(), ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
