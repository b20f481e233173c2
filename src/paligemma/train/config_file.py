"""A `TrainConfig` <-> plain data, and files of it in YAML, TOML or JSON.

    read_config("run.yaml")                             defaults < file
    with_overrides(config, {"optim.lr": "3e-5"})        < options of a command

A key nobody knows, at any depth, is an error that names the nearest one; so are a key given twice, a value of another
type, and what YAML would quietly turn into something else (`1e-5` is a number here, `no` a yes or no only where one is
asked for). Files are data: no tags, no anchors, nothing runs.
"""

import json
import tomllib
import types
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from paligemma.config import did_you_mean
from paligemma.errors import UnavailableError, UsageError
from paligemma.train.config import LoraConfig, SourceConfig, TrainConfig

MAX_BYTES = 2**20
HEADER = "# What this run was told, defaults included. Read it back: paligemma train --config FILE\n"

# What may change when a run is resumed: nothing that decides which numbers come out, but for their last bits.
FREE = frozenset({
    "out", "threads", "keep", "save_every", "save_minutes", "track", "parallel", "checkpointing", "compile",
    "micro_batch", "data.workers", "data.check", "evaluate.pictures",
})  # fmt: skip

T = TypeVar("T")


def read_config(path: "str | Path", base: TrainConfig | None = None) -> TrainConfig:
    """The configuration in a .yaml, .yml, .toml or .json file; what it does not say is as in `base`.

    Raises:
        UsageError: no readable file, an unknown key, a wrong type, a number out of range.
        UnavailableError: YAML without PyYAML.
    """
    file = Path(path)
    read = READERS.get(file.suffix.lower())
    if read is None:
        raise UsageError(f"{file} is no configuration, expected a name that ends in .yaml, .toml or .json; rename it")
    try:
        if file.stat().st_size > MAX_BYTES:
            raise ValueError(f"it has more than {MAX_BYTES:,} bytes")
        data = read(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())[:200]
        raise UsageError(f"{file} cannot be read as a configuration ({reason}); mend it, or give another") from error
    try:
        return from_dict({} if data is None else data, base)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from error


def write_config(path: Path, config: TrainConfig) -> None:
    """Writes all of it as YAML, which `read_config` reads back as the same value."""
    path.write_text(HEADER + _yaml().safe_dump(to_dict(config), sort_keys=False, allow_unicode=True), "utf-8")


def to_dict(config: TrainConfig) -> dict[str, Any]:
    """Plain data of all its values, nested; paths as text, tuples as lists."""
    return _plain(asdict(config))


def from_dict(data: Mapping[str, Any], base: TrainConfig | None = None) -> TrainConfig:
    """The inverse of `to_dict`; keys that are missing are as in `base`, by default the defaults.

    Raises:
        UsageError: see `read_config`.
    """
    return _record(TrainConfig, data, "", base)


def with_overrides(config: TrainConfig, overrides: Mapping[str, Any]) -> TrainConfig:
    """The same with values replaced: `{"optim.lr": 3e-5, "lora.rank": "4"}`; text is read as YAML would read it.

    Raises:
        UsageError: see `read_config`.
    """
    data: dict[str, Any] = {}
    for dotted, value in overrides.items():
        *parents, last = dotted.split(".")
        place = data
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise UsageError(f"found {dotted!r} beside {parent!r}, which it is a part of; give one of them")
        place[last] = _scalar(value) if isinstance(value, str) else value
    return from_dict(data, config)


def differences(before: TrainConfig, now: TrainConfig) -> dict[str, tuple[Any, Any]]:
    """What differs between two configurations, by dotted key: (before, now)."""
    old, new = (_flat(to_dict(config)) for config in (before, now))
    return {key: (old.get(key), new.get(key)) for key in {**old, **new} if old.get(key) != new.get(key)}


# --- plain data -> values --------------------------------------------------------------------------------------------


def _record(cls: type[T], data: Any, where: str, base: T | None = None) -> T:
    """A dataclass of a mapping; fields that are missing are the base's."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{where or 'the configuration'} is {_shown(data)}, expected keys with values")
    known = {field.name: field for field in fields(cls)}  # type: ignore[arg-type]  # T is a dataclass
    kinds = get_type_hints(cls)
    values = {} if base is None else {name: getattr(base, name) for name in known}
    for key, value in data.items():
        name = f"{where}.{key}".lstrip(".")
        if key not in known:
            raise UsageError(f"unknown key {name!r}{_meant(str(key), list(known))}")
        values[key] = _value(kinds[key], value, name, values.get(key))
    try:
        return cls(**values)
    except TypeError as error:  # a key without default
        raise UsageError(f"{where} lacks a key ({str(error).partition('missing ')[2]}); give it") from error
    except UsageError as error:
        raise UsageError(f"{where}: {error}" if where else str(error)) from error


def _meant(key: str, known: list[str]) -> str:
    """Where a key belongs that stands in the wrong place, otherwise the nearest one."""
    everywhere = _flat(to_dict(TrainConfig(lora=LoraConfig())))
    places = [dotted for dotted in everywhere if dotted.rpartition(".")[2] == key]
    return f"; did you mean {places[0]!r}?" if places else did_you_mean(key, known)


def _value(kind: Any, value: Any, where: str, base: Any) -> Any:
    """`value` as the type of its field says."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in inner:
            return None
        return _value(next(one for one in inner if one is not type(None)), value, where, base)
    if origin is Literal:
        if value not in inner:
            raise UsageError(
                f"{where} is {_shown(value)}, which is none of its words{did_you_mean(str(value), list(inner))}"
            )
        return value
    if origin is tuple:
        return _tuple(inner, value, where)
    if is_dataclass(kind):
        assert isinstance(kind, type)
        if kind is SourceConfig and isinstance(value, str):
            return SourceConfig(path=value)
        return _record(kind, value, where, base)
    return _plain_value(kind, value, where)


def _tuple(inner: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if inner[-1] is Ellipsis:
        listed = value if isinstance(value, list | tuple) else [value]
        return tuple(_value(inner[0], one, f"{where}[{i}]", None) for i, one in enumerate(listed))
    if not isinstance(value, list | tuple) or len(value) != len(inner):
        raise UsageError(f"{where} is {_shown(value)}, expected {len(inner)} values; give a list of them")
    return tuple(
        _value(kind, one, f"{where}[{i}]", None) for i, (kind, one) in enumerate(zip(inner, value, strict=True))
    )


def _plain_value(kind: type, value: Any, where: str) -> Any:
    accepted, make, told = {
        bool: ((bool,), bool, "true or false"),
        int: ((int,), int, "a whole number"),
        float: ((int, float), float, "a number"),
        str: ((str,), str, "text"),
        Path: ((str, Path), Path, "a path"),
    }[kind]
    if kind is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # 1e6
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        raise UsageError(f"{where} is {_shown(value)}, expected {told}; change it")
    return make(value)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return str(value) if isinstance(value, Path) else value


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one with dotted keys; lists are values."""
    found: dict[str, Any] = {}
    for key, value in data.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
    return found


# --- text -> plain data ----------------------------------------------------------------------------------------------


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        twice = next(key for key, _ in pairs if [other for other, _ in pairs].count(key) > 1)
        raise ValueError(f"the key {twice!r} is given twice")
    return found


def _json(text: str) -> Any:
    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number of JSON")

    return json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=refuse)


def _yaml() -> Any:
    try:
        import yaml
    except ImportError:
        raise UnavailableError(
            "reading and writing YAML needs PyYAML, which is not installed; pip install 'paligemma[train]', "
            "or write the configuration in TOML or JSON"
        ) from None
    return yaml


def _yaml_loader() -> Any:
    """YAML's plain data, strictly: no key twice, no aliases, `1e-5` a number as in YAML 1.2."""
    import re

    yaml = _yaml()

    class Loader(yaml.SafeLoader):  # type: ignore[name-defined]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("it has an alias (*name), expected values written out")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            pairs = [
                (self.construct_object(key, True), self.construct_object(value, True)) for key, value in node.value
            ]
            return _no_duplicates(pairs)

    Loader.add_constructor("tag:yaml.org,2002:map", Loader.construct_mapping)
    number = re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9]*)?[eE][-+]?[0-9]+")
    Loader.add_implicit_resolver("tag:yaml.org,2002:float", number, list("-+0123456789"))
    return Loader


def _read_yaml(text: str) -> Any:
    yaml = _yaml()
    try:
        return yaml.load(text, _yaml_loader())  # a SafeLoader
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _scalar(text: str) -> Any:
    """One value of a command line: a number, true or false, null, a list in brackets, otherwise the text itself."""
    try:
        value = _read_yaml(text)
    except ValueError:
        return text
    return text if isinstance(value, Mapping) or value.__class__.__module__ == "datetime" else value


READERS: dict[str, Callable[[str], Any]] = {
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".toml": tomllib.loads,
    ".json": _json,
}
