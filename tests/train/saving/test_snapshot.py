"""A run as named tensors and back: optimizer state follows names, whatever the order of parameters and groups."""

import pytest
import torch
from torch import nn

from paligemma.errors import CheckpointError
from paligemma.train.distributed import Parallel
from paligemma.train.saving.snapshot import optimizer_tensors, restore, snapshot, trained


def model_of(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def adamw(model, names=None, **more):
    parameters = dict(model.named_parameters())
    return torch.optim.AdamW([parameters[name] for name in names or parameters], lr=0.1, **more)


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(5, 3, generator=generator)).square().sum().backward()
    optimizer.step()


def kept(tensors):
    """As a set would give it back: copies."""
    return {name: tensor.clone() for name, tensor in tensors.items()}


@pytest.mark.parametrize("make", [
    adamw,
    lambda model, names=None: adamw(model, names, fused=True),
    lambda model, names=None: torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
    lambda model, names=None: torch.optim.SGD(model.parameters(), lr=0.1),
])  # fmt: skip
def test_training_goes_on_with_the_same_bits(make):
    first, second = model_of(), model_of(1)
    one = make(first)
    for seed in range(3):
        step(first, one, seed)
    saved = kept(snapshot(Parallel(), first, one))
    names = [name for name, _ in first.named_parameters()]
    two = make(second, names[::-1])  # another order
    step(second, two, 9)  # and a past of its own
    restore(Parallel(), saved, second, two)
    for seed in range(3, 6):
        step(first, one, seed)
        step(second, two, seed)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_names(tmp_path):
    model = model_of()
    optimizer = adamw(model)
    step(model, optimizer, 0)
    found = snapshot(Parallel(), model, optimizer, {"2.bias": torch.ones(2)})
    assert {name for name in found if "2.bias" in name} == {
        "weights/2.bias", "optimizer/2.bias/step", "optimizer/2.bias/exp_avg", "optimizer/2.bias/exp_avg_sq",
        "ema/2.bias",
    }  # fmt: skip


def test_what_is_frozen_is_not_part_of_a_run():
    model = model_of()
    model[0].requires_grad_(False)
    optimizer = adamw(model, ["2.weight", "2.bias"])
    assert list(trained(model)) == ["2.weight", "2.bias"]
    assert set(snapshot(Parallel(), model, optimizer)) == {"weights/2.weight", "weights/2.bias"}


def test_averages_are_put_back_in_place():
    model = model_of()
    averages = {"0.bias": torch.zeros(4)}
    saved = {**kept(snapshot(Parallel(), model, adamw(model))), "ema/0.bias": torch.arange(4.0)}
    restore(Parallel(), saved, model, adamw(model), averages)
    assert torch.equal(averages["0.bias"], torch.arange(4.0))


def test_plain_numbers_of_an_optimizer_stay_plain():
    """As in bitsandbytes, whose step is an int and whose 8-bit moments come with scales of another shape."""
    model = model_of()
    optimizer = adamw(model)
    state = {
        "step": 7,
        "beta": 0.5,
        "none": None,
        "state1": torch.ones(4, 3, dtype=torch.uint8),
        "absmax1": torch.ones(1),
    }
    optimizer.state[model[0].weight] = state
    saved = kept(snapshot(Parallel(), model, optimizer))
    again = adamw(model)
    restore(Parallel(), saved, model, again)
    found = again.state[model[0].weight]
    assert (found["step"], type(found["step"]), found["beta"]) == (7, int, 0.5)
    assert (found["state1"].dtype, found["absmax1"].shape, "none" in found) == (torch.uint8, (1,), False)


def test_eight_bit_state_goes_on_with_the_same_bits():
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def make(model):
        return bitsandbytes.optim.AdamW8bit(model.parameters(), lr=0.01, min_8bit_size=16)

    def big():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(3, 64), nn.Tanh(), nn.Linear(64, 2))

    first, second = big(), big()
    one, two = make(first), make(second)
    for seed in range(2):
        step(first, one, seed)
    saved = kept(snapshot(Parallel(), first, one))
    assert saved["optimizer/0.weight/state1"].dtype == torch.uint8
    restore(Parallel(), saved, second, two)
    for seed in range(2, 4):
        step(first, one, seed)
        step(second, two, seed)
    assert all(map(torch.equal, first.parameters(), second.parameters()))
    assert all(map(torch.equal, *(optimizer_tensors(o, trained(m)).values() for o, m in ((one, first), (two, second)))))


def test_a_set_of_another_run_is_refused():
    model = model_of()
    saved = kept(snapshot(Parallel(), model, adamw(model)))

    def refused(tensors):
        with pytest.raises(CheckpointError) as caught:
            restore(Parallel(), tensors, model, adamw(model))
        return str(caught.value)

    lacking = {name: tensor for name, tensor in saved.items() if "0.bias" not in name}
    assert "1 missing (weights/0.bias); 1 unknown (weights/x); resume with the config and model it was" in refused(
        {**lacking, "weights/x": torch.ones(1)}
    )
    assert "1 of another shape (weights/0.bias)" in refused({**saved, "weights/0.bias": torch.ones(5)})
    assert "1 unknown (optimizer/x/exp_avg)" in refused({**saved, "optimizer/x/exp_avg": torch.ones(5)})
