"""Decoder layers that wait in the host's memory and come to a small card one ahead of their turn.

    copy      | layer 4 -> A | layer 5 -> B | layer 6 -> A |
    compute   |   layer 3    | layer 4 in A | layer 5 in B |

In: a model in the host's memory. Out: the same model on a device, with all but the last layers there, which are copied
into one of two places just before they run, while the layer before them computes. Any kind of weights will do, coded
ones too. Not done here: how many layers must wait (`engine.planning`), training.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from paligemma.errors import UsageError
from paligemma.model.paligemma import PaliGemmaModel

PLACES = 2


class Streamed:
    """Layers that share two places on a device.

    Attributes:
        copies: layers copied so far. layer_bytes: of one of them.
    """

    def __init__(self, layers: list[nn.Module], device: torch.device):
        self.device, self.copies = device, 0
        self.hosted = [{name: self._in_host(p) for name, p in layer.named_parameters()} for layer in layers]
        first = self.hosted[0]
        if not all(alike(first, other) for other in self.hosted):
            raise UsageError(
                "the layers of this model differ from one another, as under an adapter for some of them, and cannot "
                "share a place; leave offload out"
            )
        self.layer_bytes = sum(tensor.numel() * tensor.itemsize for tensor in first.values())
        self.places = [
            {name: torch.empty_like(tensor, device=device, pin_memory=False) for name, tensor in first.items()}
            for _ in range(PLACES)
        ]
        self.held: list[int | None] = [None] * PLACES  # which layer each place has, or will have
        self.arrived: list[Any] = [None] * PLACES  # events of the copies
        self.copier = torch.cuda.Stream(device) if device.type == "cuda" else None
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda module, given, number=number: self.enter(module, number))
            layer.register_forward_hook(lambda module, given, output, number=number: self.leave(module, number))
        for number, layer in enumerate(layers):
            self.leave(layer, number)

    def enter(self, layer: nn.Module, number: int) -> None:
        """Gives a layer its weights, and starts the copy of the next one's into the other place."""
        if number not in self.held:
            self._fetch(number, 0)
        place = self.held.index(number)
        if self.arrived[place] is not None:
            torch.cuda.current_stream(self.device).wait_event(self.arrived[place])
        _point(layer, self.places[place])
        following = (number + 1) % len(self.hosted)
        if following not in self.held:
            self._fetch(following, 1 - place)

    def leave(self, layer: nn.Module, number: int) -> None:
        """Between its turns a layer's parameters are those in the host, for whoever looks at them."""
        _point(layer, self.hosted[number])

    def _fetch(self, number: int, place: int) -> None:
        """Copies a layer's weights; work that was launched before has then done with what was there."""
        self.held[place] = number
        self.copies += 1
        with self._beside():
            for name, target in self.places[place].items():
                target.copy_(self.hosted[number][name], non_blocking=True)
            if self.copier is not None:
                self.arrived[place] = self.copier.record_event()

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On the stream of copies, after everything launched so far."""
        if self.copier is None:
            yield
            return
        self.copier.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(self.copier):
            yield

    def _in_host(self, parameter: Tensor) -> Tensor:
        """Pinned, where copies to the device would otherwise wait."""
        tensor = parameter.detach().cpu()
        return tensor.pin_memory() if self.device.type == "cuda" else tensor


def stream_layers(model: PaliGemmaModel, device: torch.device, count: int) -> Streamed:
    """Moves a model to `device`, changed in place, but for its last `count` layers, which come when it is their turn.

    Raises:
        UsageError: fewer than two layers, more than there are, or layers that differ.
    """
    layers = list(model.language_model.layers)
    if not PLACES <= count <= len(layers):
        raise UsageError(
            f"offload is {count}, expected {PLACES} to {len(layers)} layers of this model; give one of these, or auto"
        )
    waiting = layers[len(layers) - count :]
    model.language_model.layers = nn.ModuleList(layers[: len(layers) - count])
    model.to(device)
    model.language_model.layers.extend(waiting)
    streamed = Streamed(waiting, device)
    model.streamed = streamed  # type: ignore[assignment]
    return streamed


def is_streamed(model: PaliGemmaModel) -> bool:
    """Whether layers of it move while it runs, so that no pass over it can be recorded."""
    return isinstance(getattr(model, "streamed", None), Streamed)


def alike(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether the tensors have the same names, shapes and types."""
    return [(n, t.shape, t.dtype) for n, t in one.items()] == [(n, t.shape, t.dtype) for n, t in other.items()]


def _point(layer: nn.Module, tensors: dict[str, Tensor]) -> None:
    for name, parameter in layer.named_parameters():
        parameter.data = tensors[name]
