"""DeepEncoder as functions of tensors: SAM's blocks, its neck and convolutions, the second encoder, the projection.

It reads the weights of a transformers model in place. What depends on a mode alone (interpolated positions, position tables,
where the windows lie) is computed once per mode, in `Plan`. Windows are cut out of q, k and v instead of the block's input, so
that no linear layer sees padding; padding itself is the bias of the q-k-v layer, which is what transformers' zeros become.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from palimpsest.codecs.fast.attention import WAYS
from palimpsest.codecs.fast.bfloat16 import linear

MODEL_TYPES = ("unlimited_ocr", "deepseek_ocr2")
Activation = Callable[[Tensor], Tensor]


class Norm(NamedTuple):
    """Weights of a layer norm."""

    weight: Tensor
    bias: Tensor
    eps: float


class Dense(NamedTuple):
    """Weights of a linear layer."""

    weight: Tensor
    bias: Tensor | None


class Windows(NamedTuple):
    """Where the windows of one mode lie.

    Attributes:
        side: places of a window's side.
        across: windows next to each other.
        cut: place of the page for each place of each window, `[across² · side²]`; the page's size stands for padding.
        join: place in `cut` for each place of the page.
        padded: whether there is padding.
    """

    side: int
    across: int
    cut: Tensor
    join: Tensor
    padded: bool


class Block(NamedTuple):
    """Weights of a transformer block, q, k and v in one."""

    norm1: Norm
    qkv: Dense
    out: Dense
    norm2: Norm
    up: Dense
    down: Dense


@dataclass(frozen=True)
class Plan:
    """The constants of one mode: computed once, read by every page.

    Attributes:
        side: patches per side.
        positions: SAM's positions, `[side², C]`; None where it has none.
        windows: of the blocks with windows.
        tables: (rows, columns) of each SAM block, `[n, n, d]` for its n.
        second: positions of the second encoder (v1), or its queries, mask and rotary embedding (v2).
    """

    side: int
    positions: Tensor | None
    windows: Windows
    tables: list[tuple[Tensor, Tensor]]
    second: tuple[Tensor, ...]


def unfit(model: Any) -> str | None:
    """Why the fast encoder cannot replace this model's, or None when it can."""
    config: PreTrainedConfig = model.config
    if config.model_type not in MODEL_TYPES:
        return f"model_type {config.model_type!r} is no DeepEncoder"
    tower = getattr(model.base_model, "vision_tower", None)
    if tower is None or not len(tower.sam_encoder.layers):
        return "the encoder was not loaded"
    if not tower.sam_encoder.config.use_rel_pos:
        return "its SAM has no relative positions"
    attention = config.vision_config.encoder_config._attn_implementation
    return None if attention == "sdpa" else f"attn_implementation is {attention!r}, not 'sdpa'"


def sam_block(
    x: Tensor, block: Block, table: tuple[Tensor, Tensor], windows: Windows | None, heads: int, act: Activation, way: str
) -> Tensor:
    """One SAM block, `[n, places, C]` to the same; over windows, or over the whole page where `windows` is None."""
    qkv = linear(layer_norm(x, x.shape[-1:], *block.norm1), *block.qkv)
    if windows:
        qkv = _cut(qkv, windows, block.qkv.bias).reshape(-1, windows.side**2, qkv.shape[-1])
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    mixed = WAYS[way](q, k, v, *table).transpose(1, 2)
    if windows:
        mixed = _join(mixed.reshape(len(x), -1, x.shape[-1]), windows)
    x = x + linear(mixed.reshape(x.shape), *block.out)
    return x + _feed_forward(layer_norm(x, x.shape[-1:], *block.norm2), block, act)


def _cut(page: Tensor, windows: Windows, padding: Tensor | None) -> Tensor:
    """Places of a page `[n, places, C]` in the order of its windows, with `padding` where a window hangs over."""
    if windows.padded:
        assert padding is not None
        return torch.cat([page, padding.expand(len(page), 1, -1)], 1)[:, windows.cut]
    return page.unflatten(1, (windows.across, windows.side, windows.across, windows.side)).transpose(2, 3).flatten(1, 4)


def _join(places: Tensor, windows: Windows) -> Tensor:
    """The inverse of `_cut`, without padding."""
    if windows.padded:
        return places[:, windows.join]
    return places.unflatten(1, (windows.across, windows.across, windows.side, windows.side)).transpose(2, 3).flatten(1, 4)


def plain_block(x: Tensor, block: Block, heads: int, act: Activation) -> Tensor:
    """One block of v1's second encoder, `[n, tokens, C]` to the same."""
    qkv = linear(layer_norm(x, x.shape[-1:], *block.norm1), *block.qkv)
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    x = x + linear(scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2), *block.out)
    return x + _feed_forward(layer_norm(x, x.shape[-1:], *block.norm2), block, act)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


def _activation(name: str) -> Activation:
    """As a plain function where there is one, which compiles without a module that is made on every call."""
    named: dict[str, Activation] = {"gelu": gelu, "quick_gelu": _quick_gelu}
    return named.get(name) or ACT2FN[name]


def gelu_in_product(x: Tensor) -> Tensor:
    """gelu as cuBLAS has it behind a product, in its tanh form: within 5e-4 of the exact one, about what bfloat16 resolves.

    A block with this activation computes it inside the product before it, so that the widest tensor is written once.
    """
    return gelu(x, approximate="tanh")


@torch.library.custom_op("palimpsest::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x · weightᵀ + bias) in one kernel where the device has one."""
    return torch._addmm_activation(bias, x.flatten(0, -2), weight.t(), use_gelu=True).view(*x.shape[:-1], len(weight))


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(*x.shape[:-1], len(weight))


def _feed_forward(x: Tensor, block: Block, act: Activation) -> Tensor:
    if act is gelu_in_product and block.up.bias is not None:
        return linear(linear_gelu(x, block.up.weight, block.up.bias), *block.down)
    return linear(act(linear(x, *block.up)), *block.down)


class DeepEncoder:
    """The encoder half of a DeepSeek-OCR model.

    Args:
        model: `UnlimitedOcr…` or `DeepseekOcr2…` of transformers with its encoder; its weights are read in place.
        mean, std: of the three channels, on pixels scaled to 0..1.
    """

    def __init__(self, model: Any, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        base = model.base_model
        self.tower, self.projector = base.vision_tower, base.multi_modal_projector
        self.sam, self.second = self.tower.sam_encoder, self.tower.vision_encoder
        self.version = 1 + MODEL_TYPES.index(model.config.model_type)
        self.config = self.sam.config
        self.patch = _one_channel(self.sam.patch_embed.projection, mean, std)
        self.scale, self.offset = 1 / (255 * std[0]), -mean[0] / std[0]
        self.blocks = [_sam_weights(layer) for layer in self.sam.layers]
        self.mixers = [_second_weights(layer) for layer in self.second.encoder.layers] if self.version == 1 else []
        self.act = _activation(self.config.hidden_act)
        self.mixer_act = _activation(self.second.config.hidden_act)
        self.sam_block, self.plain_block = sam_block, plain_block  # `runner` puts compiled ones here

    @torch.no_grad()
    def plan(self, px: int) -> Plan:
        """The constants for pages of `px` pixels."""
        side = px // self.config.patch_size
        positions = None
        if self.sam.pos_embed is not None:
            positions = self.sam.interpolate_pos_encoding(side, side).reshape(side * side, -1)
        windows = _windows(side, self.config.window_size, self.patch.weight.device)
        tables = []
        for layer in self.sam.layers:
            size = layer.window_size or side
            tables.append(
                tuple(layer.attn.get_rel_pos(size, size, table) for table in (layer.attn.rel_pos_h, layer.attn.rel_pos_w))
            )
        return Plan(side, positions, windows, tables, self._second_plan(side // 4))  # type: ignore[arg-type]

    def _second_plan(self, side: int) -> tuple[Tensor, ...]:
        count = side * side
        if self.version == 1:
            embeddings = self.second.embeddings
            size = side * embeddings.patch_size
            sample = self.patch.weight.new_empty(1, count + 1, embeddings.embed_dim)
            return (embeddings.interpolate_pos_encoding(sample, size, size),)
        queries = (self.tower.query_768_resolution if count <= 144 else self.tower.query_1024_resolution).weight
        place = torch.arange(count + len(queries), device=self.patch.weight.device)
        seen = (place[None] <= place[:, None]) | (place < count) & (place[:, None] < count)
        cos, sin = self.second.rotary_emb(queries[None], place[None])
        return queries, seen[None, None], cos, sin

    @torch.no_grad()
    def forward(self, images: Tensor, plan: Plan, way: str, window_way: str) -> Tensor:
        """Visual tokens of gray pages.

        Args:
            images: uint8 `[n, px, px]`, on the model's device.
            way, window_way: of `attention.WAYS`, over the page and inside windows.

        Returns:
            `[n, tokens, D]` in the model's dtype, without newline and separator rows.
        """
        size, side, config = self.config.patch_size, plan.side, self.config
        gray = (images.float() * self.scale + self.offset).to(self.patch.weight.dtype)
        patches = gray.view(-1, side, size, side, size).transpose(2, 3)
        x = linear(patches.reshape(len(images), side * side, size * size), *self.patch)
        if plan.positions is not None:
            x = x + plan.positions
        for block, table, layer in zip(self.blocks, plan.tables, self.sam.layers, strict=True):
            windows, chosen = (plan.windows, window_way) if layer.window_size else (None, way)
            x = self.sam_block(x, block, table, windows, config.num_attention_heads, self.act, chosen)
        maps = self.sam.proj(self.sam.neck(x.unflatten(1, (side, side))))
        return self.projector(self._second(maps.flatten(2).transpose(1, 2), plan))

    def _second(self, patches: Tensor, plan: Plan) -> Tensor:
        """The second encoder on SAM's map `[n, tokens, C]`: what the projection takes."""
        n, count, _ = patches.shape
        if self.version == 1:
            config, embeddings = self.second.config, self.second.embeddings
            x = torch.cat([embeddings.class_embedding.expand(n, 1, -1), patches], 1) + plan.second[0]
            x = self.second.pre_layrnorm(x)
            for block in self.mixers:
                x = self.plain_block(x, block, config.num_attention_heads, self.mixer_act)
            return torch.cat([x[:, 1:], patches], -1)
        queries, mask, cos, sin = plan.second
        x = torch.cat([patches, queries.expand(n, -1, -1)], 1)
        for layer in self.second.layers:
            x = layer(x, attention_mask=mask, position_embeddings=(cos, sin))
        return self.second.norm(x[:, count:])


def _one_channel(projection: torch.nn.Conv2d, mean: tuple[float, ...], std: tuple[float, ...]) -> Dense:
    """The patch embedding for one gray channel, normalised as the first: its weights summed over the channels.

    Summed in float32, rounded once. Channels of a gray page differ by a scale and an offset at most: both go into the weights.
    """
    weight = projection.weight.float()
    scales, offsets = ([std[0] / s for s in std], [(mean[0] - m) / s for m, s in zip(mean, std, strict=True)])
    bias = projection.bias.float() if projection.bias is not None else weight.new_zeros(len(weight))
    bias = bias + sum(weight[:, c].sum((1, 2)) * offset for c, offset in enumerate(offsets))
    summed = sum(weight[:, c] * scale for c, scale in enumerate(scales))
    assert isinstance(summed, Tensor)
    return Dense(summed.flatten(1).to(projection.weight.dtype), bias.to(projection.weight.dtype))


def _windows(side: int, size: int, device: torch.device) -> Windows:
    """Windows of `size` places a side on a page of `side`; those at the right and lower edge hang over it."""
    size = size or side
    count = -(-side // size)
    place = torch.arange(count * size, device=device).view(count, size)
    rows, columns = place[:, None, :, None], place[None, :, None, :]  # window row, window column, row, column
    inside = (rows < side) & (columns < side)
    cut = torch.where(inside, rows * side + columns, side * side).flatten()
    join = torch.empty(side * side + 1, dtype=torch.long, device=device)
    join[cut] = torch.arange(len(cut), device=device)
    return Windows(size, count, cut, join[:-1].clone(), bool(side % size))


def _norm(module: torch.nn.LayerNorm) -> Norm:
    return Norm(module.weight, module.bias, module.eps)


def _dense(module: torch.nn.Linear) -> Dense:
    return Dense(module.weight, module.bias)


def _sam_weights(layer: Any) -> Block:
    bias = layer.attn.qkv.bias
    qkv = Dense(layer.attn.qkv.weight, bias if bias is not None else layer.attn.qkv.weight.new_zeros(len(layer.attn.qkv.weight)))
    mlp = layer.mlp
    return Block(
        _norm(layer.layer_norm1), qkv, _dense(layer.attn.proj), _norm(layer.layer_norm2), _dense(mlp.lin1), _dense(mlp.lin2)
    )


def _second_weights(layer: Any) -> Block:
    attention, mlp = layer.self_attn, layer.mlp
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    qkv = Dense(torch.cat([part.weight for part in parts]), torch.cat([part.bias for part in parts]))
    out = _dense(attention.out_proj)
    return Block(_norm(layer.layer_norm1), qkv, out, _norm(layer.layer_norm2), _dense(mlp.fc1), _dense(mlp.fc2))
