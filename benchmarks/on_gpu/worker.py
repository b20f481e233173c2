"""Measures what it reads, one request a line, and answers in a line; a card that is broken ends it.

    {"part": "limits"}   {"part": "kernels", "name": "int4", ...}   {"part": "3b-224-b1", "name": "graphs", ...}

In: requests on stdin, with the card's limits once they are known. Out: answers on the stdout it was started with;
whatever libraries print goes to stderr.
"""

import json
import os
import sys
from typing import Any

import torch
from on_gpu import card, kernels
from on_gpu.sides import Bench


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    bench: Bench | None = None
    for asked in sys.stdin:
        request: dict[str, Any] = json.loads(asked)
        if bench is None and request.get("limits"):
            bench = Bench(request["limits"])
        found, broken = answer(request, bench), is_broken()
        print(json.dumps({**found, "last": broken}), file=answers, flush=True)
        if broken:  # a kernel has left the card's state unusable; a new process has a new one
            return


def is_broken() -> bool:
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def answer(request: dict[str, Any], bench: Bench | None) -> dict[str, Any]:
    try:
        if request["part"] == "limits":
            return {"machine": card.machine(), "limits": card.limits()}
        if request["part"] == "kernels":
            return {"rows": kernels.timings(request["name"], request["limits"])}
        assert bench is not None, "limits come first"
        return bench.measure(request["part"], request["name"])
    except Exception as error:
        return {"skipped": f"{type(error).__name__}: {str(error)[:300]}"}


if __name__ == "__main__":
    main()
