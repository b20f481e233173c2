"""Golden directories written with Hugging Face transformers: `config.json`, `model.safetensors`, `expected.npz`.

Every array of expected.npz becomes one row: forward passes with either padding, several images, text alone, losses,
gradients (`*_grad_norms.json`), greedy and beam search. Sizes, ids and cases are read from the files. Tolerances are
those of float32 against float64: 2e-4 for logits, 5e-5 for image features, 1e-4 for losses, 2e-3 relative for norms.
"""

import json
import re
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints import load_checkpoint
from paligemma.checkpoints.hf import hf_key
from paligemma.config import IMAGE_SLOT
from paligemma.doctor.report import Row, compare, equal, failed, norm_row
from paligemma.engine import Engine, Sampling
from paligemma.model import suffix_loss

LOGITS, FEATURES, LOSS = 2e-4, 5e-5, 1e-4
INPUTS = {"input_ids", "attention_mask", "token_type_ids", "image_index", "labels"}
ABOUT = {"sub_ids", "pixels_u8", "logits_std", "gen.eos_test_token"}  # inputs and statistics, nothing of ours
BEAM = re.compile(r"beam(?P<width>\d+)(?:_lp(?P<penalty>[\d.]+))?(?P<eos>_eos)?(?P<scores>_scores)?$")
EOS, PAD = 1, 0


def check(directory: Path) -> list[Row]:
    """One row per expected array and gradient; an array this module does not know is a failing row."""
    return list(_Golden(directory).rows())


class _Case:
    """The inputs of one case, in our terms."""

    def __init__(self, golden: "_Golden", name: str):
        get = golden.get
        input_ids = get(f"{name}.input_ids")
        self.tokens = input_ids.masked_fill(input_ids.eq(golden.image_token_id), IMAGE_SLOT)
        self.mask_input = get(f"{name}.attention_mask") != 0
        self.mask_ar = get(f"{name}.token_type_ids")
        self.valid = self.mask_input.numpy()
        index = golden.arrays.get(f"{name}.image_index")
        self.pixels = None if index is None else golden.pixels[torch.from_numpy(index)]
        labels = golden.arrays.get(f"{name}.labels")
        self.mask_loss = None if labels is None else torch.from_numpy(labels != -100)


class _Golden:
    def __init__(self, directory: Path):
        self.directory = directory
        self.arrays = dict(np.load(directory / "expected.npz", allow_pickle=False))
        checkpoint = load_checkpoint(directory, dtype=torch.float32)
        self.model = checkpoint.model.eval()
        assert checkpoint.image_token_id is not None, "config.json names it"
        self.image_token_id = checkpoint.image_token_id
        self.cases: dict[str, _Case] = {}
        self.outputs: dict[str, dict[str, Tensor]] = {}

    def get(self, name: str) -> Tensor:
        return torch.from_numpy(self.arrays[name])

    @cached_property
    def pixels(self) -> Tensor:
        return (self.get("pixels_u8").float() * (1 / 255) - 0.5) / 0.5

    def case(self, name: str) -> _Case:
        if name not in self.cases:
            self.cases[name] = _Case(self, name)
        return self.cases[name]

    def rows(self) -> Iterator[Row]:
        for name in self.arrays:
            case, _, what = name.rpartition(".")
            if name in ABOUT or what in INPUTS:
                continue
            if name.startswith("gen."):  # 'gen.beam3_lp0.5_eos' has a dot of its own
                yield self.generated(name.removeprefix("gen."))
            elif case.endswith("_no_token_type_ids"):
                yield self.causal_trap(name, case.removesuffix("_no_token_type_ids"))
            else:
                yield self.forward_row(name, case, what)
        for path in sorted(self.directory.glob("*_grad_norms.json")):
            yield from self.gradients(path)

    # --- forward passes ---------------------------------------------------------------------------------------------

    def forward(self, name: str) -> dict[str, Tensor]:
        """Everything one pass of a case gives, computed once."""
        if name not in self.outputs:
            case = self.case(name)
            states: list[Tensor] = []
            hooks = [
                layer.register_forward_pre_hook(lambda _, inputs: states.append(inputs[0]))
                for layer in self.model.language_model.layers
            ]
            with torch.no_grad():
                hidden = self.model.hidden(case.tokens, case.pixels, case.mask_ar, case.mask_input)
                logits = self.model.language_model.logits(hidden)
            for hook in hooks:
                hook.remove()
            self.outputs[name] = {"hidden": hidden, "logits": logits, "states": torch.cat([*states, hidden])}
        return self.outputs[name]

    def forward_row(self, name: str, case_name: str, what: str) -> Row:
        compute = _ARRAYS.get(what)
        if compute is None or f"{case_name}.input_ids" not in self.arrays:
            return failed(name, "this array is not known here; update the self-test")
        ours, tolerance, everywhere = compute(self, case_name)
        expected = self.arrays[name]
        where = None if everywhere else self.case(case_name).valid
        if what == "argmax":  # where two logits are closer than the tolerance their order means nothing
            margins = self.forward(case_name)["logits"].topk(2, -1).values
            where = where & (margins[..., 0] - margins[..., 1] > LOGITS).numpy()
            return equal(name, ours, expected, where=where)
        return compare(name, ours, expected, tolerance, where=where)

    def causal_trap(self, name: str, case_name: str) -> Row:
        """transformers called without token_type_ids is causal over the whole prompt: reproduced to prove the mask."""
        case = self.case(case_name)
        with torch.no_grad():
            logits = self.model(case.tokens, case.pixels, torch.ones_like(case.tokens), case.mask_input)
        return compare(name, logits[:, -1:], self.arrays[name], LOGITS)

    def loss(self, case_name: str) -> Tensor:
        """Mean over all label tokens of the batch, as transformers has it."""
        case = self.case(case_name)
        assert case.mask_loss is not None
        hidden = self.model.hidden(case.tokens, case.pixels, case.mask_ar, case.mask_input)
        return suffix_loss(self.model, hidden, case.tokens, case.mask_loss, per="token")

    def gradients(self, path: Path) -> Iterator[Row]:
        case_name = path.name.removesuffix("_grad_norms.json")
        expected = json.loads(path.read_text())
        self.model.zero_grad(set_to_none=True)
        self.model.requires_grad_(True)
        self.loss(case_name).backward()
        post_norms = self.model.config.text.post_norms
        ours = {hf_key(name, post_norms, "5.23"): parameter.grad for name, parameter in self.model.named_parameters()}
        self.model.requires_grad_(False)
        for key in sorted({*expected, *ours}):
            row_name, gradient = f"{path.stem}/{key}", ours.get(key)
            if gradient is None or key not in expected:
                yield failed(row_name, "no such parameter on one side")
            else:
                yield norm_row(row_name, float(gradient.double().norm()), expected[key], max(expected.values()))

    # --- generation -------------------------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> list[Any]:
        """The rows of the `gen` case without padding."""
        case, index = self.case("gen"), self.arrays["gen.image_index"]
        per_row = len(index) // len(case.tokens)
        return [
            SimpleNamespace(
                tokens=row[keep], mask_ar=torch.zeros(int(keep.sum()), dtype=torch.int64),
                pixels=self.pixels[torch.from_numpy(index[i * per_row : (i + 1) * per_row])],
                features=None,
            )
            for i, (row, keep) in enumerate(zip(case.tokens, case.mask_input, strict=True))
        ]  # fmt: skip

    def engine(self, with_test_eos: bool) -> Engine:
        eos = int(self.arrays["gen.eos_test_token"]) if with_test_eos else EOS
        return Engine(self.model, eos_id=eos)

    def generated(self, what: str) -> Row:
        name, expected = f"gen.{what}", self.arrays[f"gen.{what}"]
        if what in ("greedy", "greedy_eos"):
            engine = self.engine(what == "greedy_eos")
            found = engine.generate(self.prompts, Sampling(max_tokens=expected.shape[1]))
            return equal(name, _filled(engine, found, expected.shape, PAD), expected)
        if what in ("greedy_step_logits_sub", "greedy_top2_margin"):
            logits = self.greedy_step_logits()
            if what == "greedy_step_logits_sub":
                return compare(name, logits[..., self.get("sub_ids")], expected, LOGITS)
            top = logits.topk(2, -1).values
            return compare(name, top[..., 0] - top[..., 1], expected, 2 * LOGITS)
        beam = BEAM.fullmatch(what)
        return self.beam_row(name, beam, expected) if beam else failed(name, "this array is not known here")

    def beam_row(self, name: str, beam: re.Match[str], expected: np.ndarray) -> Row:
        engine = self.engine(beam["eos"] is not None)
        tokens = self.arrays[name.removesuffix("_scores")]
        rows, best, length = tokens.shape  # as long as the search ran
        sampling = Sampling(max_tokens=length, num_beams=int(beam["width"]), length_penalty=float(beam["penalty"] or 1))
        found = engine.generate(self.prompts, sampling, num_return=best)
        if beam["scores"]:
            return compare(name, np.array([g.score for g in found]).reshape(rows, best), expected, LOGITS)
        fill = next(iter(engine.eos_ids))  # transformers fills with eos here: pad id 0 counts as not given
        return equal(name, _filled(engine, found, (rows * best, length), fill).reshape(tokens.shape), expected)

    def greedy_step_logits(self) -> Tensor:
        """[B, steps, V]: logits each greedy token was chosen from, by one pass over prompt and answer."""
        steps = []
        for prompt, answer in zip(self.prompts, self.get("gen.greedy"), strict=True):
            tokens = torch.cat([prompt.tokens, answer])[None]
            mask_ar = torch.cat([prompt.mask_ar, torch.ones_like(answer)])[None]
            with torch.no_grad():
                logits = self.model(tokens, prompt.pixels, mask_ar)
            steps.append(logits[0, len(prompt.tokens) - 1 : -1])
        return torch.stack(steps)


def _filled(engine: Engine, found: list[Any], shape: tuple[int, ...], fill: int) -> np.ndarray:
    """Token rows of generations with their eos, the rest of each row filled."""
    rows = np.full(shape, fill, dtype=np.int64)
    (eos,) = engine.eos_ids
    for row, generation in zip(rows, found, strict=True):
        ids = [*generation.tokens, *([eos] if generation.finish_reason == "stop" else [])]
        row[: len(ids)] = ids[: len(row)]
    return rows


def _logits(golden: _Golden, case: str) -> Tensor:
    return golden.forward(case)["logits"]


def _text_logits(golden: _Golden, case: str) -> Tensor:
    after_images = golden.case(case).tokens[0] != IMAGE_SLOT
    return _logits(golden, case)[:, after_images]


def _margin(golden: _Golden, case: str) -> Tensor:
    top = _logits(golden, case).topk(2, -1).values
    return top[..., 0] - top[..., 1]


def _vision(golden: _Golden, case: str) -> Tensor:
    with torch.no_grad():
        return golden.model.vision_tower(golden.case(case).pixels)


def _features(golden: _Golden, case: str) -> Tensor:
    pixels = golden.case(case).pixels
    assert pixels is not None
    with torch.no_grad():
        return golden.model.encode_images(pixels)


# last part of an array's name -> (ours, tolerance, whether padding positions count too)
_ARRAYS: dict[str, Callable[[_Golden, str], tuple[Tensor, float, bool]]] = {
    "logits_sub": lambda g, c: (_logits(g, c)[..., g.get("sub_ids")], LOGITS, False),
    "logsumexp": lambda g, c: (_logits(g, c).double().logsumexp(-1), LOGITS, False),
    "argmax": lambda g, c: (_logits(g, c).argmax(-1), 0.0, False),
    "top2_margin": lambda g, c: (_margin(g, c), 2 * LOGITS, False),
    "logits_last": lambda g, c: (_logits(g, c)[:, -1:], LOGITS, True),
    "logits_text": lambda g, c: (_text_logits(g, c), LOGITS, True),
    "vision_last_hidden_state": lambda g, c: (_vision(g, c), FEATURES, True),
    "image_features": lambda g, c: (_features(g, c), FEATURES, True),
    "hidden_states": lambda g, c: (g.forward(c)["states"], LOGITS, True),
    "loss": lambda g, c: (g.loss(c).detach(), LOSS, True),
}
