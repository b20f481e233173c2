"""One decoder over several processes: each holds a share of every large matrix, all of them compute the same answer.

    q, k, v, gate, up    split by outputs: whole heads, whole gates     no exchange
    o, down              split by inputs                                 sums of all processes
    embed_tokens         split by rows, looked up and scored by          sums; all scores

In: a model without weights, and a mesh of processes. Out: the same model whose split parameters are DTensors, by
PyTorch's plan for tensor parallelism. The image encoder, norms and the projector are whole everywhere. `config` then
has the heads of one process, which is what caches are made for. Not done here: reading weights
(`checkpoints.parallel`), starting processes.
Source: Shoeybi et al. 2019, Megatron-LM; https://docs.pytorch.org/docs/stable/distributed.tensor.parallel.html
"""

from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, ParallelStyle, RowwiseParallel, parallelize_module

from paligemma.config import TextConfig
from paligemma.errors import UsageError
from paligemma.model.paligemma import PaliGemmaModel

SUMMED = ("self_attn.o_proj", "mlp.down_proj")


def layer_plan() -> dict[str, ParallelStyle]:
    """How one decoder layer is split."""
    by_outputs = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "mlp.gate_proj", "mlp.up_proj")
    plan: dict[str, ParallelStyle] = {name: ColwiseParallel() for name in by_outputs}
    return {**plan, **{name: RowwiseParallel(use_local_output=False) for name in SUMMED}}


def split(model: PaliGemmaModel, mesh: DeviceMesh) -> PaliGemmaModel:
    """The model, changed in place, with a share of the decoder; parameters may be on the meta device.

    Raises:
        UsageError: heads or rows that so many processes cannot share evenly.
    """
    text = share_of(model.config.text, mesh.size())
    language_model = model.language_model
    for block in language_model.layers:
        parallelize_module(block, mesh, layer_plan())
        for name in SUMMED:
            block.get_submodule(name).register_forward_hook(_summed)
    language_model.embed_tokens = SplitTable(language_model.embed_tokens.weight, mesh)  # type: ignore[assignment]
    model.config = replace(model.config, text=text)
    return model


def _summed(layer: nn.Module, given: object, output: DTensor) -> Tensor:
    """The sum of all processes, once it is there: kernels look at memory, where a promise has nothing."""
    return output.full_tensor()


def share_of(text: TextConfig, processes: int) -> TextConfig:
    """The architecture of one process' share.

    Raises:
        UsageError: what so many processes cannot share evenly.
    """
    counts = {
        "key-value heads": text.num_kv_heads, "query heads": text.num_heads, "gates": text.mlp_dim,
        "rows of the vocabulary": text.embedding_rows,
    }  # fmt: skip
    for what, count in counts.items():
        if count % processes:
            raise UsageError(
                f"{processes} processes cannot share {count} {what} evenly; start a number of processes that divides "
                "it, or leave parallel out"
            )
    return replace(text, num_heads=text.num_heads // processes, num_kv_heads=text.num_kv_heads // processes)


def place_share(parameter: DTensor, whole: Tensor, device: torch.device) -> DTensor:
    """A DTensor like `parameter` with this process' share of the numbers of `whole`, on `device`.

    Nothing is exchanged, and only the share is copied.
    """
    (placement,), mesh = parameter.placements, parameter.device_mesh
    assert isinstance(placement, Shard), "only split parameters have shares"
    share = whole.chunk(mesh.size(), dim=placement.dim)[mesh.get_local_rank()]
    local = share.to(device, copy=True).contiguous()
    return DTensor.from_local(
        local, mesh, parameter.placements, run_check=False, shape=parameter.shape, stride=parameter.stride()
    )


class SplitTable(nn.Module):
    """The vocabulary's table, [V, D], of which each process has some rows; as `nn.Embedding` and as a head."""

    def __init__(self, weight: Tensor, mesh: DeviceMesh):
        super().__init__()
        split = DTensor.from_local(
            weight.chunk(mesh.size())[mesh.get_local_rank()], mesh, [Shard(0)], run_check=False,
            shape=weight.shape, stride=weight.stride(),
        ) if weight.is_meta else distribute_tensor(weight.detach(), mesh, [Shard(0)])  # fmt: skip
        self.weight = nn.Parameter(split, requires_grad=False)
        self.mesh = mesh

    def forward(self, tokens: Tensor) -> Tensor:
        """[..., D] rows of int64[...] tokens; those that others have come from them."""
        own, first = self._own()
        place = tokens - first
        here = (place >= 0) & (place < len(own))
        found = own[place.clamp(0, len(own) - 1)] * here[..., None]
        dist.all_reduce(found, group=self.mesh.get_group())
        return found

    def scores(self, hidden: Tensor, rows: slice | None = None) -> Tensor:
        """[..., V] products of hidden states with all rows, or with some neighbours."""
        own, first = self._own()
        if rows is None:
            products = DTensor.from_local(F.linear(hidden, own), self.mesh, [Shard(hidden.ndim - 1)], run_check=False)
            return products.full_tensor()
        start, stop, _ = rows.indices(self.weight.shape[0])
        low, high = max(start, first), min(stop, first + len(own))
        found = hidden.new_zeros(*hidden.shape[:-1], stop - start)
        if low < high:
            found[..., low - start : high - start] = F.linear(hidden, own[low - first : high - first].to(hidden.dtype))
        dist.all_reduce(found, group=self.mesh.get_group())
        return found

    def _own(self) -> tuple[Tensor, int]:
        """This process' rows, and the number of the first."""
        assert isinstance(self.weight, DTensor), "it was made so"
        own: Tensor = self.weight.to_local()
        return own, len(own) * self.mesh.get_local_rank()
