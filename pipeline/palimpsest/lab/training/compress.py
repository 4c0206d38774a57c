"""How the compressor and the cell reader begin, once a head on the patches reads.

Found the hard way: a reader behind the 16x compressor does not learn by itself to read cells that lie on the border of two
patches, while a head before the compressor does within minutes. What that head looks at is a small subspace of the patch
features. So the compressor begins as the projection on its principal directions, weighted by how the features really vary, and
the cell reader as the same head behind it: training goes on from what the patches already tell.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palimpsest.codecs.embedded.architecture import PATCH_CHANNELS, TOKEN_DIM
from palimpsest.codecs.embedded.cell_reader import CellHead

_BESIDE = 0.5  # a neighbouring patch is looked at by about every second cell


def principal_projection(head: CellHead, features: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """The `channels` directions of patch features that `head` looks at most.

    Args:
        features: float `[n, C]`, of real pages.

    Returns:
        `down` `[channels, C]` and `up` `[C, channels]`: `up @ down` keeps as much as possible of what the head's first layer sees
        (least squares over the features), and what `down` gives has unit second moments.
    """
    flat = features.double()
    values, vectors = torch.linalg.eigh(flat.T @ flat / len(flat))
    values = values.clamp(min=float(values.max()) * 1e-6)
    root, inverse = (vectors * values.sqrt()) @ vectors.T, (vectors / values.sqrt()) @ vectors.T
    looks = torch.cat([head.what.weight, _BESIDE * head.beside.weight]).double()
    directions = torch.linalg.svd(looks @ root, full_matrices=False).Vh[:channels]
    return (directions @ inverse).float(), (root @ directions.T).float()


@torch.no_grad()
def begin_tokens(trainee: Any, features: Tensor) -> None:
    """Set compressor, projector and cell reader of a `Trainee` from its head on the patches.

    Args:
        features: patch features of real pages, `[n, PATCH_DIM]`.
    """
    head, reader = trainee.patch_head, trainee.reader
    down, up = principal_projection(head, features, PATCH_CHANNELS)
    sam = trainee.model.model.vision_tower.sam_encoder
    sam.neck.conv1.weight.copy_(down[:, :, None, None])
    for norm in (sam.neck.layer_norm1, sam.neck.layer_norm2):
        norm.weight.fill_(1.0)
        norm.bias.zero_()
    sam.neck.conv2.weight.normal_(std=1e-3)
    sam.neck.conv2.weight[:, :, 1, 1] += torch.eye(PATCH_CHANNELS)
    for conv in (sam.proj.conv1, sam.proj.conv2):
        conv.weight.normal_(std=1e-3)
        channels = conv.weight.shape[1]
        for index, (dy, dx) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
            conv.weight[index * channels : (index + 1) * channels, :, 1 + dy, 1 + dx] += torch.eye(channels)
    projector = trainee.model.model.multi_modal_projector.weight
    projector[:, :TOKEN_DIM].normal_(std=1e-3)
    projector[:, TOKEN_DIM:] = torch.eye(TOKEN_DIM)
    torch.nn.init.eye_(reader.spread.weight)
    torch.nn.init.zeros_(reader.spread.bias)
    reader.head.load_state_dict(
        {**head.state_dict(), "what.weight": head.what.weight @ up, "beside.weight": head.beside.weight @ up}
    )
