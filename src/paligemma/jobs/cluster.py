"""The same job on a cluster: Ray Data hands chunks to a pool of processes, each with a model of its own.

In: the same plan as for `run.Here`. Out: the same lines in the same order, which this process adds to the job's folder.
Workers read the list of inputs and the pictures under the same paths, so several machines need a common file system.
Needs `pip install 'paligemma[cluster]'`. Source: ray.data, `map_batches` with an actor pool.
"""

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import Any

from paligemma import errors
from paligemma.errors import PaliGemmaError, ResourceError, UnavailableError, UsageError
from paligemma.jobs.chunk import Lines, answer_chunk
from paligemma.jobs.model import differences, load_model
from paligemma.jobs.pictures import Opener
from paligemma.jobs.run import Loaded, Plan, read_items

MAX_BLOCKS = 4096  # of chunks that travel together: fewer blocks cost less, more blocks are committed sooner
OBJECT_STORE_BYTES = 128 << 20  # of a cluster started here: only lines of text go through it


class Cluster:
    """A worker made of `workers` processes, on the cluster at `address` or on one started here for this job.

    Args:
        model: arguments of `load`, the name as "model".
        loader: makes the model in each process; tests give another one.

    Raises:
        UnavailableError: ray is not installed, or there is no cluster at the address.
    """

    def __init__(
        self,
        model: Mapping[str, Any],
        *,
        workers: int = 2,
        address: str | None = None,
        loader: Callable[[Mapping[str, Any]], Loaded] = load_model,
    ):
        if workers < 1:
            raise UsageError(f"{workers} workers were asked for; give at least 1")
        self.model, self.workers, self.loader = dict(model), workers, loader
        self.on_one_machine = address is None
        self.ray = _started(address, workers)
        self.described: dict[str, Any] | None = None
        self.environment: dict[str, Any] | None = None

    def describe(self) -> dict[str, Any]:
        """What `Here` would say, told by one of the processes; the number of threads is that of this one."""
        if self.described is None:
            told = self.ray.get(self.ray.remote(_described).remote(self.loader, self.model, os.getcwd(), _threads()))
            self.described = _unpacked(told)
        return {key: self.described[key] for key in ("model", "environment")}

    def batch_size(self) -> int:
        """As one process chose it, with its share of the memory."""
        self.describe()
        assert self.described is not None
        return max(1, int(self.described["batch_size"]) // (self.workers if self.on_one_machine else 1))

    def match(self, environment: dict[str, Any]) -> list[str]:
        """Has every process compute as the job began; sentences about what still differs."""
        self.environment = environment
        now = dict(self.describe()["environment"])
        if "threads" in environment:
            now["threads"] = environment["threads"]  # every process takes them
        return differences(environment, now)

    def chunks(self, plan: Plan) -> Iterator[Lines]:
        """The lines of the chunks that are left, in order.

        Raises:
            PaliGemmaError: what a process could not do.
        """
        import ray.data

        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        rows = list(chunk_places(plan))
        settings = {**asdict(plan), "inputs": str(plan.inputs.absolute())}
        environment = self.environment or self.describe()["environment"]
        made = ray.data.from_items(rows, override_num_blocks=min(len(rows), MAX_BLOCKS)).map_batches(
            ChunkActor,
            fn_constructor_args=(self.loader, self.model, os.getcwd(), environment, settings),
            compute=ray.data.ActorPoolStrategy(size=min(self.workers, len(rows))),
            batch_size=1,
            **self._share(),
        )
        for row in made.iter_rows():
            yield Lines(**_unpacked(row))

    def _share(self) -> dict[str, Any]:
        """What one process takes of a machine: an accelerator where the cluster has some, or cores."""
        resources = self.ray.cluster_resources()
        if resources.get("GPU") and str(self.model.get("device", "auto")) != "cpu":
            return {"num_gpus": 1}
        return {"num_cpus": max(1, int(resources.get("CPU", 1)) // self.workers)}


def chunk_places(plan: Plan) -> Iterator[dict[str, int]]:
    """{"first": place of its first input, "offset": where that line begins in the list} of each chunk that is left."""
    offset = 0
    with open(plan.inputs, "rb") as file:
        for index, line in enumerate(file):
            if index >= plan.first and (index - plan.first) % plan.chunk_size == 0:
                yield {"first": index, "offset": offset}
            offset += len(line)


class ChunkActor:
    """One process of the pool: loads the model once, then answers chunks. Faults travel as values, not as pickles."""

    def __init__(self, loader: Any, model: Any, directory: str, environment: Any, plan: Any):
        self.plan = Plan(**{**plan, "inputs": Path(plan["inputs"])})
        self.load = lambda: _loaded(loader, model, directory, environment)
        self.answerer: Any = None
        self.size = self.plan.batch_size

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """The lines of the chunk whose place is in `batch`, packed."""
        return {
            key: [value] for key, value in _packed(lambda: self.lines(int(batch["first"][0]), int(batch["offset"][0])))
        }

    def lines(self, first: int, offset: int) -> dict[str, Any]:
        """The lines of the chunk that begins with input `first`."""
        if self.answerer is None:
            self.answerer = self.load().answerer(self.plan.options)
        plan = replace(self.plan, first=first)
        items = islice(read_items(plan.inputs, first, offset), plan.chunk_size)
        with Opener(items, ahead=plan.chunk_size) as opener:
            made = answer_chunk(self.answerer, opener, self.size)
        self.size = made.batch_size
        return asdict(made)


# --- inside the processes --------------------------------------------------------------------------------------------


def _loaded(loader: Any, model: Any, directory: str, environment: Mapping[str, Any]) -> Any:
    """The model, in the directory that paths are relative to, with the job's number of threads."""
    os.chdir(directory)
    loaded = loader(model)
    loaded.match(environment)
    return loaded


def _described(loader: Any, model: Any, directory: str, threads: int) -> dict[str, Any]:
    def facts() -> dict[str, Any]:
        os.chdir(directory)
        loaded = loader(model)
        loaded.match({"threads": threads})
        return {**loaded.describe(), "batch_size": loaded.batch_size()}

    return dict(_packed(facts))


def _packed(call: Callable[[], Any]) -> list[tuple[str, Any]]:
    """The value of a call or the error it raised, as columns of a table."""
    try:
        value = call()
    except PaliGemmaError as error:
        return [("value", b""), ("bytes", b""), ("more", b""), ("error", f"{type(error).__name__}:{error}")]
    results, failures = b"", b""
    if isinstance(value, dict) and "results" in value:
        results, failures = value.pop("results"), value.pop("errors")
    return [("value", json.dumps(value).encode()), ("bytes", results), ("more", failures), ("error", "")]


def _unpacked(row: Mapping[str, Any]) -> Any:
    """What `_packed` packed.

    Raises:
        PaliGemmaError: the error that was packed.
    """
    if row["error"]:
        name, _, sentence = str(row["error"]).partition(":")
        kind = getattr(errors, name, PaliGemmaError)
        raise kind(f"{sentence} (told by a process of the cluster)")
    value = json.loads(row["value"])
    if isinstance(value, dict) and "inputs" in value:
        value.update(results=bytes(row["bytes"]), errors=bytes(row["more"]))
    return value


# --- this process ----------------------------------------------------------------------------------------------------


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _started(address: str | None, workers: int) -> Any:
    """The ray module, connected; usage statistics, dashboard and its log on this terminal are off."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its processes write to this terminal otherwise
    try:
        import ray
    except ImportError:
        raise UnavailableError("--cluster needs the ray package; pip install 'paligemma[cluster]'") from None
    given: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address is None:
        given.update(
            address="local", num_cpus=max(workers, os.cpu_count() or 1), include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES, _node_ip_address="127.0.0.1",
        )  # fmt: skip
    else:
        given.update(address=address)
    try:
        with _own_signals():
            ray.init(**given)
    except ConnectionError as error:
        raise UnavailableError(f"there is no Ray cluster at {address}; check it with `ray status`") from error
    except (OSError, ValueError, RuntimeError) as error:
        raise ResourceError(f"Ray does not start ({' '.join(str(error).split())[:200]}); mend that") from error
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps the handlers of this process: Ray sets its own, which would end a job without a word."""
    try:
        kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        yield
    finally:
        for number, handler in kept.items():
            if handler is not None and signal.getsignal(number) is not handler:
                signal.signal(number, handler)
