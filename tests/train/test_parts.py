"""What moves and what does not: counts of the published recipes, and a tiny model of which everything else stays."""

import pytest
import torch
from tests.oracle import TINY, draw_model

from paligemma.checkpoints.tensors import empty_model
from paligemma.config import Config
from paligemma.errors import UsageError
from paligemma.linear.lora import LoraLinear
from paligemma.linear.quantized import Int8Linear, Nf4Linear
from paligemma.linear.swap import linears
from paligemma.model.loss import suffix_loss
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.parts import TRAIN, WHERE, prepare

SUFFIX_MATCHED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def prepared(generation=1, **options):
    if "lora" in options:
        options["lora"] = LoraConfig(**options["lora"])
    return prepare(draw_model(TINY[generation]).train(), TrainConfig(**options))


def on_paper(name, **options):
    return prepare(empty_model(Config.of(name)), TrainConfig(**options))


def test_the_widely_copied_lora_recipe_adapts_half_the_image_encoder():
    copied = on_paper("paligemma-3b-pt-224", lora=LoraConfig(rank=8, where=SUFFIX_MATCHED))
    assert copied.trainable == 11_298_816
    assert (copied.of("lm"), copied.of("vision"), copied.of("projector")) == (9_805_824, 1_492_992, 0)
    assert copied.total == 2_934_634_224
    wanted = on_paper("paligemma-3b-pt-224", lora=LoraConfig(rank=8, where=("lm",)))
    assert wanted.trainable == wanted.of("lm") == 9_805_824
    table = copied.table()
    assert table.count("lora 8") == 18 * 7 + 27 * 3
    assert "11,298,816  of  2,934,634,224   0.385 %" in table
    folded = copied.table(every=False).splitlines()
    assert folded[1].split() == ["vision_tower.layers.*.self_attn.q_proj", "lora", "8", *"1152 x 1152 x 27".split(),
                                 "497,664"]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "train", "count"),
    [
        ("paligemma-3b-pt-224", ("attention",), 169_869_312),
        ("paligemma2-3b-pt-224", ("attention",), 368_050_176),
        ("paligemma-3b-pt-224", ("projector",), 1152 * 2048 + 2048),
        ("paligemma-3b-pt-224", ("all",), 2_923_335_408),
        ("paligemma-3b-pt-224", ("lm", "projector"), 2_923_335_408 - 412_442_352),
        ("paligemma-3b-pt-224", ("vision",), 412_442_352),
    ],
)
def test_counts_of_parts(name, train, count):
    assert on_paper(name, train=train).trainable == count


@pytest.mark.parametrize("train", TRAIN)
def test_exactly_the_named_part_gets_a_gradient(train):
    parts = prepared(2, train=(train,))
    moved = move(parts)
    towers = {"lm": ["language_model"], "attention": ["language_model"], "vision": ["vision_tower"],
              "projector": ["projector"], "all": ["language_model", "projector", "vision_tower"]}[train]  # fmt: skip
    assert sorted({name.split(".")[0] for name in moved}) == towers
    assert moved == {row.name for row in parts.rows}
    if train == "attention":
        assert all(".self_attn." in name for name in moved)


def test_without_the_image_encoder_the_projector_still_learns():
    moved = move(prepared(train=("lm", "projector")))
    assert "projector.weight" in moved
    assert not any(name.startswith("vision_tower") for name in moved)


def batch(config, seed=0):
    generator = torch.Generator().manual_seed(seed)
    slots = torch.full((2, config.vision.num_image_tokens), -1)
    tokens = torch.cat([slots, torch.randint(4, config.text.vocab_size, (2, 6), generator=generator)], 1)
    late = torch.zeros_like(tokens)
    late[:, -3:] = 1
    side = config.vision.image_size_px
    return tokens, torch.rand(2, 3, side, side, generator=generator) * 2 - 1, late


def loss_of(model):
    tokens, pixels, late = batch(model.config)
    return suffix_loss(model, model.hidden(tokens, pixels, late), tokens, late)


def move(parts, steps=1, lr=1e-2):
    """Names of the parameters that `steps` steps of AdamW changed."""
    before = {name: p.detach().clone() for name, p in parts.model.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in parts.model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    for _ in range(steps):
        optimizer.zero_grad()
        loss_of(parts.model).backward()
        optimizer.step()
    return {name for name, p in parts.model.named_parameters() if not torch.equal(p, before[name])}


@pytest.mark.parametrize("where", WHERE)
def test_adapters_sit_where_the_name_says(where):
    parts = prepared(2, lora={"rank": 2, "where": (where,)})
    adapted = [name for name, layer in linears(parts.model) if isinstance(layer, LoraLinear)]
    assert [row.name for row in parts.rows] == adapted
    if where == "all-linear":
        assert len(adapted) == len(list(linears(parts.model)))
    elif where == "projector":
        assert adapted == ["projector"]
    else:
        tower, _, kind = where.partition("-")
        start = {"lm": "language_model.", "vision": "vision_tower."}[tower]
        inside = {"": "", "attention": ".self_attn.", "mlp": ".mlp."}[kind]
        assert adapted == [n for n, _ in linears(parts.model) if n.startswith(start) and inside in n]
    assert all(name.endswith(("lora_A", "lora_B")) for name in move(parts, 2))


def test_a_part_beside_the_adapters_moves_in_full():
    parts = prepared(train=("projector",), lora={"rank": 2, "where": ("lm-attention",)})
    assert {row.how for row in parts.rows} == {"lora 2", "full"}
    assert {"projector.weight", "projector.bias"} <= move(parts)
    assert parts.total == sum(parts.sizes.values()) + parts.of("lm")


@pytest.mark.parametrize(("method", "kind"), [("nf4", Nf4Linear), ("int8", Int8Linear)])
def test_qlora_keeps_the_base_in_few_bits_and_trains(method, kind):
    parts = prepared(2, quantize=method, lora={"rank": 4, "where": ("lm",)})
    layers = dict(linears(parts.model))
    assert isinstance(layers["language_model.layers.0.mlp.up_proj"].base, kind)
    assert isinstance(layers["vision_tower.layers.0.mlp.fc1"], kind)
    assert type(layers["projector"]) is torch.nn.Linear
    assert f"{len(parts.quantized)} frozen linear layers in {method}" in parts.table()
    before = loss_of(parts.model).item()
    moved = move(parts, steps=15)
    assert loss_of(parts.model).item() < 0.7 * before
    assert all(name.endswith(("lora_A", "lora_B")) for name in moved)
    parts.model.eval()
    with torch.no_grad():
        answering = loss_of(parts.model).item()
    parts.model.train()
    assert loss_of(parts.model).item() == pytest.approx(answering, rel=1e-5)  # an eval pass leaves nothing behind


def test_what_is_trained_in_full_is_not_quantised():
    parts = prepared(quantize="int8", train=("vision",), lora={"where": ("lm",)})
    assert all(name.startswith("language_model") for name in parts.quantized)


def test_the_seed_decides_the_first_adapters():
    draws = [prepared(seed=seed, lora={}).model.language_model.layers[0].mlp.up_proj.lora_A for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_the_fingerprint_is_of_the_base_before_changes():
    assert prepared(lora={}).base_sha256 == prepared(lora={}, quantize="nf4").base_sha256
    assert on_paper("paligemma-3b-pt-224").base_sha256 is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": ("vison",)}, "did you mean 'vision'"),
        ({"lora": {"where": ("lm-atention",)}}, "did you mean 'lm-attention'"),
        ({"lora": {"where": ()}}, "without where"),
        ({"train": ()}, "nothing would be trained"),
        ({"quantize": "nf4"}, "add lora"),
        ({"quantize": "nf5", "lora": {}}, "did you mean 'nf4'"),
        ({"train": ("lm",), "lora": {"where": ("lm-mlp",)}}, "take its part out of train"),
        ({"train": ("attention",), "lora": {"where": ("lm",)}}, "self_attn.q_proj would get an adapter"),
        ({"quantize": "nf4", "lora": {"dora": True}}, "DoRA"),
        ({"lora": {"rank": 0}}, "rank"),
        ({"lora": {}, "model": "scratch:nano-pt-112"}, "random weights"),
    ],
)
def test_contradictions_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        prepared(**options)
