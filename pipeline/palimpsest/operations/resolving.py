"""From the settings of a job to its recipe: paths, layout, rungs, codec and fingerprint resolved and checked."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from palimpsest import config as configs
from palimpsest.config import JobConfig, LayoutConfig
from palimpsest.flow.recipe import ASKED, Recipe, fingerprint
from palimpsest.pages.layouts.registry import make_layout
from palimpsest.tiers.policies.protocol import policy_of

if TYPE_CHECKING:
    from palimpsest.codecs.presets import CodecPreset

Job = TypeVar("Job", bound=JobConfig)


def located(config: Job) -> Job:
    """The configuration with paths that mean the same in every worker.

    Raises:
        ConfigError: no source or no output is named.
    """
    if not config.sources:
        raise configs.ConfigError("sources = []: name at least one file, folder, glob or URI (--source)")
    if not config.out:
        raise configs.ConfigError("out = '': name the corpus to write (--out)")
    out = config.out if "://" in config.out else str(Path(config.out).expanduser().absolute())
    path = config.codec.path and str(Path(config.codec.path).expanduser().absolute())
    return config.replace(out=out, codec=config.codec.replace(path=path))


def identify(config: JobConfig) -> Recipe:
    """Resolve a configuration and compute its fingerprint, without loading a model.

    Raises:
        ValueError: a grid, mode, token storage or checkpoint does not exist; the message lists the choices.
    """
    from palimpsest.codecs import checkpoint
    from palimpsest.codecs.presets import find_preset
    from palimpsest.codecs.prompting import Prompting
    from palimpsest.codecs.token_storage import STORAGES
    from palimpsest.codecs.token_storage.pq import is_name

    if config.storage.tokens not in STORAGES:
        raise configs.ConfigError(f"storage.tokens = {config.storage.tokens!r}: choose one of {', '.join(STORAGES)}")
    if config.storage.codebook and not is_name(f"pq:{config.storage.codebook}"):
        raise configs.ConfigError(
            f"storage.codebook = {config.storage.codebook!r}: expected the sha256 of a codebook, 64 hex digits"
        )
    if config.storage.codebook and config.storage.tokens != "pq":
        raise configs.ConfigError(f"storage.codebook: storage.tokens = {config.storage.tokens!r} has no codebook; only 'pq' has")
    codec = config.codec
    preset = find_preset(codec.name)
    asking = Prompting(**{name: getattr(codec, name) for name in ASKED})
    differing, preset = asking.differing(preset), asking.of(preset)
    codec = codec.replace(**{name: differing.get(name) for name in ASKED})
    config = config.replace(codec=codec)
    score = preset.score if config.verification.score == "auto" else config.verification.score
    if config.verification.early_stop and score != "raw":
        raise configs.ConfigError(
            f"verification.early_stop = true: it bounds raw precision, and the target is compared with {score}; "
            "set verification.score = 'raw' or leave early_stop out"
        )
    _, revision, _ = checkpoint.identify(preset, codec.path, revision=codec.revision, content_hash=codec.content_hash)
    config = config.replace(layout=concrete_layout(config.layout, preset))
    layout = make_layout(config.layout)
    config, policy = policy_of(config, layout, revision)
    print_ = fingerprint(config, layout.identity, preset.name, revision)
    return Recipe(config=config, layout=layout, policy=policy, codec=preset.name, revision=revision, fingerprint=print_)


def concrete_layout(settings: LayoutConfig, preset: CodecPreset) -> LayoutConfig:
    """The settings, with the codec's own layout and alphabet filled in.

    Raises:
        ConfigError: the codec was not trained to read the layout.
    """
    alphabet = preset.alphabet if settings.alphabet == "codec" else settings.alphabet
    name = preset.layout if settings.name == "codec" else settings.name
    if name == "document" and preset.layout == "grid":
        raise configs.ConfigError(f'layout.name = "document": codec {preset.name!r} was trained on layout grid alone')
    return settings.replace(alphabet=alphabet, name=name)


def prepare(config: JobConfig) -> Recipe:
    """Check a configuration against the codec that it names.

    Raises:
        ValueError: as for `identify`, or the loaded model refuses a setting.
    """
    import torch

    from palimpsest.codecs.adapter import load_codec
    from palimpsest.flow.stages import codec_options

    recipe = identify(config)
    config = recipe.config
    codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts="encoder")
    for mode, size in product(recipe.policy.modes, recipe.layout.sizes or ((0, 0),)):
        codec.prompt_ids(codec.mode(mode.name), size)
        if config.verification.reader == "cells":
            codec.read_cells(torch.zeros(1, mode.num_vision_tokens, codec.token_dim), size)
    return recipe
