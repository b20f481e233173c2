"""One run in one process or many: who is who, how the weights are split, and sums over all processes.

    torchrun --nproc-per-node 8 -m paligemma train ...     RANK, WORLD_SIZE, ... -> Parallel.start
    several machines: the same line on each, with torchrun's --nnodes and --rdzv-endpoint

"ddp" keeps whole weights everywhere and averages gradients; "fsdp2" splits every weight over the processes and puts a
block together only while it computes. Which of the two is used changes neither the loss nor what is saved: sets hold
whole tensors under the names of one process, so that any number of processes goes on with what any other number wrote.

In: an objective. Out: the same objective, wrapped. Not done here: the loop, files (`state.py`). Nothing is pickled:
processes exchange numbers and JSON. Source: PyTorch's `fully_shard` and `DistributedDataParallel`.
"""

import contextlib
import itertools
import json
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn

from paligemma import errors
from paligemma.errors import PaliGemmaError, ResourceError, UsageError
from paligemma.model.gemma import Block
from paligemma.model.siglip import VisionBlock
from paligemma.train.objective import Objective

Kind = Literal["none", "ddp", "fsdp2"]
TIMEOUT_S = 600.0  # after which a process that waits for another gives up
BEAT_S = 5.0  # between the signs of life of a main process that does something alone
T = TypeVar("T")


class Parallel:
    """The processes of one run, as one of them sees them. One process alone is the same with world 1.

    Attributes:
        kind: "none", "ddp" or "fsdp2".
        rank, world: this process's number and how many there are. local_rank: its number on this machine.
        device: where its share of the model lies.
        main: whether this process writes files and prints; the others compute.
    """

    def __init__(self, kind: Kind = "none", device: "str | torch.device" = "cpu", *, rank: int = 0, world: int = 1):
        self.kind, self.rank, self.world = kind, rank, world
        self.device = torch.device(device)
        self.timeout_s = TIMEOUT_S
        self._joined = False  # by this object, which then leaves in `close`
        self._replicas: list[Any] = []

    @classmethod
    def start(
        cls, wanted: str = "auto", device: "str | torch.device" = "cpu", *, timeout_s: float = TIMEOUT_S
    ) -> "Parallel":
        """Joins the other processes `torchrun` started, unless that was done already; without `torchrun` it is alone.

        Args:
            wanted: "auto" (DDP where there are several processes), "ddp" or "fsdp2".
            device: kind of device; each process takes the CUDA device of its local number.

        Raises:
            UsageError: "ddp" or "fsdp2" without `torchrun`, or more processes than CUDA devices.
            ResourceError: the others did not come.
        """
        several = "WORLD_SIZE" in os.environ and "RANK" in os.environ
        if wanted != "auto" and not several:
            raise UsageError(
                f"parallel={wanted} was asked for, but this process is alone; "
                "start it with `torchrun --nproc-per-node N -m paligemma train ...`, or leave parallel out"
            )
        world = int(os.environ["WORLD_SIZE"]) if several else 1
        if wanted == "auto" and world == 1:
            return cls("none", device)
        rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", "0"))
        place = torch.device(device)
        if place.type == "cuda":
            if local >= torch.cuda.device_count():
                raise UsageError(
                    f"process {local} of this machine has no CUDA device, there are {torch.cuda.device_count()}; "
                    "give torchrun --nproc-per-node that many"
                )
            place = torch.device("cuda", local)
            torch.cuda.set_device(place)
        parallel = cls("fsdp2" if wanted == "fsdp2" else "ddp", place, rank=rank, world=world)
        parallel.timeout_s = timeout_s
        if dist.is_initialized():
            return parallel
        with parallel.peers():
            dist.init_process_group(
                "nccl" if place.type == "cuda" else "gloo",
                timeout=timedelta(seconds=timeout_s),
                device_id=place if place.type == "cuda" else None,
            )
        parallel._joined = True
        return parallel

    def close(self) -> None:
        """Leaves the others; only after the last exchange.

        DDP's own hold on the group goes first: were it the last one, the group would wait for its thread under
        Python's lock, which that thread may be waiting for.
        """
        for replica in self._replicas:
            replica.reducer = replica.logger = None
        self._replicas.clear()
        if self._joined:
            dist.destroy_process_group()
            self._joined = False

    def __enter__(self) -> "Parallel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def main(self) -> bool:
        return self.rank == 0

    # --- the model ---

    def wrap(self, objective: Objective, *, precision: str = "fp32") -> nn.Module:
        """What the loop calls in place of the objective; `objective` itself stays the owner of all names.

        Parameters are changed in place, so wrap before the optimizer is made.

        Args:
            precision: "bf16" gathers the blocks' matrices in bfloat16 ("fsdp2"); gradients are summed in float32.
        """
        if self.kind == "ddp":
            return self._replicated(objective)
        if self.kind == "fsdp2":
            self._sharded(objective, precision)
        return objective

    def _replicated(self, objective: Objective) -> nn.Module:
        from torch.nn.parallel import DistributedDataParallel

        replica = DistributedDataParallel(
            objective,
            device_ids=[self.device] if self.device.type == "cuda" else None,
            find_unused_parameters=True,  # a batch without pictures leaves the vision tower out
            gradient_as_bucket_view=True,
        )
        self._replicas.append(replica)
        return replica

    def _sharded(self, objective: Objective, precision: str) -> None:
        """The matrices of each block first, then what is left: embedding (tied to the head), projector, norms.

        The remainder stays float32, so that types are those of autocast in one process: the residual stream has the
        embedding's type, and norms compute with whole weights.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        # Its warning is about additions in place, which would undo its hooks; our blocks have none.
        warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
        mesh = init_device_mesh(self.device.type, (self.world,))
        compute = torch.bfloat16 if precision == "bf16" else None
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        whole = MixedPrecisionPolicy(reduce_dtype=torch.float32, cast_forward_inputs=False)
        for module in objective.modules():
            if isinstance(module, Block | VisionBlock):
                fully_shard([module.self_attn, module.mlp], mesh=mesh, mp_policy=policy)
        fully_shard(objective, mesh=mesh, mp_policy=whole)

    @property
    def gradient_scale(self) -> float:
        """What the loss is multiplied by before `backward`, so that gradients are sums over processes, not means."""
        return float(self.world) if self.kind != "none" else 1.0

    def accumulating(self, wrapped: nn.Module, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Around forward and backward of one micro-batch: DDP exchanges gradients after the last one only.

        Under "fsdp2" every micro-batch exchanges, for only its own shard of the gradients has a place.
        """
        return contextlib.nullcontext() if last or self.kind != "ddp" else cast(Any, wrapped).no_sync()

    def clip_grad_norm(self, parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
        """The norm of all gradients together, before clipping: a scalar, the same in every process.

        Gradients are scaled to `max_norm` where it is smaller; `max_norm` 0 only measures.
        """
        grads = [p.grad for p in parameters if p.grad is not None]
        squares = torch.zeros((), device=self.device, dtype=torch.float32)
        for grad in grads:
            squares += _local(grad).float().square().sum().to(self.device)
        if self.kind == "fsdp2":
            self._reduce(squares)
        norm = squares.sqrt()
        if max_norm > 0:
            scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
            for grad in grads:
                _local(grad).mul_(scale.to(grad.device))
        return norm

    # --- sums and words ---

    def all_reduce_sum(self, values: Mapping[str, float]) -> dict[str, float]:
        """Each number summed over all processes, in float64; the names must be the same everywhere."""
        if self.kind == "none":
            return dict(values)
        sums = torch.tensor(list(values.values()), dtype=torch.float64, device=self.device)
        self._reduce(sums)
        return dict(zip(values, sums.tolist(), strict=True))

    def any(self, flag: bool) -> bool:
        """Whether any process says yes: what one alone learns (a signal, the clock) all must do at the same step."""
        return self.all_reduce_sum({"": float(flag)})[""] > 0

    def broadcast(self, value: T) -> T:
        """The main process's `value` (anything JSON can say) in every process."""
        if self.kind == "none":
            return value
        data = torch.frombuffer(bytearray(json.dumps(value).encode() if self.main else b"-"), dtype=torch.uint8)
        size = torch.tensor([len(data)], dtype=torch.int64, device=self.device)
        with self.peers():
            dist.broadcast(size, 0)
            data = data.to(self.device) if self.main else torch.empty(int(size), dtype=torch.uint8, device=self.device)
            dist.broadcast(data, 0)
        return json.loads(bytes(data.cpu().numpy())) if not self.main else value

    def on_main(self, call: Callable[[], T]) -> T:
        """Does `call` in the main process while the others wait; its result (as JSON) or its error reaches all.

        They wait as long as it takes (a look at a large data set, a save of a large model) and the main process lives.

        Raises:
            PaliGemmaError: what `call` raised, in every process.
        """
        if self.kind == "none":
            return call()
        told: dict[str, Any] = {}
        turn = f"on_main/{next(_TURNS)}"
        if self.main:
            try:
                with self._alive(turn):
                    told = {"value": call()}
            except PaliGemmaError as error:
                self.broadcast({"error": type(error).__name__, "sentence": str(error)})
                raise
        else:
            self._wait_for_main(turn)
        told = self.broadcast(told)
        if "error" in told:
            raise getattr(errors, told["error"], PaliGemmaError)(told["sentence"])
        return cast(T, told["value"])

    @contextlib.contextmanager
    def _alive(self, turn: str) -> Iterator[None]:
        """Tells those that wait for `turn` that the main process is at it, and, however it ends, that it is done."""
        store, done = _store(), threading.Event()

        def beat() -> None:
            for number in itertools.count():
                store.set(f"{turn}/beat", str(number))
                if done.wait(BEAT_S):
                    return

        thread = threading.Thread(target=beat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()
            with self.peers():
                store.set(f"{turn}/done", "")

    def _wait_for_main(self, turn: str) -> None:
        """
        Raises:
            ResourceError: the main process gave no sign of life for `timeout_s`.
        """
        seen, since = b"", time.monotonic()
        with self.peers():
            store = _store()
            while True:
                try:
                    store.wait([f"{turn}/done"], timedelta(seconds=BEAT_S))
                    return
                except dist.DistStoreError:  # not done yet
                    beat = store.get(f"{turn}/beat") if store.check([f"{turn}/beat"]) else b""
                if beat != seen:
                    seen, since = beat, time.monotonic()
                elif time.monotonic() - since > self.timeout_s:
                    raise dist.DistStoreError(f"process 0 gave no sign of life for {self.timeout_s:g} s")

    def barrier(self) -> None:
        """Returns when every process is here."""
        self.all_reduce_sum({"": 0.0})

    @contextlib.contextmanager
    def peers(self) -> Iterator[None]:
        """Around exchanges, also those inside backward: one sentence when another process is gone.

        Raises:
            ResourceError: a process died, or did not answer in time.
        """
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            if self.kind == "none" or not _about_peers(error):
                raise
            raise ResourceError(
                f"process {self.rank} of {self.world} no longer reaches the others ({_first_line(error)}); "
                "read what the first one to stop said, then start all of them again with --resume"
            ) from error

    def _reduce(self, tensor: Tensor) -> None:
        with self.peers():
            dist.all_reduce(tensor)

    # --- whole tensors ---

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors on the CPU in the main process, none in the others; one at a time is put together."""
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            with self.peers():
                whole = _full(tensor.detach())
            if self.main:
                found[name] = whole.cpu()
        return found

    def spread(self, whole: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """The main process's tensors in every process, one after another, each on its device; `part` cuts them.

        Args:
            whole: read in the main process only.
        """
        if self.kind == "none":
            yield from whole.items()
            return
        kept = {name: (str(tensor.dtype).removeprefix("torch."), list(tensor.shape)) for name, tensor in whole.items()}
        for name, (dtype, shape) in self.broadcast(kept).items():
            if self.main:
                tensor = whole[name].to(self.device)
            else:
                tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            with self.peers():
                dist.broadcast(tensor, 0)
            yield name, tensor


_TURNS = itertools.count()  # of `on_main`: the same number in every process, as all of them ask in one order


def _store() -> dist.Store:
    """What the processes met in; torch has no public name for it."""
    return dist.distributed_c10d._get_default_store()


def part(whole: Tensor, like: Tensor) -> Tensor:
    """Of a tensor every process has, what this one holds of `like`: all of it, or its share; nothing is exchanged."""
    if not _is_split(like):
        return whole.to(like.device)
    from torch.distributed.tensor import distribute_tensor

    split = cast(Any, like)
    return distribute_tensor(whole, split.device_mesh, split.placements, src_data_rank=None)


def _is_split(tensor: Tensor) -> bool:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def _local(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).to_local() if _is_split(tensor) else tensor


def _full(tensor: Tensor) -> Tensor:
    return cast(Any, tensor).full_tensor() if _is_split(tensor) else tensor


def _about_peers(error: BaseException) -> bool:
    """Whether an error is torch's about a lost process; gloo has no class for it."""
    words = ("connection closed", "connection reset", "broken pipe", "timed out", "pair closure")
    return isinstance(error, dist.DistError) or any(word in str(error).lower() for word in words)


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0][:200]
