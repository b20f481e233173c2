"""A loaded model as a job needs it: answers for opened inputs, what it is, and a batch size that fits.

In: arguments of `load`. Out: `LoadedModel`. Not done here: chunks, files of the job.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paligemma.config import Config
from paligemma.errors import PaliGemmaError
from paligemma.jobs.pictures import Opened
from paligemma.results import Answer

if TYPE_CHECKING:
    from paligemma.api import PaliGemma

MAX_BATCH = {"cpu": 16, "other": 64}  # larger ones gain nothing on processors, little on accelerators
MEMORY_SHARE = 0.5  # of what is free: fragmentation and other processes want some too
TEXT_TOKENS = 320  # of a prompt and its answer, generously
SAMPLE_BYTES = 1 << 16


class Answerer:
    """A model with the options of one job.

    Args:
        options: keywords of the verbs, with the seed of input 0; a task takes those it knows.
    """

    def __init__(self, model: "PaliGemma", options: Mapping[str, Any]):
        self.model, self.options = model, dict(options)

    def answer(self, batch: Sequence[Opened], batch_size: int, on_error: Any) -> Sequence[Answer | PaliGemmaError]:
        """One answer for each input, in order; with on_error="return" the error of one stands in its place.

        Raises:
            PaliGemmaError: with on_error="raise", the first that any input gives.
        """
        from paligemma.api import Images, Query
        from paligemma.api.options import known_options

        queries = []
        for opened in batch:
            item = opened.item
            known = known_options(item.task)
            options = {name: _as_given(value) for name, value in self.options.items() if name in known}
            if options.get("seed") is not None:
                options["seed"] += item.index  # each input draws for itself, wherever it is answered
            queries.append(Query(Images(*opened.pictures), item.task, item.words, options))
        return self.model.run(queries, batch_size=batch_size, on_error=on_error)


class LoadedModel:
    """A model, and the files or directories it was loaded from: its weights, and perhaps an adapter."""

    def __init__(self, model: "PaliGemma", *sources: Path):
        self.model, self.sources = model, sources

    def answerer(self, options: Mapping[str, Any]) -> Answerer:
        """The model with the options of one job."""
        return Answerer(self.model, options)

    def describe(self) -> dict[str, Any]:
        """{"model": name and fingerprint of its files, "environment": what else decides the last bits}."""
        import torch

        device = self.model.device
        if device.type == "cuda":
            processor = torch.cuda.get_device_name(device)
        else:
            processor = torch.backends.cpu.get_cpu_capability()
        return {
            "model": {"name": self.model.name, "sha256": fingerprint(*self.sources)},
            "environment": {
                "torch": torch.__version__,
                "device": device.type,
                "processor": processor,
                "dtype": str(self.model.dtype).removeprefix("torch."),
                "threads": torch.get_num_threads(),
            },
        }

    def batch_size(self) -> int:
        """What fits into half of the memory that is free now."""
        device = self.model.device
        kind = "cpu" if device.type == "cpu" else "other"
        return automatic_batch_size(
            self.model.config, self.model.dtype.itemsize, free_bytes(str(device)), MAX_BATCH[kind]
        )

    def match(self, environment: Mapping[str, Any]) -> list[str]:
        """Takes the number of threads a job began with; sentences about what cannot be made the same."""
        import torch

        if environment.get("threads") != torch.get_num_threads():
            torch.set_num_threads(int(environment["threads"]))
        return differences(environment, self.describe()["environment"])


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A sentence about two descriptions of an environment that are not the same; none where they are."""
    found = [f"{name} was {was} and is {now.get(name)}" for name, was in before.items() if now.get(name) != was]
    if not found:
        return []
    return [f"{'; '.join(found)}: last digits of scores, rarely words, may differ from an uninterrupted job"]


def load_model(arguments: Mapping[str, Any]) -> LoadedModel:
    """Loads the model of a job; the arguments are those of `load`, the name as "model".

    Features of pictures seen before are not kept: what is in such a memory depends on where a job was resumed.

    Raises:
        PaliGemmaError: as `load`.
    """
    from paligemma.api.loading import base_and_adapter, load

    given = dict(arguments)
    name = given.pop("model", "nano")
    sources = base_and_adapter(name, given.get("revision"), given.get("adapter"))
    return LoadedModel(load(name, **given, image_cache=0), *filter(None, sources))


def automatic_batch_size(config: Config, number_bytes: int, free: int | None, most: int) -> int:
    """A power of two from 1 to `most` whose cache and activations fit into `MEMORY_SHARE` of `free` bytes.

    Args:
        number_bytes: size of one number of the model.
        free: None where it is not known; then the answer is cautious.
    """
    if free is None:
        return min(4, most)
    text, vision = config.text, config.vision
    tokens = vision.num_image_tokens + TEXT_TOKENS
    cache = 2 * text.depth * text.num_kv_heads * text.head_dim * tokens * number_bytes
    layer = tokens * (4 * text.width + 3 * text.mlp_dim + 2 * text.num_heads * text.head_dim) * number_bytes
    scores = text.num_heads * tokens * tokens * 4  # of attention, where it is not computed in blocks
    logits = 3 * text.embedding_rows * 4
    fitting = int(MEMORY_SHARE * free / (cache + layer + scores + logits))
    return 1 << max(0, min(most, fitting).bit_length() - 1) if fitting else 1


def free_bytes(device: str) -> int | None:
    """Memory that may still be taken, of an accelerator or of this machine and its container; None where untold."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for limit, used in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
    ):
        try:
            found.append(int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return min(found) if found else None


def _as_given(value: Any) -> Any:
    """An option as a verb takes it: pairs such as (rows, columns) came back from JSON as lists."""
    return tuple(value) if isinstance(value, list) else value


def fingerprint(*sources: Path) -> str:
    """sha256 over name, size, first and last 64 KiB of every file that the answers depend on."""
    files = [
        file
        for source in sources
        for file in ([source] if source.is_file() else sorted(p for p in source.iterdir() if p.is_file()))
        if source.is_file() or _matters(file)
    ]
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with open(path, "rb") as file:
            digest.update(file.read(SAMPLE_BYTES))
            file.seek(max(0, size - SAMPLE_BYTES), os.SEEK_SET)
            digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def _matters(path: Path) -> bool:
    return path.suffix in (".safetensors", ".npz", ".json", ".model")
