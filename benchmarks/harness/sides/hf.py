"""Hugging Face transformers, as it comes, and with the 4-bit weights of bitsandbytes or torchao."""

import time
from typing import Any

from harness.sides import Run, pixels, repetition, rows_of, touch

IMAGE, PAD = 257_152, 0


class HF:
    libraries = ("torch", "transformers.models.paligemma.modeling_paligemma", "transformers.generation")

    def __init__(self, run: Run):
        import torch
        from transformers import PaliGemmaForConditionalGeneration

        dtype = getattr(torch, run.options.get("dtype", "bfloat16"))
        quantize = run.options.get("quantize")
        more: dict[str, Any] = {}
        if quantize == "nf4":
            more = {"device_map": "cpu", "quantization_config": _nf4(dtype)}
        model = PaliGemmaForConditionalGeneration.from_pretrained(run.path, dtype=dtype, **more)
        self.model, self.run, self.dtype = model.eval(), run, dtype
        if quantize == "int4":
            _int4(self.model)

    def warm(self) -> None:
        import torch

        if not self.run.options.get("quantize"):
            touch(self.model)
        ids = torch.tensor([rows_of(self.run)[0]])
        self._generate({"input_ids": ids, "attention_mask": torch.ones_like(ids)}, 3, [])

    def once(self) -> dict[str, Any]:
        import torch

        rows = rows_of(self.run)
        slots, longest = (self.run.image_size_px // 14) ** 2, max(map(len, rows))
        ids = torch.tensor([[PAD] * (longest - len(row)) + [IMAGE] * slots + row for row in rows])
        given = {
            "input_ids": ids, "attention_mask": (ids != PAD).long(), "token_type_ids": torch.zeros_like(ids),
            "pixel_values": pixels(self.run).to(self.dtype),
        }  # fmt: skip
        times: list[float] = []
        began = time.perf_counter()
        found = self._generate(given, max(self.run.answers), times)
        ended = time.perf_counter()
        answers = [row[:most] for row, most in zip(found[:, ids.shape[1] :].tolist(), self.run.answers, strict=True)]
        return repetition(began, times, ended, answers)

    def _generate(self, given: dict[str, Any], most: int, times: list[float]) -> Any:
        import torch
        from transformers import LogitsProcessorList

        def clock(ids: Any, scores: Any) -> Any:
            times.append(time.perf_counter())
            return scores

        with torch.inference_mode():
            return self.model.generate(
                **given, max_new_tokens=most, min_new_tokens=most, do_sample=False, eos_token_id=None,
                pad_token_id=PAD, logits_processor=LogitsProcessorList([clock]),
            )  # fmt: skip


def _nf4(dtype: Any) -> Any:
    """The decoder alone: the tower's 4,304 columns do not fit its kernel, and the tied head must stay."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=["lm_head", "model.vision_tower", "model.multi_modal_projector"],
    )  # fmt: skip


def _int4(model: Any) -> None:
    """Decoder and head, untied, in groups of 128: the fastest of torchao's settings that run on a CPU."""
    import torch
    from torchao.prototype.quantization.int4.inference_workflow import PrototypeInt4WeightOnlyConfig
    from torchao.quantization import quantize_

    def is_linear(module: Any, name: str) -> bool:
        return isinstance(module, torch.nn.Linear)

    kind = PrototypeInt4WeightOnlyConfig(group_size=128)
    quantize_(model.model.language_model, kind, is_linear)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    quantize_(model.lm_head, kind, is_linear)
