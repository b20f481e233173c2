"""How one decoder is split; that it answers as a whole is shown in checkpoints/test_parallel.py."""

from dataclasses import replace

import pytest
import torch
from tests.oracle import TINY, draw_model

from paligemma.errors import UsageError
from paligemma.model.fused import linear_kernels
from paligemma.model.parallel import SUMMED, layer_plan, share_of

TEXT = replace(TINY[2].text, num_heads=8, num_kv_heads=4, mlp_dim=48, vocab_size=40, padding_rows=8)


def test_every_matrix_of_a_layer_is_in_the_plan():
    block = draw_model(TINY[2]).language_model.layers[0]
    linears = {name for name, layer in block.named_modules() if isinstance(layer, torch.nn.Linear)}
    assert set(layer_plan()) == linears
    assert set(SUMMED) <= linears


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_a_share_has_its_part_of_the_heads(processes):
    share = share_of(TEXT, processes)
    assert (share.num_heads * processes, share.num_kv_heads * processes) == (8, 4)
    assert share.embedding_rows == TEXT.embedding_rows


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"num_kv_heads": 2}, "2 key-value heads"), ({"mlp_dim": 50}, "50 gates"), ({"padding_rows": 9}, "49 rows")],
)
def test_what_cannot_be_shared_is_said(changed, said):
    with pytest.raises(UsageError, match=f"4 processes cannot share {said}"):
        share_of(replace(TEXT, **changed), 4)


def test_kernels_do_not_pass_over_what_happens_around_a_layer(monkeypatch):
    """An exchange between processes is a hook."""
    monkeypatch.setattr("paligemma.model.fused.product_kernels", lambda x, *weights: "kernels")
    layer, x = torch.nn.Linear(4, 4, bias=False), torch.ones(1, 4)
    assert linear_kernels(x, layer) == "kernels"
    handle = layer.register_forward_hook(lambda module, given, output: output)
    assert linear_kernels(x, layer) is None
    handle.remove()
    layer.register_forward_pre_hook(lambda module, given: None)
    assert linear_kernels(x, layer) is None
