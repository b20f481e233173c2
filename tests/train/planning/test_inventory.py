import pytest
from tests.oracle import TINY, draw_model

from paligemma.checkpoints.tensors import empty_model
from paligemma.config import VARIANTS
from paligemma.errors import UsageError
from paligemma.linear.quantized import QuantizedLinear
from paligemma.train.config import LoraConfig, TrainConfig
from paligemma.train.parts import prepare
from paligemma.train.planning.inventory import inventory
from paligemma.train.planning.plan import METHODS

EVERYWHERE = {"lora": LoraConfig(where=("lm", "vision", "projector"), rank=3, dora=True)}
MIXED = {"lora": LoraConfig(where=("lm-attention",)), "train": ("projector",), "quantize": "int8"}


@pytest.mark.parametrize("settings", [*METHODS.values(), EVERYWHERE, MIXED], ids=[*METHODS, "everywhere", "mixed"])
@pytest.mark.parametrize("generation", [1, 2])
def test_the_counts_are_those_of_the_prepared_model(settings, generation):
    config = TrainConfig(**settings)
    model = draw_model(TINY[generation])
    parts = prepare(model, config)
    found = inventory(TINY[generation], config)
    coded = [
        parameter
        for layer in model.modules()
        if isinstance(layer, QuantizedLinear)
        for name, parameter in layer.named_parameters()
        if name != "bias"
    ]
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad) - sum(p.numel() for p in coded)
    assert found.trained == parts.trainable
    assert found.frozen == frozen
    stored = sum(parameter.nbytes for parameter in coded)
    assert abs(found.quantized_bytes - stored) <= (0.25 if config.quantize == "nf4" else 0) * stored  # tiny blocks
    assert found.largest == max(p.numel() for p in model.parameters() if p.requires_grad)
    assert found.embedding_trained == model.language_model.embed_tokens.weight.requires_grad
    assert found.vision_learns == any(p.requires_grad for p in model.vision_tower.parameters())


@pytest.mark.parametrize("name", ["paligemma2-3b-pt-224", "paligemma-3b-pt-896", "paligemma2-28b-pt-448"])
def test_one_block_counts_as_often_as_there_are_blocks(name):
    architecture = VARIANTS[name].config
    assert inventory(architecture, TrainConfig()).trained == architecture.num_parameters
    lora = TrainConfig(lora=LoraConfig(where=("lm",)))
    model = empty_model(architecture)
    parts = prepare(model, lora)
    found = inventory(architecture, lora)
    assert found.trained == parts.trainable
    assert found.frozen == architecture.num_parameters


def test_the_published_adapters_are_counted():
    attention = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    config = TrainConfig(lora=LoraConfig(rank=8, where=attention))
    assert inventory(VARIANTS["paligemma-3b-pt-224"].config, config).trained == 11_298_816


def test_unknown_parts_are_refused():
    with pytest.raises(UsageError, match="unknown part"):
        inventory(TINY[1], TrainConfig(lora=LoraConfig(where=("decoder",))))
