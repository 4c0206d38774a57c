"""From a training state to the checkpoint that ships: the model as safetensors in int8, its config.json and
tokenizer.json, and the cell reader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

from palimpsest.codecs.checkpoint import read_weights
from palimpsest.codecs.embedded.cell_reader import FILE
from palimpsest.codecs.embedded.vocabulary import (
    FIRST_CELL,
    FIRST_GRID,
    FIRST_X,
    FIRST_Y,
    GRIDS,
    MODE_NAMES,
    STEPS,
    SYMBOLS,
    first_token_ids,
    vocabulary_size,
)
from palimpsest.codecs.modes import MODES
from palimpsest.lab.training.packed import pack_weights
from palimpsest.lab.training.trainee import Trainee


def export(state: str | Path, out: str | Path) -> dict[str, Any]:
    """Write the checkpoint of a training state.

    Args:
        state: `state.pt` of a training run.
        out: folder of the checkpoint, created.

    Returns:
        step and number of parameters.
    """
    saved = torch.load(state, map_location="cpu", weights_only=True)
    trainee = Trainee(0)
    trainee.load_state_dict(saved["trainee"])
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    trainee.model.save_pretrained(folder)
    weights = read_weights(folder / "model.safetensors")
    _without_idle_units(weights)
    save_file(pack_weights(weights), folder / "model.safetensors", metadata={"format": "pt"})
    save_file(pack_weights(trainee.reader.state_dict()), folder / FILE)
    for path in folder.iterdir():
        path.chmod(0o644)
    tokenizer().save(str(folder / "tokenizer.json"), pretty=False)
    return {"step": saved.get("step", 0), "parameters": sum(p.numel() for p in trainee.model.parameters())}


def _without_idle_units(weights: dict[str, torch.Tensor]) -> None:
    """Zeros for what goes into MLPs that give out nothing."""
    for name in [name for name, value in weights.items() if name.endswith("down_proj.weight") and not value.any()]:
        for part in ("gate_proj", "up_proj"):
            weights[name.replace("down_proj", part)] = torch.zeros_like(weights[name.replace("down_proj", part)])


def tokenizer() -> Tokenizer:
    """The vocabulary as a tokenizer of the `tokenizers` library: one id a cell; marks are their plane-15 characters."""
    specials = {"<bos>": 0, "<eos>": 1, "<pad>": 2, "<image>": 3}
    specials |= {f"<grid {grid}>": FIRST_GRID + index for index, grid in enumerate(GRIDS)}
    specials |= {f"<{axis} {step}>": first + step for axis, first in (("y", FIRST_Y), ("x", FIRST_X)) for step in range(STEPS)}
    for mode in MODE_NAMES:
        side = MODES[mode].grid
        first = first_token_ids()[mode]
        specials |= {f"<{mode} {token // side},{token % side}>": first + token for token in range(side * side)}
    vocabulary = {chr(code): FIRST_CELL + index for index, code in enumerate(SYMBOLS)} | specials
    taken = set(vocabulary.values())
    vocabulary |= {f"<unused {number}>": number for number in range(vocabulary_size()) if number not in taken}
    result = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    result.pre_tokenizer = pre_tokenizers.Split(Regex("(?m:.)"), "isolated")
    result.decoder = decoders.Fuse()
    result.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    return result
