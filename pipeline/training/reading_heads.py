"""The dense heads that teach an encoder to read, cell by cell.

The pipeline knows where every character stands. The *patch head* reads a cell from the feature of the 16 px patch that holds its
centre, before the 16x compressor; the *token head* first unpacks each visual token into its 4x4 patches and then reads the same way,
so its loss says whether a character survived the compressor. Both are local, which is what makes them learn on a CPU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.codecs.embedded.vocabulary import FIRST_CELL, SYMBOLS
from pipeline.pages.grid import Grid

# N pages, G tokens per side, P = 4 G patches per side, Q cells, C channels
PATCHES = 4


def _waves(x: Tensor, count: int = 32) -> Tensor:
    angles = x[..., None] * torch.exp(torch.linspace(0.0, math.log(64.0), count // 2, device=x.device)) * math.pi
    return torch.cat([angles.sin(), angles.cos()], -1)


class CellHead(nn.Module):
    """Patch features `[N, P * P, C]` -> logits `[N, Q, len(SYMBOLS)]` of the cells at `index`.

    The first layer is linear in the patch and in the place, so it runs once per patch and once per place instead of once per cell.
    """

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.what = nn.Linear(channels, hidden)
        self.where = nn.Linear(64, hidden, bias=False)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, len(SYMBOLS)))

    def forward(self, features: Tensor, index: Tensor, waves: Tensor) -> Tensor:
        return self.layers(self.what(features).index_select(1, index) + self.where(waves))


class ReadingHeads(nn.Module):
    """The two heads of one encoder.

    Args:
        patch_dim: channels of the patch features.
        token_dim: width of a visual token.
    """

    def __init__(self, patch_dim: int, token_dim: int) -> None:
        super().__init__()
        channels = token_dim // PATCHES**2
        self.by_patch = CellHead(patch_dim)
        self.by_token = CellHead(channels, 384)
        self.spread = nn.Linear(token_dim, token_dim)
        self.refine = nn.Sequential(nn.Linear(token_dim, 2 * token_dim), nn.GELU(), nn.Linear(2 * token_dim, token_dim))
        with torch.no_grad():  # begins as the inverse of the compressor, see architecture.fresh_model
            self.spread.weight.copy_(torch.eye(token_dim))
            self.spread.bias.zero_()
            self.refine[2].weight.mul_(0.1)

    def unpacked(self, tokens: Tensor) -> Tensor:
        """Visual tokens `[N, G * G, token_dim]` -> patch features `[N, 16 * G * G, token_dim / 16]`, row by row of the page."""
        side = math.isqrt(tokens.shape[1])
        half = math.isqrt(PATCHES)
        # token channels are (dy2, dx2, dy1, dx1, c): the patch at row 2 dy2 + dy1, column 2 dx2 + dx1 of the token
        patches = (self.spread(tokens) + self.refine(tokens)).view(len(tokens), side, side, half, half, half, half, -1)
        return patches.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(tokens), side * side * PATCHES**2, -1)

    def forward(self, patches: Tensor, tokens: Tensor, index: Tensor, waves: Tensor) -> tuple[Tensor, Tensor]:
        return self.by_patch(patches.flatten(1, 2), index, waves), self.by_token(self.unpacked(tokens), index, waves)


def cell_places(grid: Grid, side: int) -> tuple[Tensor, Tensor]:
    """Where the cells of `grid` lie among `side * 4` patches per side: patch index int64 `[Q]` and offset waves `[Q, 64]`."""
    patches = side * PATCHES
    y = ((torch.arange(grid.rows) + 0.5) * patches / grid.rows)[:, None].expand(grid.rows, grid.columns).reshape(-1)
    x = ((torch.arange(grid.columns) + 0.5) * patches / grid.columns)[None].expand(grid.rows, grid.columns).reshape(-1)
    index = y.long() * patches + x.long()
    return index, torch.cat([_waves(y - y.floor()), _waves(x - x.floor())], -1)


def symbol_targets(cells: Tensor) -> Tensor:
    """Cell ids of a batch (-100 where blank) as classes of the heads."""
    return torch.where(cells >= 0, cells - FIRST_CELL, cells)
