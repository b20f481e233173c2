"""Linear layers found by name and replaced in place."""

import torch
from torch import nn

from paligemma.linear.lora import Lora, LoraLinear
from paligemma.linear.quantized import Nf4Linear
from paligemma.linear.swap import among, linears, matching, swap_linears


class Tower(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.ModuleDict({"q": nn.Linear(4, 4), "up": nn.Linear(4, 8)}) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(4), nn.Linear(4, 2)


def adapt(linear):
    return LoraLinear(linear, Lora(rank=1))


def test_layers_are_replaced_where_the_name_says_so():
    tower = Tower()
    heads = tower.head
    assert swap_linears(tower, Nf4Linear.from_linear, matching(r"layers\..*")) == [
        "layers.0.q", "layers.0.up", "layers.1.q", "layers.1.up",
    ]  # fmt: skip
    assert isinstance(tower.layers[0]["q"], Nf4Linear)
    assert tower.head is heads
    assert swap_linears(tower, adapt, matching(r".+\.q", "head")) == ["layers.0.q", "layers.1.q", "head"]
    kinds = [type(layer) for _, layer in linears(tower)]
    assert kinds == [LoraLinear, Nf4Linear, LoraLinear, Nf4Linear, LoraLinear]
    assert isinstance(tower.layers[1]["q"].base, Nf4Linear)
    assert tower.layers[1]["up"](torch.ones(1, 4)).shape == (1, 8)


def test_an_adapted_layer_counts_once():
    tower = Tower()
    swap_linears(tower, adapt, matching("head"))
    assert [name for name, _ in linears(tower)][-1] == "head"
    assert swap_linears(tower, lambda layer: layer.merged(), matching("head")) == ["head"]
    assert type(tower.head) is nn.Linear


def test_predicates():
    assert matching("a|b", r"c\.\d+")("c.12")
    assert not matching("a")("ab")
    assert not matching()("a")
    assert among(["x.y"])("x.y")
    assert not among(["x.y"])("x")
