"""PEFT's adapter_config.json <-> which layers an adapter sits on, and with which `Lora`.

Names here are those of Hugging Face's modules (`language_model.layers.0.mlp.up_proj`). Whatever would change the
computation and is not supported here is an error, never ignored; keys this file does not know are allowed where they
are switched off. Source: peft 0.21 `tuners/lora/config.py` and `tuners_utils.check_target_module_exists`.
"""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from paligemma.checkpoints.safetensors_io import read_json
from paligemma.errors import CheckpointError, UsageError
from paligemma.linear.lora import Lora

# Read, or known not to change what a trained adapter computes.
_HARMLESS = {
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config",
    "megatron_core", "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern",
    "revision", "runtime_config", "target_modules", "task_type", "use_dora", "use_rslora",
}  # fmt: skip
_INITIAL = (True, False, None, "gaussian", "eva", "orthogonal")  # all others change the base's weights too
_OFF: tuple[Any, ...] = (None, False, [], {}, "")
ALL_LINEAR = "all-linear"


@dataclass(frozen=True, kw_only=True)
class AdapterConfig:
    """What an adapter_config.json says.

    Attributes:
        lora: of layers that no pattern names.
        targets: a regular expression of whole names, or names and ends of names.
        exclude: as `targets`, of layers left out again.
        layers: numbers of the layers adapted; None for all.
        layers_pattern: names of the lists whose members `layers` counts; empty for any.
        ranks, alphas: of layers whose name ends in this regular expression; the first that fits counts.
        saved: modules that were trained in full.
        base: name of the model it was trained on.
    """

    lora: Lora
    targets: str | tuple[str, ...]
    exclude: str | tuple[str, ...] = ()
    layers: tuple[int, ...] | None = None
    layers_pattern: tuple[str, ...] = ()
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    saved: tuple[str, ...] = ()
    base: str | None = None
    revision: str | None = None

    def adapts(self, name: str) -> bool:
        """Whether the linear layer `name` has an adapter."""
        if _found(self.exclude, name) or any(re.match(rf"(^|.*\.){saved}($|\..*)", name) for saved in self.saved):
            return False
        if isinstance(self.targets, str) or name in self.targets:
            return self.targets == ALL_LINEAR or _found(self.targets, name)
        return _found(self.targets, name) and (self.layers is None or self._layer(name) in self.layers)

    def _layer(self, name: str) -> int | None:
        """The number of the layer `name` is in."""
        lists = "|".join(self.layers_pattern) or r"[^.]*"
        match = re.match(rf"(?:^|.*?\.)(?:{lists})\.(\d+)\.", name)
        return int(match[1]) if match else None

    def lora_of(self, name: str) -> Lora:
        """The adapter of the layer `name`."""
        rank = _of_pattern(self.ranks, name, self.lora.rank)
        return replace(self.lora, rank=int(rank), alpha=float(_of_pattern(self.alphas, name, self.lora.alpha)))


def _found(wanted: str | tuple[str, ...], name: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, name) is not None
    return any(name == one or name.endswith(f".{one}") for one in wanted)


def _of_pattern(patterns: Mapping[str, float], name: str, default: float) -> float:
    return next((value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", name)), default)


def read_adapter_config(path: Path) -> AdapterConfig:
    """The file's content, checked.

    Raises:
        CheckpointError: unreadable, no LoRA, or a kind of LoRA that is not computed here.
    """
    data = read_json(path)
    _refuse_unsupported(data, path)
    try:
        config = AdapterConfig(
            lora=Lora(
                rank=_number(data, "r", 8, int), alpha=_number(data, "lora_alpha", 8, float),
                dropout=_number(data, "lora_dropout", 0.0, float), rslora=bool(data.get("use_rslora")),
                dora=bool(data.get("use_dora")),
            ),
            targets=_names(data, "target_modules"),
            exclude=_names(data, "exclude_modules"),
            layers=_layers(data.get("layers_to_transform")),
            layers_pattern=_as_tuple(_names(data, "layers_pattern")),
            ranks=_patterns(data, "rank_pattern", int),
            alphas=_patterns(data, "alpha_pattern", float),
            saved=_as_tuple(_names(data, "modules_to_save")),
            base=_text(data, "base_model_name_or_path"),
            revision=_text(data, "revision"),
        )  # fmt: skip
        patterns = [*config.ranks, *config.alphas, *config.saved, *config.layers_pattern]
        for pattern in [*patterns, *(p for p in (config.targets, config.exclude) if isinstance(p, str))]:
            re.compile(pattern)
    except (TypeError, ValueError, UsageError, re.error) as error:
        raise CheckpointError(f"{path} describes no adapter ({error}); train or export it again") from None
    return config


def _refuse_unsupported(data: dict[str, Any], path: Path) -> None:
    wanted = {"peft_type": ("LORA",), "bias": ("none", None), "fan_in_fan_out": _OFF, "init_lora_weights": _INITIAL}
    wrong = {key: data.get(key) for key, good in wanted.items() if data.get(key) not in good}
    wrong |= {key: value for key, value in data.items() if key not in _HARMLESS and value not in _OFF}
    if wrong:
        key, value = next(iter(wrong.items()))
        raise CheckpointError(
            f"{path} says {key} = {str(value)[:80]!r}, expected a plain LoRA, rank-stabilised LoRA or DoRA of PEFT; "
            "this adapter would compute something else here, so merge it where it was made"
        )


def _number(data: dict[str, Any], key: str, default: float, kind: type) -> Any:
    value = data.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float) or not 0 <= value < 1e9:
        raise ValueError(f"{key} is {str(value)[:80]!r}, expected a number")
    return kind(value)


def _names(data: dict[str, Any], key: str) -> str | tuple[str, ...]:
    value = data.get(key) or ()
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{key} is {str(value)[:80]!r}, expected names")
    return tuple(value)


def _as_tuple(names: str | tuple[str, ...]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else names


def _layers(value: Any) -> tuple[int, ...] | None:
    if value is None or value == []:
        return None
    numbers = value if isinstance(value, list) else [value]
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError(f"layers_to_transform is {str(value)[:80]!r}, expected whole numbers")
    return tuple(numbers)


def _patterns(data: dict[str, Any], key: str, kind: type) -> dict[str, Any]:
    value = data.get(key) or {}
    if not isinstance(value, dict):
        raise ValueError(f"{key} is {str(value)[:80]!r}, expected an object")
    return {pattern: _number(value, pattern, 0, kind) for pattern in value}


def _text(data: dict[str, Any], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} is {str(value)[:80]!r}, expected a name")
    return value or None


def adapter_config_json(loras: Mapping[str, Lora], saved: list[str], base: str | None) -> dict[str, Any]:
    """The content of adapter_config.json for adapters `loras` on the layers of these names.

    Names are given in full: by their ends alone `q_proj` of the decoder would be one of the image encoder too.
    """
    usual = Counter(loras.values()).most_common(1)[0][0] if loras else Lora()
    return {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "revision": None,
        "task_type": None,
        "inference_mode": True,
        "r": usual.rank,
        "lora_alpha": int(usual.alpha) if float(usual.alpha).is_integer() else usual.alpha,
        "lora_dropout": usual.dropout,
        "use_rslora": usual.rslora,
        "use_dora": usual.dora,
        "rank_pattern": {re.escape(n): one.rank for n, one in loras.items() if one.rank != usual.rank},
        "alpha_pattern": {re.escape(n): one.alpha for n, one in loras.items() if one.alpha != usual.alpha},
        "target_modules": list(loras),
        "modules_to_save": saved or None,
        "ensure_weight_tying": any(name.endswith("embed_tokens") for name in saved),
        "layers_to_transform": None,
        "layers_pattern": None,
        "fan_in_fan_out": False,
        "bias": "none",
        "init_lora_weights": True,
        "auto_mapping": None,
    }
