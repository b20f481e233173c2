"""SigLIP image encoder: pixels [B, 3, S, S] in [-1, 1] -> patch features [B, N, D].

Pre-norm ViT with biases everywhere, tanh-GELU, learned positions, no class token, no pooling; the final norm is
applied to every patch. Source: big_vision `models/vit.py` (So400m/14). npz paths stand beside each parameter.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paligemma.config import VisionConfig
from paligemma.model.layers import attend, project, project_gelu


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.num_heads = config.num_heads
        self.scale = config.head_dim**-0.5
        self.q_proj = nn.Linear(config.width, config.width)  # MultiHeadDotProductAttention_0/query
        self.k_proj = nn.Linear(config.width, config.width)  # .../key
        self.v_proj = nn.Linear(config.width, config.width)  # .../value
        self.out_proj = nn.Linear(config.width, config.width)  # .../out

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (
            project(proj, x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        attended = attend(q, k, v, scale=self.scale)
        return project(self.out_proj, attended.transpose(1, 2).flatten(-2))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.width, config.mlp_dim)  # MlpBlock_0/Dense_0
        self.fc2 = nn.Linear(config.mlp_dim, config.width)  # MlpBlock_0/Dense_1

    def forward(self, x: Tensor) -> Tensor:
        return project(self.fc2, project_gelu(self.fc1, x))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.width, eps=config.norm_eps)  # LayerNorm_0
        self.self_attn = VisionAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.width, eps=config.norm_eps)  # LayerNorm_1
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.self_attn(self.layer_norm1(x))
        return x + self.mlp(self.layer_norm2(x))


class VisionTower(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        patch = config.patch_size_px
        self.patch_embedding = nn.Conv2d(3, config.width, kernel_size=patch, stride=patch)  # img/embedding
        self.position_embedding = nn.Parameter(torch.zeros(config.num_image_tokens, config.width))  # img/pos_embedding
        self.layers = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))  # img/Transformer/encoderblock
        self.post_layernorm = nn.LayerNorm(config.width, eps=config.norm_eps)  # img/Transformer/encoder_norm

    def embed(self, pixels: Tensor) -> Tensor:
        """Patches in row-major order (y, then x) plus their positions: [B, N, D]."""
        patches = self.patch_embedding(pixels.to(self.patch_embedding.weight.dtype))
        return patches.flatten(2).transpose(1, 2) + self.position_embedding

    def forward(self, pixels: Tensor) -> Tensor:
        x = self.embed(pixels)
        for layer in self.layers:
            x = layer(x)
        return self.post_layernorm(x)


def resample_positions(table: Tensor, grid_size: int) -> Tensor:
    """A position table float[N, D] for another grid, float[grid_size**2, D]: bilinear, corners kept on corners.

    Source: big_vision `models/vit.py` `resample_posemb` (scipy `zoom` of order 1).
    """
    old = round(len(table) ** 0.5)
    image = table.float().unflatten(0, (old, old)).permute(2, 0, 1)[None]
    resized = F.interpolate(image, size=(grid_size, grid_size), mode="bilinear", align_corners=True)
    return resized[0].flatten(1).T.to(table.dtype)
