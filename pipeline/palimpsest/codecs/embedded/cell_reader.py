"""The cell reader: the embedded codec's second decoder, which reads all cells of a page at once, from its visual tokens alone.

The layout says where every cell lies. Each visual token is unpacked into its 4x4 patches, and a cell is read from the
patches around its centre, from where among them the centre lies, and from the size of the cells. It has no memory of what was
read before, so it cannot guess: what it reads was in the tokens. Only how often the page has each letter helps with a letter
that looks like another: a page full of straight quotes probably has no curly one (decision 0044).

It is also what teaches the encoder (`training/train_codec.py`), together with a head of the same form on the patches before the
compressor.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from palimpsest.codecs.embedded.vocabulary import FIRST_CELL, SYMBOLS
from palimpsest.errors import UsageError
from palimpsest.pages.characters import END
from palimpsest.pages.layouts.grid import Grid

# N pages, G tokens per side, P = 4 G patches per side, Q cells, C channels
PATCHES = 4
DIRECTIONS = ((0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))  # (rows, columns) to a neighbour
FILE = "cell_reader.safetensors"
_END = SYMBOLS.index(END)
WAVES, PITCH = 64, 32  # numbers that describe where a cell's centre lies in its patch, and how large the cells are
_TRUST = 8.0  # nats: no single cell decides where a page ends
_CERTAIN = 8.0  # nats of margin; the page's prior moves no cell by more than three
_PRIOR = 0.25  # share of the page's prior that counts
_READABLE = 0.97  # mean confidence of a page that may tell how often it has each letter


class CellHead(nn.Module):
    """Patch features `[N, P * P, C]` -> logits `[N, Q, len(SYMBOLS)]` of the cells at `index`.

    A cell is read from four patches: the one that contains its centre, and the neighbours towards which the centre lies, because
    a cell on the border of two patches is half in each. The first layer is linear in the patches and in the position, so it runs
    once per patch and once per position, not once per cell. The size of the cells scales and shifts its output: one reader
    serves all grids, and the same strokes lie differently in small cells (decision 0042).
    """

    def __init__(self, channels: int, hidden: int = 256) -> None:
        super().__init__()
        self.what = nn.Linear(channels, hidden)
        self.beside = nn.Linear(channels, (len(DIRECTIONS) - 1) * hidden, bias=False)
        self.where = nn.Linear(WAVES, hidden, bias=False)
        self.scale = nn.Linear(PITCH, hidden, bias=False)
        self.shift = nn.Linear(PITCH, hidden, bias=False)
        self.layers = nn.Sequential(nn.GELU(), nn.Linear(hidden, hidden), nn.GELU(), nn.Linear(hidden, len(SYMBOLS)))
        for layer in (self.beside, self.scale, self.shift):
            nn.init.zeros_(layer.weight)

    def forward(self, features: Tensor, index: Tensor, waves: Tensor) -> Tensor:
        count, cells = len(features), len(index)
        seen = torch.cat([self.what(features), self.beside(features)], -1).view(count, -1, self.what.out_features)
        gathered = seen.index_select(1, index.flatten()).view(count, cells, index.shape[1], -1).sum(2)
        centre, pitch = waves.split((WAVES, PITCH), -1)
        return self.layers((gathered + self.where(centre)) * (1 + self.scale(pitch)) + self.shift(pitch))


class CellReader(nn.Module):
    """Visual tokens `[N, G * G, token_dim]` -> logits `[N, Q, len(SYMBOLS)]` of the cells at `index`."""

    def __init__(self, token_dim: int) -> None:
        super().__init__()
        self.head = CellHead(token_dim // PATCHES**2, 384)
        self.spread = nn.Linear(token_dim, token_dim)
        # begins as the inverse of the compressor, see architecture.fresh_model
        nn.init.eye_(self.spread.weight)
        nn.init.zeros_(self.spread.bias)
        self.temperature: Tensor
        self.register_buffer("temperature", torch.ones(1))

    def unpacked(self, tokens: Tensor) -> Tensor:
        """Visual tokens `[N, G * G, token_dim]` -> patch features `[N, 16 * G * G, token_dim / 16]`, row by row of the page."""
        side = math.isqrt(tokens.shape[1])
        half = math.isqrt(PATCHES)
        # token channels are (dy2, dx2, dy1, dx1, c): the patch at row 2 dy2 + dy1, column 2 dx2 + dx1 of the token
        patches = self.spread(tokens).view(len(tokens), side, side, half, half, half, half, -1)
        return patches.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(len(tokens), side * side * PATCHES**2, -1)

    def forward(self, tokens: Tensor, index: Tensor, waves: Tensor) -> Tensor:
        return self.head(self.unpacked(tokens), index, waves)

    @torch.no_grad()
    def confidence(self, tokens: Tensor, columns: int, rows: int) -> Tensor:
        """How likely each cell's most likely symbol is, float32 `[N, rows * columns]`.

        Calibrated by `temperature`, which training fits on pages that it did not learn from.
        """
        index, waves = cell_places(Grid(columns, rows), math.isqrt(tokens.shape[1]))
        dtype = self.spread.weight.dtype
        logits = self(tokens.to(dtype), index.to(tokens.device), waves.to(tokens.device, dtype)).float()
        return (logits / self.temperature.float()).softmax(-1).amax(-1)

    def sensitivity(self, tokens: Tensor, columns: int, rows: int, draws: int = 2) -> Tensor:
        """What an error in a token costs the reading, float64 `[token_dim, token_dim]`.

        It is the mean of g g^T over tokens. g says how the margins of cells (the best symbol over the second, in nats) move with
        the token, each over the margin itself: what is read without doubt may move further.

        Args:
            tokens: `[N, G * G, token_dim]`.
            columns, rows: the grid.
            draws: random signs for the cells, so that one gradient holds all cells of a page.
        """
        index, waves = cell_places(Grid(columns, rows), math.isqrt(tokens.shape[1]))
        device, kind = tokens.device, self.spread.weight.dtype
        random = torch.Generator().manual_seed(0)
        total = torch.zeros(tokens.shape[2], tokens.shape[2], dtype=torch.float64)
        for page in tokens.float().split(1):
            page = page.requires_grad_(True)
            best = self(page.to(kind), index.to(device), waves.to(device, kind)).float()[0].topk(2, -1).values
            margins = best[:, 0] - best[:, 1]
            relative = margins / (margins.detach() + 1.0)
            for draw in range(draws):
                signs = (torch.randint(0, 2, margins.shape, generator=random) * 2 - 1).to(device)
                (moved,) = torch.autograd.grad((signs * relative).sum(), page, retain_graph=draw + 1 < draws)
                rows_of = moved[0].double().cpu()
                total += rows_of.T @ rows_of
        return total / max(1, tokens.shape[0] * tokens.shape[1] * draws)

    @torch.no_grad()
    def read(self, tokens: Tensor, columns: int, rows: int) -> list[list[int]]:
        """The ids of the cells of pages.

        Args:
            tokens: `[N, G * G, token_dim]`, as stored.
            columns, rows: the grid.

        Returns:
            for each page the ids up to and with its END, or of all cells. The end is where the evidence of all cells puts it:
            each says by how much END is more likely than anything else, and what lies behind the end is END.
        """
        side = math.isqrt(tokens.shape[1])
        index, waves = cell_places(Grid(columns, rows), side)
        dtype = self.spread.weight.dtype
        logits = self(tokens.to(dtype), index.to(tokens.device), waves.to(tokens.device, dtype)).float()
        is_end = logits[..., _END].clone()
        logits[..., _END] = -torch.inf
        best, symbols = logits.max(-1)
        before = (is_end - best).clamp(-_TRUST, _TRUST).cumsum(-1)
        lengths = torch.cat([before.new_zeros(len(before), 1), before], -1).argmin(-1).tolist()
        for page, length in enumerate(lengths):
            self._apply_prior(logits[page, :length], best[page, :length], symbols[page, :length])
        pages = [row[:length] for row, length in zip((symbols + FIRST_CELL).tolist(), lengths, strict=True)]
        return [page if length == len(index) else [*page, FIRST_CELL + _END] for page, length in zip(pages, lengths, strict=True)]

    def _apply_prior(self, logits: Tensor, best: Tensor, symbols: Tensor) -> None:
        """Read the doubtful cells of a page again, with the page's own frequencies of symbols as a prior.

        Args:
            logits: `[n, len(SYMBOLS)]`, of the cells before the page's end; END is -inf.
            best, symbols: `[n]`, their maximum and its symbol, which is changed in place.
        """
        if not len(symbols):
            return
        logits.scatter_(1, symbols[:, None], -torch.inf)
        second = logits.amax(-1)
        logits.scatter_(1, symbols[:, None], best[:, None])
        doubtful = (best - second < _CERTAIN).nonzero().flatten()
        scale = self.temperature.float()
        likely = (logits[doubtful] / scale).softmax(-1)
        certain = len(symbols) - len(doubtful)
        if (likely.amax(-1).sum() + certain) / len(symbols) < _READABLE:
            return
        counts = torch.bincount(symbols, minlength=logits.shape[1]) - torch.bincount(symbols[doubtful], minlength=logits.shape[1])
        prior = (counts + likely.sum(0) + 0.3) / len(symbols)
        symbols[doubtful] = (logits[doubtful] / scale + _PRIOR * prior.log()).argmax(-1)


def load_reader(path: Path, dtype: torch.dtype, device: str | torch.device) -> CellReader:
    """The reader in the folder of a checkpoint, or in a file of its own.

    Raises:
        ValueError: when there is none, or it does not fit.
    """
    from palimpsest.codecs.checkpoint import read_weights
    from palimpsest.codecs.fast.bfloat16 import speed_up

    file = path / FILE if path.is_dir() else path
    if not file.is_file():
        raise UsageError(f"verification.reader = 'cells': the checkpoint in {path} has no {FILE}; choose 'generative'")
    weights = read_weights(file)
    reader = CellReader(weights["spread.weight"].shape[0])
    added = {"temperature": torch.ones(1)} | {f"head.{name}.weight": torch.zeros(384, PITCH) for name in ("scale", "shift")}
    reader.load_state_dict(added | weights)  # older files lack these
    speed_up(reader)
    return reader.to(device, dtype).eval().requires_grad_(False)


def _waves(x: Tensor, count: int = WAVES // 2) -> Tensor:
    angles = x[..., None] * torch.exp(torch.linspace(0.0, math.log(64.0), count // 2, device=x.device)) * math.pi
    return torch.cat([angles.sin(), angles.cos()], -1)


def cell_places(grid: Grid, side: int) -> tuple[Tensor, Tensor]:
    """Where the cells of `grid` lie among `side * 4` patches per side.

    Returns:
        int64 `[Q, 4]`, `patch * 9 + direction` for the patch that contains a cell's centre and its three nearest neighbours (the
        patch itself again at the edge of the page), and `[Q, WAVES + PITCH]`: waves of the centre's position in its patch, and
        of the cell's height and width in patches.
    """
    patches = side * PATCHES
    y = ((torch.arange(grid.rows) + 0.5) * patches / grid.rows)[:, None].expand(grid.rows, grid.columns).reshape(-1)
    x = ((torch.arange(grid.columns) + 0.5) * patches / grid.columns)[None].expand(grid.rows, grid.columns).reshape(-1)
    row, column = y.long(), x.long()
    down, right = (torch.where(centre - centre.floor() < 0.5, -1, 1) for centre in (y, x))
    found = []
    for dy, dx in ((0 * down, 0 * right), (down, 0 * right), (0 * down, right), (down, right)):
        patch = (row + dy).clamp(0, patches - 1) * patches + (column + dx).clamp(0, patches - 1)
        direction = torch.tensor([[DIRECTIONS.index((a, b)) for b in (-1, 0, 1)] for a in (-1, 0, 1)])[dy + 1, dx + 1]
        found.append(patch * len(DIRECTIONS) + direction)
    pitch = torch.tensor([patches / grid.rows, patches / grid.columns]) / 4
    described = _waves(pitch, PITCH // 2).flatten().expand(len(y), PITCH)
    return torch.stack(found, 1), torch.cat([_waves(y - y.floor()), _waves(x - x.floor()), described], -1)
