"""The same random weights for all sides, made once: `hf` as a published checkpoint is, `Q8_0` and `Q4_0` as GGUF.

The checkpoint has the shapes of PaliGemma 2 3B and a tokenizer of made-up words with the real numbers of its special
tokens. Weights are drawn with 0.02 of standard deviation, so that nothing overflows and no answer ends early.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from harness.cases import VARIANT, variant

PART = ".part"  # of what is being made


def ready(directory: Path, layout: str, image_size_px: int) -> Path:
    """Where the weights lie in one layout, for pictures of one size; made first where they are not there."""
    checkpoint = directory / variant(image_size_px)
    path = checkpoint if layout == "hf" else directory / f"{VARIANT}-{layout}.gguf"
    if not (checkpoint / "tokenizer.json").exists():  # written last
        _told(checkpoint, make_checkpoint)
    if not path.exists():
        _told(path, lambda path: make_gguf(checkpoint, path, layout))
    return path


def make_checkpoint(directory: Path) -> None:
    """Draws and writes 6 GB."""
    import torch

    from paligemma.checkpoints import save
    from paligemma.checkpoints.tensors import empty_model
    from paligemma.config import Config

    torch.manual_seed(0)
    model = empty_model(Config.of(directory.name.removesuffix(PART)).with_padding_rows())
    model = model.to(torch.bfloat16).to_empty(device="cpu")
    for name, parameter in model.named_parameters():
        if parameter.ndim >= 2:
            parameter.data.normal_(0, 0.02)
        elif "layer_norm" in name or "layernorm" in name:
            parameter.data.fill_(1.0 if name.endswith("weight") else 0.0)
        else:
            parameter.data.zero_()
    save(model, directory)
    write_tokenizer(directory / "tokenizer.json")


def write_tokenizer(file: Path) -> None:
    """257,152 pieces: the special ones where Gemma has them, words that spell their own number for the rest."""
    from paligemma.config import GEMMA_VOCAB_SIZE, NUM_LOC_TOKENS, NUM_SEG_TOKENS

    pieces = ["<pad>", "<eos>", "<bos>", "<unk>"] + [f"w{i}" for i in range(4, GEMMA_VOCAB_SIZE)]
    pieces[108] = "\n"
    special = pieces[:4]
    locations = [f"<loc{i:04}>" for i in range(NUM_LOC_TOKENS)] + [f"<seg{i:03}>" for i in range(NUM_SEG_TOKENS)]
    ids = {name: i for i, name in enumerate([*pieces, *locations, "<image>"])}
    added = [
        {"id": ids[name], "content": name, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": name in special}
        for name in [*special, "\n", *locations, "<image>"]
    ]  # fmt: skip
    file.write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None, "post_processor": None, "decoder": None,
        "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": False,
                  "vocab": ids, "merges": []},
    }))  # fmt: skip


def make_gguf(checkpoint: Path, path: Path, layout: str) -> None:
    """The decoder of a checkpoint as llama.cpp reads it, every matrix in `layout`, the vocabulary's too."""
    from harness.gguf import NAMES, Writer, encoded
    from paligemma.checkpoints import load_checkpoint

    model = load_checkpoint(checkpoint).model.language_model
    text = model.config
    weights = dict(model.state_dict())
    writer = Writer(path, _gguf_metadata(text, layout))
    tensors: list[tuple[str, Any]] = []
    for name, tensor in weights.items():
        known = name.split(".")
        short = ".".join(known[2:]) if known[0] == "layers" else name
        prefix = f"blk.{known[1]}." if known[0] == "layers" else ""
        tensors.append((prefix + NAMES[short], tensor))
    writer.begin([(name, tuple(tensor.shape), layout if tensor.ndim == 2 else "F32") for name, tensor in tensors])
    for _, tensor in tensors:  # Gemma's norms are kept as what they multiply by
        writer.add(encoded(tensor, layout) if tensor.ndim == 2 else (tensor.float() + 1).numpy().tobytes())
    writer.close()


def _gguf_metadata(text: Any, layout: str) -> dict[str, Any]:
    rows = text.embedding_rows
    bytes_known = [f"<0x{i:02X}>" for i in range(256)]
    words = ["<pad>", "<eos>", "<bos>", "<unk>", *bytes_known, *(f"w{i}" for i in range(260, rows))]
    kinds = [3, 3, 3, 2] + [6] * 256 + [1] * (rows - 260)  # control, unknown, byte, normal
    return {
        "general.architecture": "gemma2", "general.name": VARIANT, "general.alignment": 32,
        "general.file_type": {"Q8_0": 7, "Q4_0": 2}[layout],
        "gemma2.context_length": text.max_positions, "gemma2.embedding_length": text.width,
        "gemma2.block_count": text.depth, "gemma2.feed_forward_length": text.mlp_dim,
        "gemma2.attention.head_count": text.num_heads, "gemma2.attention.head_count_kv": text.num_kv_heads,
        "gemma2.attention.key_length": text.head_dim, "gemma2.attention.value_length": text.head_dim,
        "gemma2.attention.layer_norm_rms_epsilon": text.norm_eps,
        "gemma2.attention.sliding_window": text.sliding_window,
        "gemma2.attn_logit_softcapping": text.attn_logit_softcap,
        "gemma2.final_logit_softcapping": text.final_logit_softcap,
        "tokenizer.ggml.model": "llama", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": words,
        "tokenizer.ggml.scores": [0.0] * rows, "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.bos_token_id": 2, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.unknown_token_id": 3,
        "tokenizer.ggml.padding_token_id": 0,
    }  # fmt: skip


def _told(path: Path, make: Any) -> None:
    """Makes it beside its place, so that what is there is whole."""
    began = time.perf_counter()
    print(f"making {path} ...", file=sys.stderr, flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    half = path.with_name(path.name + PART)
    make(half)
    half.replace(path)
    print(f"made in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
