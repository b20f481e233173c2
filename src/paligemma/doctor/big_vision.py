"""Golden directories written with big_vision: `ckpt.*.npz`, `expected.npz`, `config.json`.

Every array of expected.npz becomes one row: vision tower, mask, training forward and losses, gradients, decoding with
both cache types, both ways of soft-capping, beam search, resampled positions. big_vision trains on, and picks the
first token from, logits that are not soft-capped. Tolerances are those of the Hugging Face half, 3e-2 where a bfloat16
cache may round to a neighbour.
"""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paligemma.checkpoints import load_checkpoint
from paligemma.checkpoints.big_vision import places
from paligemma.config import IMAGE_SLOT
from paligemma.doctor.report import Row, compare, equal, failed, norm_row
from paligemma.engine import Engine, Runner, Sampling
from paligemma.engine.ragged import Pool
from paligemma.model import AttentionMask, PaliGemmaModel, resample_positions, suffix_loss

LOGITS, FEATURES, LOSS, ROUNDED_CACHE = 2e-4, 5e-5, 1e-4, 3e-2
INPUTS = {
    "image", "train.text", "train.mask_ar", "train.mask_loss",
    "decode.text", "decode.mask_ar", "decode.mask_input", "decode.eos_test_token",
}  # fmt: skip
EOS = 1


def check(directory: Path) -> list[Row]:
    """One row per expected array, gradient and further encoding of the weights; an unknown array is a failing row."""
    return list(_Golden(directory).rows())


class _Golden:
    def __init__(self, directory: Path):
        self.directory = directory
        self.arrays = dict(np.load(directory / "expected.npz", allow_pickle=False))
        self.files = sorted(directory.glob("ckpt.*.npz"), key=lambda path: ".f32." not in path.name)
        self.model = load_checkpoint(self.files[0], dtype=torch.float32).model.eval()
        self.pixels = self.get("image").permute(0, 3, 1, 2).contiguous()
        self.image_tokens = self.model.config.vision.num_image_tokens

    def get(self, name: str) -> Tensor:
        array = torch.from_numpy(self.arrays[name])
        return array.long() if array.dtype == torch.int32 else array

    def rows(self) -> Iterator[Row]:
        for name, expected in self.arrays.items():
            if name in INPUTS:
                continue
            resampled = re.fullmatch(r"pos_embedding_resampled_(\d+)x\1", name)
            if resampled:
                ours = resample_positions(self.model.vision_tower.position_embedding.detach(), int(resampled[1]))
                yield compare(name, ours[None], expected, 1e-5)
            elif name.startswith("decode."):
                yield self.decode_row(name, expected)
            elif name in _ARRAYS:
                with torch.no_grad():
                    ours, tolerance = _ARRAYS[name](self)
                yield compare(name, ours, expected, tolerance)
            else:
                yield failed(name, "this array is not known here; update the self-test")
        yield from self.gradients()
        yield from self.other_encodings()

    # --- training ---------------------------------------------------------------------------------------------------

    def sequence(self, text: Tensor, mask: Tensor, images: int = 1, fill: int = 0) -> tuple[Tensor, Tensor]:
        """Token rows with image slots in front of `text`, and the row `mask` with `fill` in front."""
        slots = (len(text), images * self.image_tokens)
        return (
            torch.cat([torch.full(slots, IMAGE_SLOT), text], dim=1),
            torch.cat([torch.full(slots, fill), mask], dim=1),
        )

    @cached_property
    def train_sequence(self) -> tuple[Tensor, Tensor]:
        return self.sequence(self.get("train.text"), self.get("train.mask_ar"))

    def train_hidden(self) -> Tensor:
        """Hidden states of image and text; padding is not masked there, it comes last and is causal."""
        tokens, mask_ar = self.train_sequence
        return self.model.hidden(tokens, self.pixels, mask_ar)

    def text_hidden(self) -> Tensor:
        return self.train_hidden()[:, self.image_tokens : -1]

    def uncapped(self, hidden: Tensor) -> Tensor:
        return self.model.language_model.logits(hidden, softcap=False)

    def train_loss(self, rows: slice = slice(None), label_smoothing: float = 0.0) -> Tensor:
        tokens, mask_loss = self.sequence(self.get("train.text"), self.get("train.mask_loss"))
        return suffix_loss(
            self.model, self.train_hidden()[rows], tokens[rows], mask_loss[rows],
            per="example", label_smoothing=label_smoothing, softcap=False,
        )  # fmt: skip

    def loss_per_example(self) -> Tensor:
        return torch.stack([self.train_loss(slice(i, i + 1)) for i in range(len(self.pixels))])

    def attention_mask(self) -> Tensor:
        mask_ar = self.train_sequence[1][:, :-1]
        mask = AttentionMask.prefix_lm(mask_ar, torch.ones_like(mask_ar, dtype=torch.bool))
        return mask.rows(0, mask_ar.shape[1], None)[:, 0]

    def video_logits(self) -> Tensor:
        """Two frames per example: its own picture, then that of the example counted from the end."""
        frames = torch.stack([self.pixels, self.pixels.flip(0)], dim=1).flatten(0, 1)
        tokens, mask_ar = self.sequence(self.get("train.text"), self.get("train.mask_ar"), images=2)
        hidden = self.model.hidden(tokens, frames, mask_ar)
        shown = self.arrays["video.text_logits"].shape[1]
        return self.uncapped(hidden[:, 2 * self.image_tokens :][:, :shown])

    def gradients(self) -> Iterator[Row]:
        path = self.directory / "train_grad_norms.json"
        expected = json.loads(path.read_text())
        self.model.requires_grad_(True)
        self.train_loss().backward()
        gradients = {name: parameter.grad for name, parameter in self.model.named_parameters()}
        self.model.requires_grad_(False)
        squares: dict[str, float] = dict.fromkeys(expected, 0.0)
        for name, place in places(self.model.config).items():
            gradient = gradients[name]
            assert gradient is not None, "every parameter takes part in the loss"
            squares[place.key] = squares.get(place.key, 0.0) + float(gradient.double().square().sum())
        for key, square in sorted(squares.items()):
            row_name = f"{path.stem}/{key}"
            if key not in expected:
                yield failed(row_name, "no such parameter in the golden file")
            else:
                yield norm_row(row_name, square**0.5, expected[key], max(expected.values()))

    def other_encodings(self) -> Iterator[Row]:
        """The same weights in another number type are the same weights (they are chosen to be exact in all)."""
        ours = self.model.state_dict()
        for path in self.files[1:]:
            other = load_checkpoint(path, dtype=torch.float32).model.state_dict()
            unequal = sum(int((ours[name] != other[name]).sum()) for name in ours)
            yield Row(path.name, float(unequal), 0.0, f"weights, against {self.files[0].name}")

    # --- decoding ---------------------------------------------------------------------------------------------------

    @cached_property
    def prompts(self) -> list[Any]:
        """Prompts without padding."""
        mask_input = self.get("decode.mask_input") != 0
        tokens, mask_ar = self.sequence(self.get("decode.text"), self.get("decode.mask_ar"))
        keep = torch.cat([torch.ones(len(tokens), self.image_tokens, dtype=torch.bool), mask_input], dim=1)
        return [
            SimpleNamespace(tokens=row[kept], mask_ar=ar[kept], pixels=image[None], features=None)
            for row, ar, kept, image in zip(tokens, mask_ar, keep, self.pixels, strict=True)
        ]

    @cached_property
    def without_final_softcap(self) -> PaliGemmaModel:
        """The same weights as the fine-tuning notebook runs them."""
        config = self.model.config
        with torch.device("meta"):
            model = PaliGemmaModel(replace(config, text=replace(config.text, final_logit_softcap=None)))
        model.load_state_dict(self.model.state_dict(), assign=True)
        return model.eval()

    def steps(self, variant: str) -> Tensor:
        """float[B, steps, V]: the logits big_vision chooses each greedy token from."""
        model = self.without_final_softcap if "no_final_softcap" in variant else self.model
        cache_dtype = torch.bfloat16 if "bf16cache" in variant else None
        runner = Runner(model, cache_dtype=cache_dtype, big_vision_softcap=True)
        greedy = self.get("decode.greedy_bf16cache" if "bf16cache" in variant else "decode.greedy")
        longest = max(len(prompt.tokens) for prompt in self.prompts)
        pool = Pool(runner, len(greedy), longest + greedy.shape[1], torch.tensor([], dtype=torch.int64))
        rows, scores = pool.prefill(self.prompts)
        found = [scores]
        for column in greedy.T[:-1]:
            found.append(runner.logits(pool.feed(rows, [[token] for token in column.tolist()])))
        return torch.stack(found, dim=1)

    def decode_row(self, name: str, expected: np.ndarray) -> Row:
        what = name.removeprefix("decode.")
        tolerance = ROUNDED_CACHE if "bf16cache" in what else LOGITS
        if what.startswith("step_logits"):
            return compare(name, self.steps(what)[:, : expected.shape[1]], expected, tolerance)
        beam = re.fullmatch(r"beam(\d+)(_eos)?(_no_final_softcap)?", what)
        if beam:
            return equal(name, self.beam(beam, expected.shape), expected)
        greedy = re.fullmatch(r"greedy(_eos)?(_bf16cache|_no_final_softcap)?(_logp)?", what)
        if not greedy:
            return failed(name, "this array is not known here; update the self-test")
        logits = self.steps(what)
        tokens = logits.argmax(-1)
        ended = self.all_ended(tokens) if greedy[1] else tokens.shape[1]
        if greedy[3]:
            logp = logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
            logp[:, ended:] = 0
            return compare(name, logp, expected, tolerance)
        tokens[:, ended:] = 0
        return equal(name, tokens, expected)

    def all_ended(self, tokens: Tensor) -> int:
        """Steps until every row has met the test's eos: only then big_vision stops, tokens after an eos are kept."""
        is_eos = tokens == int(self.arrays["decode.eos_test_token"])
        first = [int(row.nonzero()[0]) + 1 if row.any() else tokens.shape[1] for row in is_eos]
        return max(first)

    def beam(self, beam: re.Match[str], shape: tuple[int, ...]) -> np.ndarray:
        eos = int(self.arrays["decode.eos_test_token"]) if beam[2] else EOS
        model = self.without_final_softcap if beam[3] else self.model
        engine = Engine(model, eos_id=eos, big_vision_softcap=True)
        sampling = Sampling(max_tokens=shape[1], num_beams=int(beam[1]), beam_scoring="big_vision")
        rows = np.zeros(shape, dtype=np.int64)
        for row, generation in zip(rows, engine.generate(self.prompts, sampling), strict=True):
            ids = [*generation.tokens, *([eos] if generation.finish_reason == "stop" else [])]
            row[: len(ids)] = ids
        return rows


_ARRAYS: dict[str, Callable[[_Golden], tuple[Tensor, float]]] = {
    "img_with_posemb": lambda g: (g.model.vision_tower.embed(g.pixels), FEATURES),
    "img_encoded": lambda g: (g.model.vision_tower(g.pixels), FEATURES),
    "zimg": lambda g: (g.model.encode_images(g.pixels), FEATURES),
    "attn_mask": lambda g: (g.attention_mask(), 0.0),
    "train.pre_logits": lambda g: (g.text_hidden(), LOGITS),
    "train.text_logits": lambda g: (g.uncapped(g.text_hidden()), LOGITS),
    "train.llm_logits_last_image_pos": lambda g: (
        g.model.language_model.logits(g.train_hidden()[:, g.image_tokens - 1]),
        LOGITS,
    ),
    "train.loss": lambda g: (g.train_loss(), LOSS),
    "train.loss_per_example": lambda g: (g.loss_per_example(), LOSS),
    "train.loss_label_smoothing_0.3": lambda g: (g.train_loss(label_smoothing=0.3), LOSS),
    "video.text_logits": lambda g: (g.video_logits(), LOGITS),
}
