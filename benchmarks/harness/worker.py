"""The process of one side: `python -m harness.worker SIDE '{run}'`; asked and answering in lines of JSON.

First answer: how long the weights took to open. Then for each line read: "warm", or "once" for a repetition with the
most memory it held. Whatever libraries print goes to stderr.
"""

import importlib
import json
import os
import sys
import time
from typing import Any

from harness.alone import forget_peak, most, resident
from harness.sides import NotYet, Run

SIDES = {
    "ours": "harness.sides.ours:Ours", "hf": "harness.sides.hf:HF", "llama_cpp": "harness.sides.llama_cpp:LlamaCpp",
    "nano": "harness.sides.nano:Nano", "limits": "harness.sides.limits:Limits",
}  # fmt: skip


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def tell(**what: Any) -> None:
        answers.write(json.dumps(what) + "\n")
        answers.flush()

    module, _, name = SIDES[sys.argv[1]].partition(":")
    kind = getattr(importlib.import_module(module), name)
    for library in kind.libraries:
        importlib.import_module(library)
    began = time.perf_counter()
    try:
        side = kind(Run(**json.loads(sys.argv[2])))
    except NotYet as reason:
        tell(not_yet=str(reason))
        return
    tell(load_s=time.perf_counter() - began, versions=versions(), loaded_bytes=resident())
    peak = most()
    for line in sys.stdin:
        peak = max(peak, most())
        forget_peak()
        before = resident()
        if line.strip() == "warm":
            side.warm()
            found = {}
        else:
            found = side.once()
        peak = max(peak, most())
        tell(**found, before_bytes=before, most_bytes=most(), peak_bytes=peak)


def versions() -> dict[str, str]:
    """Of the libraries this side has loaded."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for module in ("torch", "transformers", "bitsandbytes", "torchao", "llama_cpp"):
        if module in sys.modules:
            try:
                found[module] = version(module.replace("llama_cpp", "llama-cpp-python"))
            except PackageNotFoundError:
                found[module] = "?"
    return found


if __name__ == "__main__":
    main()
