"""The trainee: the model, its cell reader and a head on its patches, and their losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palimpsest.codecs.embedded.architecture import PATCH_DIM, TOKEN_DIM, fresh_model
from palimpsest.codecs.embedded.cell_reader import CellHead, CellReader, cell_places
from palimpsest.codecs.embedded.vocabulary import BOS, FIRST_CELL, FIRST_GRID, GRIDS, SYMBOLS
from palimpsest.codecs.modes import MODES
from palimpsest.codecs.token_storage.int8 import INT8_STEPS
from palimpsest.lab.training.guidance import BEGINS, evenly, guided_forward, kinds_of, places_to_look
from palimpsest.lab.training.ideal_reading import looks_at_image, read_ideally
from palimpsest.lab.training.painting import Painter
from palimpsest.pages.characters import END
from palimpsest.pages.layouts.grid import Grid

_END = SYMBOLS.index(END)


def has_bf16(device: str) -> bool:
    """Whether bf16 is faster there than float32: on a CPU without instructions for it, it is several times slower."""
    return device != "cpu" or torch.cpu._is_avx512_bf16_supported()


class Trainee(nn.Module):
    """The model, its cell reader and a head on its patches, and the losses of one batch."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self.model = fresh_model(seed)
        self.patch_head = CellHead(PATCH_DIM, 384)
        self.reader = CellReader(TOKEN_DIM)
        self._places: dict[tuple[str, str], tuple[Tensor, Tensor]] = {}
        self._painters: dict[tuple[str, str], Painter] = {}

    def hold(self, still: bool) -> None:
        """Freeze the layers before the compressor, or let them learn."""
        sam = self.model.model.vision_tower.sam_encoder
        for part in (sam.patch_embed, sam.layers):
            part.requires_grad_(not still)
        sam.pos_embed.requires_grad_(not still)

    def paint(self, drawn: Tensor, grid: Grid, mode: str) -> Tensor:
        """Page images of cells, see `painting.Painter`."""
        key = str(grid), mode
        if key not in self._painters:
            self._painters[key] = Painter(grid, MODES[mode].px, str(drawn.device))
        return self._painters[key](drawn)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 `[N, px, px]` -> patch features `[N, P, P, C]` and visual tokens `[N, G * G, D]`."""
        pixels = (images.float() / 127.5 - 1.0)[:, None].expand(-1, 3, -1, -1)
        tower = self.model.model.vision_tower
        sam = tower.sam_encoder
        hidden = sam.patch_embed(pixels)
        hidden = hidden + sam.interpolate_pos_encoding(hidden.shape[1], hidden.shape[2])
        for layer in sam.layers:
            hidden = layer(hidden)
        compressed = sam.proj(sam.neck(hidden))
        mixed = tower.vision_encoder(compressed).last_hidden_state[:, 1:]
        both = torch.cat([mixed, compressed.flatten(2).transpose(1, 2)], -1)
        return hidden, self.model.model.multi_modal_projector(both)

    @staticmethod
    def stored(tokens: Tensor) -> Tensor:
        """Tokens as int8 storage gives them back; gradients pass as if nothing had been rounded."""
        scale = tokens.detach().float().abs().amax(-1, keepdim=True).clamp(min=1e-12) / INT8_STEPS
        rounded = (tokens.detach().float() / scale).round() * scale
        return tokens + (rounded.to(tokens.dtype) - tokens).detach()

    @staticmethod
    def read(head: nn.Module, features: Tensor, index: Tensor, waves: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of a dense head, and the share of inked cells that it gets right."""
        return _read_loss(head(features, index, waves), targets)

    def decode(
        self, tokens: Tensor, grid: Grid, mode: str, stretch: Tensor, starts: Tensor, guided: bool = True
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Loss, guidance loss, and accuracies (inked cells, all ids but cells) of the decoder on a stretch of the target.

        Args:
            stretch: int64 `[N, L]`, padded with -100. Of one from within the target the first two ids are given.
            starts: int64 `[N]`, where in the target it begins.
            guided: without it the guidance loss is zero, and long stretches take little memory.
        """
        model = self.model.model
        before = self.before(tokens, grid)
        given = model.language_model.embed_tokens(stretch[:, :-1].clamp(min=0))
        inputs = torch.cat([before, given.to(before.dtype)], 1)
        prefix = before.shape[1]
        ahead = torch.arange(prefix, device=tokens.device).expand(len(tokens), -1)
        positions = torch.cat([ahead, prefix + starts[:, None] + torch.arange(given.shape[1], device=tokens.device)], 1)
        look = places_to_look(stretch[:, :-1], starts, grid, mode, prefix) if guided else ()
        kinds = kinds_of(stretch[:, :-1])
        hidden, guidance = guided_forward(model.language_model, inputs, positions, look, kinds, prefix)
        logits = self.model.lm_head(hidden[:, prefix - 1 :]).float()
        at = torch.arange(stretch.shape[1], device=starts.device)
        unknown = (starts[:, None] > 0) & (at < 2)  # a stretch from within does not say which of the token's heights it is at
        expected = stretch.masked_fill(unknown, -100)
        is_cell = (expected >= FIRST_CELL) & (expected < FIRST_CELL + len(SYMBOLS))
        missed = F.cross_entropy(logits.flatten(0, 1), expected.flatten(), ignore_index=-100, reduction="none")
        begins = (starts[:, None] == 0) & (at < 2)  # a kind of their own: nothing else on a page follows from the prompt alone
        loss = evenly(missed.view_as(expected), expected >= 0, kinds_of(expected).masked_fill(begins, BEGINS), BEGINS + 1)
        inked = is_cell & (expected != FIRST_CELL)  # FIRST_CELL is the space
        right = logits.argmax(-1) == expected
        others = (expected >= 0) & ~is_cell
        shares = [(right & which).sum() / which.sum().clamp(min=1) for which in (inked, others)]
        return loss, guidance, *shares

    def copy(self, tokens: Tensor, grid: Grid, mode: str, cells: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Loss of the decoder with ideal attentions on `cells` (int64 `[Q]`) of each page, and its share of right inked ones."""
        logits = read_ideally(self.model.model.language_model, self.model.lm_head, tokens, grid, mode, cells)
        return _read_loss(logits, targets)

    def look(self, tokens: Tensor, grid: Grid, mode: str, count: int) -> tuple[Tensor, Tensor]:
        """Loss of `count` ids of visual tokens that look for theirs on each page, and the share of heads that find it."""
        scores, expected = looks_at_image(self.model.model.language_model, self.before(tokens, grid), grid, mode, count)
        targets = expected.expand(scores.shape[:-1])
        loss = F.cross_entropy(scores.flatten(0, 2), targets.flatten())
        return loss, (scores.argmax(-1) == targets).float().mean()

    def before(self, tokens: Tensor, grid: Grid) -> Tensor:
        """The decoder's input before the first id: BOS, `features`, and the grid, `[N, 1 + G * (G + 1) + 1 + 1, D]`."""
        features = self.features(tokens)
        named = [BOS, FIRST_GRID + GRIDS.index(f"{grid.columns}x{grid.rows}")]
        bos, grid_id = self.model.model.language_model.embed_tokens(torch.tensor(named, device=tokens.device)).to(features.dtype)
        return torch.cat([bos.expand(len(tokens), 1, -1), features, grid_id.expand(len(tokens), 1, -1)], 1)

    def features(self, tokens: Tensor) -> Tensor:
        """Visual tokens `[N, G * G, D]` with the newline and separator rows, `[N, G * (G + 1) + 1, D]`."""
        model = self.model.model
        count, side = len(tokens), int(tokens.shape[1] ** 0.5)
        newline = model.image_newline.to(tokens.dtype).expand(count, side, 1, -1)
        rows = torch.cat([tokens.view(count, side, side, -1), newline], 2).flatten(1, 2)
        return torch.cat([rows, model.view_separator.to(tokens.dtype).expand(count, 1, -1)], 1)

    def place(self, grid: Grid, mode: str, device: str) -> tuple[Tensor, Tensor]:
        """Where the cells lie, see `cell_places`."""
        key = str(grid), mode
        if key not in self._places:
            index, waves = cell_places(grid, MODES[mode].grid)
            self._places[key] = index.to(device), waves.to(device)
        return self._places[key]


def _read_loss(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten())
    seen = (targets != 0) & (targets != _END)
    return loss, ((logits.argmax(-1) == targets) & seen).sum() / seen.sum().clamp(min=1)
