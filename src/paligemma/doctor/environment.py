"""What this machine offers: versions, devices, number types, and whether the bundled model is there.

Nothing comes in, a dictionary of plain values goes out. No network, no model is loaded.
"""

import os
import platform
from importlib import metadata
from typing import Any

NEEDED = ("torch", "numpy", "pillow", "tokenizers", "safetensors", "huggingface-hub", "cyclopts")
OPTIONAL = ("av",)


def describe() -> dict[str, Any]:
    """Facts by name; `problems` lists, one sentence each, what would stop a first command."""
    import torch

    from paligemma import __version__, native
    from paligemma.checkpoints.hub import BUNDLED, cache_directory

    facts: dict[str, Any] = {
        "paligemma": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {name: version_of(name) for name in (*NEEDED, *OPTIONAL)},
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "threads": torch.get_num_threads(),
        "devices": devices(),
        "kernels": native.status(),
        "bundled_model": BUNDLED["nano"].is_dir(),
        "hub_cache": str(cache_directory()),
        "offline": os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"),
    }
    facts["problems"] = problems(facts)
    return facts


def problems(facts: dict[str, Any]) -> list[str]:
    """What is missing among `facts`, and what to do."""
    found = [f"{name} is not installed; pip install {name}" for name in NEEDED if facts["versions"][name] is None]
    if not facts["bundled_model"]:
        found.append(
            "the bundled model 'nano' is missing from this installation; reinstall, or name another by --model"
        )
    return found


def version_of(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def devices() -> list[dict[str, Any]]:
    """Each usable device: name, what it is, memory in bytes where known, number types that were tried and work."""
    import torch

    found: list[dict[str, Any]] = [{"name": "cpu", "kind": platform.machine(), "dtypes": dtypes("cpu")}]
    for i in range(torch.cuda.device_count()):
        name, properties = f"cuda:{i}", torch.cuda.get_device_properties(i)
        memory = {"memory_bytes": properties.total_memory}
        found.append({"name": name, "kind": properties.name, **memory, "dtypes": dtypes(name)})
    if torch.backends.mps.is_available():
        found.append({"name": "mps", "kind": "Apple", "dtypes": dtypes("mps")})
    return found


def dtypes(device: str) -> list[str]:
    """The number types in which a small matrix product runs on `device`."""
    import torch

    works = []
    for name in ("float32", "bfloat16", "float16"):
        try:
            x = torch.ones(2, 2, device=device, dtype=getattr(torch, name))
            if float((x @ x).sum()) == 8.0:
                works.append(name)
        except (RuntimeError, TypeError):
            continue  # torch says in this way that a device lacks a type
    return works
