from dataclasses import replace

import pytest
import torch

from paligemma.config import Config, TextConfig, VisionConfig
from paligemma.model import AttentionMask, PaliGemmaModel
from paligemma.model.layers import rotary_angles
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.parts import prepare
from paligemma.train.planning import activations
from paligemma.train.planning.activations import Shape, kept, text_scores, text_token, vision_token
from paligemma.train.planning.inventory import inventory

VISION = VisionConfig(width=128, depth=2, mlp_dim=400, num_heads=4, image_size_px=56)
GEMMA_1 = TextConfig(width=160, depth=2, mlp_dim=480, num_heads=4, num_kv_heads=1, head_dim=32, vocab_size=2000)
GEMMA_2 = replace(
    GEMMA_1, num_kv_heads=2, post_norms=True, attn_logit_softcap=50.0, final_logit_softcap=30.0, sliding_window=4096
)
WAYS = {
    "full": TrainConfig(),
    "attention": TrainConfig(train=("attention",)),
    "lora": TrainConfig(lora=LoraConfig(where=("lm", "vision"), rank=2)),
}
ROWS, TOKENS = 2, 64


def prepared(text, config, precision):
    """A model, its inventory and bytes of its frozen weights, as a run has them."""
    architecture = Config(vision=VISION, text=text)
    torch.manual_seed(0)
    model = PaliGemmaModel(architecture)
    prepare(model, config)
    low = config.lora is not None and precision == "bf16"
    for parameter in model.parameters():
        if low and not parameter.requires_grad:
            parameter.data = parameter.data.bfloat16()
    return model.train(), inventory(architecture, config), 2 if low else 4


def bytes_kept(model, run, precision):
    """What autograd keeps, each storage once and weights apart."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            seen[storage.data_ptr()] = storage
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"),
    ):
        out = run()
    assert out.requires_grad
    return sum(storage.nbytes() for storage in seen.values())


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("text", [GEMMA_1, GEMMA_2], ids=["gemma1", "gemma2"])
def test_a_block_of_the_language_model_keeps_what_the_formula_says(text, way, precision):
    model, parts, frozen = prepared(text, WAYS[way], precision)
    c = 2 if precision == "bf16" else 4
    mask = AttentionMask.prefix_lm(torch.zeros(ROWS, TOKENS).long(), torch.ones(ROWS, TOKENS).bool())
    angles = rotary_angles(mask.query_position, text.head_dim, 1e4)
    x = torch.randn(ROWS, TOKENS, text.width, dtype=torch.bfloat16 if frozen == 2 else torch.float32)
    real = bytes_kept(
        model, lambda: model.language_model.layers[1](x.requires_grad_() * 1, angles, mask, None), precision
    )
    shape = Shape(rows=ROWS, tokens=TOKENS, learnt=1, pictures=0)
    formula = ROWS * TOKENS * text_token(text, parts, c, 4) + text_scores(text, shape, c, 4)
    formula += activations._casts(parts.lm, frozen) if c == 2 else 0
    assert formula == pytest.approx(real, rel=0.06)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("way", WAYS)
def test_a_block_of_the_image_encoder_keeps_what_the_formula_says(way, precision):
    model, parts, frozen = prepared(GEMMA_1, WAYS[way], precision)
    c, seen = 2 if precision == "bf16" else 4, VISION.num_image_tokens
    x = torch.randn(8, seen, VISION.width, dtype=torch.bfloat16 if frozen == 2 else torch.float32)
    real = bytes_kept(model, lambda: model.vision_tower.layers[1](x.requires_grad_() * 1), precision)
    formula = 8 * seen * vision_token(VISION, parts.vision, c, frozen, 4)
    formula += activations._casts(parts.vision, frozen) if c == 2 else 0
    assert formula == pytest.approx(real, rel=0.1)


def test_scores_made_in_blocks_are_not_kept(monkeypatch):
    shape = Shape(rows=ROWS, tokens=TOKENS, learnt=1, pictures=0)
    whole = text_scores(GEMMA_2, shape, 4, 4)
    assert whole > 0
    limit = 4 * ROWS * 4 * TOKENS * TOKENS - 1
    monkeypatch.setattr(activations, "BLOCK_BYTES", limit)
    assert text_scores(GEMMA_2, shape, 4, 4) == 0


def test_checkpointing_keeps_a_stream_and_one_block():
    architecture = Config(vision=VISION, text=replace(GEMMA_2, depth=10))
    parts = inventory(architecture, TrainConfig())
    shape = Shape(rows=4, tokens=80, learnt=40, pictures=4)
    whole, again = (
        kept(architecture, parts, shape, bf16=True, checkpointing=flag, residual=4, chunk=512) for flag in (False, True)
    )
    assert again.lm == 10 * 4 * 80 * GEMMA_2.width * 4
    assert again.casts == 0
    assert again.lm + again.working < 0.3 * whole.lm


def test_a_tower_without_gradients_keeps_nothing():
    architecture = Config(vision=VISION, text=GEMMA_1)
    parts = inventory(architecture, TrainConfig(lora=LoraConfig(where=("lm",))))
    shape = Shape(rows=1, tokens=80, learnt=40, pictures=1)
    assert kept(architecture, parts, shape, bf16=True, checkpointing=False, residual=2, chunk=512).vision == 0
