"""Builds nano's tokenizer.json: Gemma's structure at a small size.

ids: <pad> <eos> <bos> <unk> <mask>, a few unused, newline and space runs, 256 bytes, BPE pieces, then <loc0000>..,
<seg000>.. and <image> at the end, as in the published files.
"""

import json
import random
from collections.abc import Iterator
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from paligemma.scenes import draw_clip, draw_scene
from paligemma.scenes.catalog import LABELS
from paligemma.scenes.language import asks, clip_asks
from paligemma.scenes.vocabulary import LANGUAGES, forms

CONTROLS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
SYMBOLS = [f"<unused{i}>" for i in range(8)] + ["<start_of_turn>", "<end_of_turn>"]
RUNS = ["\n" * n for n in range(1, 9)] + ["▁" * n for n in range(2, 9)]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
LOCATIONS = [f"<loc{i:04d}>" for i in range(1024)] + [f"<seg{i:03d}>" for i in range(128)]
BASE_SIZE = 2048


def corpus(scenes: int = 5000, clips: int = 200) -> Iterator[str]:
    """What is asked and answered in the drawn world, in five languages, without boxes."""
    for seed in range(scenes):
        rng = random.Random(seed)
        for ask in asks(draw_scene(-1 - seed, 32), rng, 6, languages=dict.fromkeys(LANGUAGES, 0.2)):
            yield ask.prefix
            if "<loc" not in ask.suffix:
                yield ask.suffix
    for seed in range(clips):
        for ask in clip_asks(draw_clip(-1 - seed, 32), random.Random(seed), 4, dict.fromkeys(LANGUAGES, 0.2)):
            yield from (ask.prefix, ask.suffix)
    for label in LABELS:
        for language in LANGUAGES:
            words = forms(label, language)
            yield from (f" {word}" for word in (words.one, words.many) for _ in range(20))
    characters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.,;:!?'\"()-+*/=%&#@[]<>_|"
    for character in characters:
        yield from (character, f" {character}")


def learned_pieces(size: int) -> tuple[list[str], list[tuple[str, str]]]:
    """`size` BPE pieces and their merges, never across words (a space only ever begins a piece), digits or capitals.

    Capitals that begin a lower-case word are part of it (German nouns); words in capitals are spelled letter by letter,
    so that reading print is spelling.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[A-Z](?![a-z])"), "isolated"),
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Punctuation("isolated"),
            pre_tokenizers.Digits(individual_digits=True),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=size, min_frequency=2, show_progress=False)
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
