"""Gemma 1 and Gemma 2 decoder: embeddings [B, T, D] -> hidden states [B, T, D] -> logits [B, T, V].

One block class serves both generations; `TextConfig` says whether there are post-norms, soft-caps and a window.
Not done here: sampling, text, cache layout (a cache is anything with `update`). Source: big_vision
`models/ppp/gemma.py`, Gemma 2 report. npz paths stand beside each parameter.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import TextConfig
from paligemma.model.fused import kernels, linear_kernels, product_kernels, stack_kernels, vocabulary_kernels
from paligemma.model.layers import (
    AttentionMask,
    RMSNorm,
    add_and_norm,
    at,
    attend,
    geglu,
    project,
    rotary_angles,
    rotate,
)


class Cache(Protocol):
    """What a decoder needs of a key-value cache."""

    def update(self, layer: int, k_BKTH: Tensor, v_BKTH: Tensor) -> tuple[Tensor, Tensor]:
        """Stores this call's keys (after rotation) and values; returns all of the layer's, [B, K, S, H]."""
        ...


class Attention(nn.Module):
    def __init__(self, config: TextConfig, layer: int):
        super().__init__()
        self.config, self.layer = config, layer
        q_width, kv_width = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(config.width, q_width, bias=False)  # attn/q_einsum/w
        self.k_proj = nn.Linear(config.width, kv_width, bias=False)  # attn/kv_einsum/w[:, 0]
        self.v_proj = nn.Linear(config.width, kv_width, bias=False)  # attn/kv_einsum/w[:, 1]
        self.o_proj = nn.Linear(q_width, config.width, bias=False)  # attn/attn_vec_einsum/w

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: AttentionMask, cache: Cache | None,
        place: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[B, T, D]; or [B, 1, D] of the query at `place`, int64[B], alone, while all keys and values are kept."""
        config, of_q = self.config, angles
        if place is None:
            projected = self._projected(x)
        else:
            projected = project(self.q_proj, at(x, place)), project(self.k_proj, x), project(self.v_proj, x)
            of_q = at(angles[0][:, 0], place)[:, None], at(angles[1][:, 0], place)[:, None]
            mask = mask.of_queries(place)
        q, k, v = (part.unflatten(-1, (-1, config.head_dim)).transpose(1, 2) for part in projected)
        q, k = rotate(q, of_q), rotate(k, angles)
        if cache is not None:
            k, v = cache.update(self.layer, k, v)
        attended = attend(
            q, k, v,
            scale=config.query_scale, softcap=config.attn_logit_softcap, mask=mask, window=config.window(self.layer),
        )  # fmt: skip
        return project(self.o_proj, attended.transpose(1, 2).flatten(-2))

    def _projected(self, x: Tensor) -> Sequence[Tensor]:
        layers = (self.q_proj, self.k_proj, self.v_proj)
        if fast := linear_kernels(x, *layers):
            projected: Sequence[Tensor] = fast.products(x, *(layer.weight for layer in layers))
            return projected
        return [layer(x) for layer in layers]


class MLP(nn.Module):
    """GeGLU: down(gelu_tanh(gate(x)) * up(x))."""

    def __init__(self, config: TextConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.width, config.mlp_dim, bias=False)  # mlp/gating_einsum[:, 0]
        self.up_proj = nn.Linear(config.width, config.mlp_dim, bias=False)  # mlp/gating_einsum[:, 1]
        self.down_proj = nn.Linear(config.mlp_dim, config.width, bias=False)  # mlp/linear

    def forward(self, x: Tensor) -> Tensor:
        return project(self.down_proj, self._gated(x))

    def _gated(self, x: Tensor) -> Tensor:
        if fast := linear_kernels(x, self.gate_proj, self.up_proj):
            gated: Tensor = fast.gated(x, self.gate_proj.weight, self.up_proj.weight)
            return gated
        gate, up = self.gate_proj(x), self.up_proj(x)
        if fast := kernels(gate):
            gated = fast.geglu(gate, up)
            return gated
        return geglu(gate, up)


class Block(nn.Module):
    def __init__(self, config: TextConfig, layer: int):
        super().__init__()

        def norm() -> RMSNorm:
            return RMSNorm(config.width, config.norm_eps)

        self.pre_attention_norm = norm()
        self.self_attn = Attention(config, layer)
        self.post_attention_norm = norm() if config.post_norms else None
        self.pre_ffw_norm = norm()
        self.mlp = MLP(config)
        self.post_ffw_norm = norm() if config.post_norms else None

    def forward(
        self, x: Tensor, angles: tuple[Tensor, Tensor], mask: AttentionMask, cache: Cache | None,
        place: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """[B, T, D]; or of the token at `place`, int64[B], alone: [B, 1, D]."""
        attended = self.self_attn(self.pre_attention_norm(x), angles, mask, cache, place)
        x = x if place is None else at(x, place)
        x, normed = add_and_norm(x, attended, self.post_attention_norm, self.pre_ffw_norm)
        return add_and_norm(x, self.mlp(normed), self.post_ffw_norm, None)[0]


class LanguageModel(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.embedding_rows, config.width)  # llm/embedder/input_embedding, tied head
        self.layers = nn.ModuleList(Block(config, layer) for layer in range(config.depth))  # llm/layers
        self.norm = RMSNorm(config.width, config.norm_eps)  # llm/final_norm

    def embed(self, tokens: Tensor) -> Tensor:
        """[B, T, D]: embedding rows times sqrt(D), the factor rounded to the weights' type as in both references."""
        x = self.embed_tokens(tokens)
        return x * x.new_full((), self.config.width**0.5)  # filled where it is used: no copy to wait for

    def forward(self, x: Tensor, position: Tensor, mask: AttentionMask, cache: Cache | None = None) -> Tensor:
        """Hidden states after the final norm. `position` is int64[B, T]."""
        angles = rotary_angles(position, self.config.head_dim, self.config.rope_theta)
        if fast := stack_kernels(self, x, cache):
            hidden: Tensor = fast.run(self, x, angles, mask, cache)
            return hidden
        for layer in self.layers:
            x = layer(x, angles, mask, cache)
        return self.norm(x)

    def in_steps(
        self, x: Tensor, position: Tensor, mask: AttentionMask, cache: Cache | None, last: Tensor
    ) -> Iterator[Tensor]:
        """`forward` for a prompt with a pause after each layer: what went through it, and at last hidden states.

        Those are [B, 1, D] of the tokens at `last`, int64[B]; nothing follows from the others' but keys and values, so
        the last layer leaves them out.
        """
        angles = rotary_angles(position, self.config.head_dim, self.config.rope_theta)
        for layer in self.layers[:-1]:
            x = layer(x, angles, mask, cache)
            yield x
        yield self.norm(self.layers[-1](x, angles, mask, cache, last))

    def logits(self, hidden: Tensor, *, softcap: bool = True, rows: slice | None = None) -> Tensor:
        """Scores over the embedding rows, soft-capped where the architecture says so, in the type of `hidden`.

        `softcap=False` gives the uncapped scores big_vision trains on and picks the first generated token from.
        `rows` scores these tokens alone.
        """
        scores = self._products(hidden, rows)
        cap = self.config.final_logit_softcap
        if not softcap or cap is None:
            return scores
        if fast := vocabulary_kernels(scores):
            capped: Tensor = fast.softcap(scores, cap)
            return capped
        return cap * torch.tanh(scores / cap)

    def _products(self, hidden: Tensor, rows: slice | None) -> Tensor:
        table = self.embed_tokens
        if not isinstance(table, nn.Embedding):  # packed: its rows are no tensor
            packed: Tensor = table.scores(hidden, rows)
            return packed
        weight = table.weight if rows is None else table.weight[rows].to(hidden.dtype)
        fast = product_kernels(hidden, weight)
        products: Tensor = fast.product(hidden, weight) if fast else F.linear(hidden, weight)
        return products
