"""What a run consists of, as named tensors: trained weights, optimizer state, averages. And the way back.

    weights/model.projector.weight
    optimizer/model.projector.weight/exp_avg
    ema/model.projector.weight

Everything is filed under parameter names, never under numbers, so that neither the order of groups nor the number of
processes matters. Frozen parameters and buffers are not part of it: they are made again from where the run began.

In and out: an objective, its optimizer, its averages. Not done here: files (`sets.py`), exchange (`distributed.py`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from paligemma.checkpoints.tensors import told
from paligemma.errors import CheckpointError
from paligemma.train.distributed import Parallel, part

WEIGHTS, OPTIMIZER, EMA = "weights", "optimizer", "ema"
_PLAIN = {int: torch.int64, float: torch.float64}  # numbers an optimizer keeps beside tensors, as they are stored


def trained(objective: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that move, by name, in the module's order; also the heads of an objective."""
    return {name: parameter for name, parameter in objective.named_parameters() if parameter.requires_grad}


def snapshot(
    parallel: Parallel,
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Mapping[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Whole tensors on the CPU in the main process, none in the others. Every process must call it.

    Args:
        objective: not wrapped.
        ema: averages by parameter name.
    """
    names = trained(objective)
    tensors: dict[str, Tensor] = {f"{WEIGHTS}/{name}": parameter for name, parameter in names.items()}
    tensors |= {f"{OPTIMIZER}/{name}": tensor for name, tensor in optimizer_tensors(optimizer, names).items()}
    tensors |= {f"{EMA}/{name}": tensor for name, tensor in (ema or {}).items()}
    return parallel.gather(tensors)


def restore(
    parallel: Parallel,
    tensors: Mapping[str, Tensor],
    objective: nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: Mapping[str, Tensor] | None = None,
) -> None:
    """Puts a snapshot back, in place. Every process must call it; `tensors` are read in the main one.

    Raises:
        CheckpointError: names or shapes are not those of this run.
    """
    names, averages = trained(objective), dict(ema or {})
    places: dict[str, Tensor] = {f"{WEIGHTS}/{name}": parameter for name, parameter in names.items()}
    places |= {f"{EMA}/{name}": tensor for name, tensor in averages.items()}
    groups = {parameter: group for group in optimizer.param_groups for parameter in group["params"]}
    missing, unknown = set(places), []
    optimizer.state.clear()
    with torch.no_grad():
        for name, tensor in parallel.spread(tensors):
            kind, _, rest = name.partition("/")
            owner, _, key = rest.rpartition("/")
            if name in places:
                if tensor.shape != places[name].shape:
                    raise _differs({"of another shape": [name]})
                places[name].copy_(part(tensor, places[name]))
                missing.discard(name)
            elif kind == OPTIMIZER and names.get(owner) in groups:
                parameter = names[owner]
                optimizer.state[parameter][key] = _state(tensor, parameter, groups[parameter])
            else:
                unknown.append(name)
    if missing or unknown:
        raise _differs({"missing": sorted(missing), "unknown": unknown})


def optimizer_tensors(optimizer: torch.optim.Optimizer, names: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """The optimizer's state as `NAME/KEY`; plain numbers become int64[] or float64[], what is None is left out."""
    found: dict[str, Tensor] = {}
    for name, parameter in names.items():
        for key, value in optimizer.state.get(parameter, {}).items():
            if value is not None:
                plain = not isinstance(value, Tensor)
                found[f"{name}/{key}"] = torch.tensor(value, dtype=_PLAIN[type(value)]) if plain else value
    return found


def _state(stored: Tensor, parameter: nn.Parameter, group: Mapping[str, Any]) -> Any:
    """One entry as the optimizer keeps it: a number, a counter on the CPU, or a tensor beside (and split as) its
    parameter. Entries of other shapes, such as the block scales of 8-bit state, are whole."""
    if stored.ndim == 0 and stored.dtype in _PLAIN.values():
        return stored.item()
    if stored.ndim == 0:
        on_device = group.get("fused") or group.get("capturable")
        return stored.to(parameter.device if on_device else "cpu", copy=True)
    if stored.shape == parameter.shape:
        return part(stored.to(parameter.device, copy=True), parameter)
    return stored.to(parameter.device, copy=True)


def _differs(kinds: Mapping[str, list[str]]) -> CheckpointError:
    return CheckpointError(
        f"the set does not fit this run: tensors {told(kinds)}; resume with the config and model it was begun with"
    )
