"""The project, as `paligemma.load` gives it, from ready pixels and ids on."""

import inspect
import time
from typing import Any

from harness.sides import NotYet, Run, pixels, repetition, rows_of, touch


class Ours:
    libraries = ("torch", "paligemma.api")

    def __init__(self, run: Run):
        import paligemma
        from paligemma.errors import UsageError

        quantize = run.options.get("quantize")
        if quantize and "quantize" not in inspect.signature(paligemma.load).parameters:
            raise NotYet(f"paligemma.load has no quantize={quantize!r}")
        try:
            self.engine = paligemma.load(run.path, device="cpu", **run.options).engine
        except UsageError as error:
            if quantize:
                raise NotYet(str(error)) from error
            raise
        self.run = run

    def warm(self) -> None:
        from paligemma.engine import Sampling

        touch(self.engine.runner.model)
        self.engine.generate([_prompt(rows_of(self.run)[0])], Sampling(max_tokens=3))

    def once(self) -> dict[str, Any]:
        from paligemma.engine import Sampling

        slots = (self.run.image_size_px // 14) ** 2
        images = pixels(self.run)
        prompts = [_prompt(row, slots, images[i : i + 1]) for i, row in enumerate(rows_of(self.run))]
        samplings = [Sampling(max_tokens=most) for most in self.run.answers]
        times: list[float] = []
        began = time.perf_counter()
        if len(prompts) == 1:
            answers: list[list[int]] = [[]]
            for token in self.engine.stream(prompts[0], samplings[0]):
                times.append(time.perf_counter())
                answers[0].append(token.id)
        else:
            clocks = [Clock(times) for _ in prompts]
            found = self.engine.generate(prompts, samplings, batch_size=len(prompts), constraints=clocks)
            answers = [one.tokens for one in found]
            times = _steps(times)
        return repetition(began, times, time.perf_counter(), answers)


class Clock:
    """A constraint that allows everything and writes down when a token was chosen."""

    def __init__(self, times: list[float]):
        self.times = times

    def start(self) -> int:
        return 0

    def allowed(self, state: int) -> None:
        return None

    def lone(self, state: int) -> None:
        return None

    def advance(self, state: int, token_id: int) -> int:
        self.times.append(time.perf_counter())
        return state + 1


def _steps(times: list[float], apart: float = 0.02) -> list[float]:
    """One time for each step of a batch, whose rows choose their tokens at almost the same time."""
    return [at for i, at in enumerate(times) if i + 1 == len(times) or times[i + 1] - at > apart]


def _prompt(row: list[int], slots: int = 0, pixels: Any = None) -> Any:
    import torch

    from paligemma.config import IMAGE_SLOT
    from paligemma.processor import Encoded

    tokens = torch.tensor([IMAGE_SLOT] * slots + row)
    zeros = torch.zeros_like(tokens)
    return Encoded(tokens=tokens, pixels=pixels, mask_ar=zeros, mask_loss=zeros)
