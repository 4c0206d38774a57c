"""Finds, pins and loads the weights of a codec, and refuses what is not exactly there.

transformers fills in what a checkpoint lacks with random numbers and a warning; an encoder with one random matrix makes a corpus
of noise. So every weight that the half in use needs must come from the file, with its shape, or loading fails and names it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import file_digest, sha256
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForImageTextToText, GenerationConfig, PreTrainedConfig, PreTrainedModel

from palimpsest.codecs.families import FAMILIES
from palimpsest.codecs.fast.bfloat16 import speed_up
from palimpsest.codecs.presets import CodecPreset
from palimpsest.errors import UsageError

Parts = Literal["encoder", "decoder", "both"]
PARTS: tuple[Parts, ...] = ("encoder", "decoder", "both")
SCALE, COLUMN, ROW, ZEROS = ".int8_scale", ".beside_column", ".beside_row", ".zeros"  # of a packed checkpoint's tensors
REVISION = "revision.json"
SHOWN = 12  # weight names in an error
_TALKATIVE = ("modeling_utils", "configuration_utils", "distributed.tensor_parallel")


class CheckpointError(UsageError):
    """A checkpoint is absent, not the pinned one, or does not hold every weight that is needed."""


@dataclass(frozen=True)
class Checkpoint:
    """A loaded model and what it is.

    Attributes:
        model: in eval mode, without gradients; the half that `parts` leaves out is None.
        id: the preset's name.
        revision: of the tokens that it makes: the hub commit where it is known, else what `revision.json` says as long as the
            weights that it names are unchanged, else "sha256:" and the first 16 digits of the content hash.
        content_hash: see `hash_weights`.
        directory: where config, weights and tokenizer lie.
    """

    model: PreTrainedModel
    id: str
    revision: str
    content_hash: str
    directory: Path


def load_checkpoint(
    preset: CodecPreset,
    path: str | Path | None = None,
    *,
    revision: str | None = None,
    content_hash: str | None = None,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    parts: Parts = "both",
    trust_remote_code: bool = False,
) -> Checkpoint:
    """Load the checkpoint of `preset` from `path`, from inside the package, or from the local hub cache. Nothing is downloaded.

    Args:
        revision, content_hash: what must be found; by default the preset's pins (its revision only where no `path` is given).
        parts: "encoder" or "decoder" leave the other half out of memory.
        trust_remote_code: run Python code that the checkpoint brings; never on by itself.

    Raises:
        CheckpointError: as the class says; the message names what differs and the setting or command that helps.
    """
    if parts not in PARTS:
        raise CheckpointError(f"parts {parts!r}: choose one of {', '.join(PARTS)}")
    directory, found_revision, found_hash = identify(preset, path, revision=revision, content_hash=content_hash)
    config = read_config(preset, directory, trust_remote_code)
    model = _load(preset, directory, config, dtype, parts, trust_remote_code)
    model.requires_grad_(False).eval().to(device)
    speed_up(model)
    return Checkpoint(model, preset.name, found_revision, found_hash, directory)


def identify(
    preset: CodecPreset, path: str | Path | None = None, *, revision: str | None = None, content_hash: str | None = None
) -> tuple[Path, str, str]:
    """Directory, revision and content hash of the checkpoint that `load_checkpoint` would load; nothing is loaded.

    Raises:
        CheckpointError: there is none, or it is not the pinned one.
    """
    revision = revision or (preset.revision if path is None else None)
    directory = locate(preset, path, revision)
    found_hash = hash_weights(directory)
    found_revision = commit_of(directory) or kept_revision(directory) or f"sha256:{found_hash[:16]}"
    for setting, pinned, actual in (
        ("codec.revision", revision, found_revision),
        ("codec.content_hash", content_hash or preset.content_hash, found_hash),
    ):
        if pinned is not None and pinned != actual:
            raise CheckpointError(f"{setting} is pinned to {pinned}, but {directory} contains {actual}")
    return directory, found_revision, found_hash


def locate(preset: CodecPreset, path: str | Path | None, revision: str | None) -> Path:
    """The directory with the checkpoint.

    Raises:
        CheckpointError: when there is none, with the one command or setting that helps.
    """
    if path is not None:
        directory, remedy = Path(path), "set codec.path to a folder with config.json and *.safetensors"
    elif preset.bundled is not None:
        package, _, folder = preset.bundled.partition("/")
        directory, remedy = Path(str(files(package))) / folder, "the installation is incomplete: install the package again"
    elif preset.repo_id is not None:
        pin = f" --revision {revision}" if revision else ""
        remedy = f"run `hf download {preset.repo_id}{pin}`, or `--set codec.path=FOLDER` if you have it elsewhere"
        try:
            directory = Path(snapshot_download(preset.repo_id, revision=revision, local_files_only=True))
        except (LocalEntryNotFoundError, HFValidationError) as error:
            raise CheckpointError(f"codec {preset.name!r}: {preset.repo_id} is not in the local hub cache; {remedy}") from error
    else:
        raise CheckpointError(f"codec {preset.name!r} has no checkpoint of its own: set codec.path to a folder with one")
    for what, pattern in (("configuration", "config.json"), ("weights", "*.safetensors")):
        if not any(directory.glob(pattern)):
            raise CheckpointError(f"codec {preset.name!r}: no {what} ({pattern}) in {directory}; {remedy}")
    return directory


def hash_weights(directory: Path) -> str:
    """sha256 over all weight files, as `sha256sum *.safetensors | sha256sum` prints it in `directory`."""
    listing = sha256()
    for path in sorted(directory.glob("*.safetensors"), key=lambda path: path.name):
        stat = path.stat()
        listing.update(f"{_file_hash(path, stat.st_size, stat.st_mtime_ns)}  {path.name}\n".encode())
    return listing.hexdigest()


def kept_revision(directory: Path) -> str | None:
    """The revision in `revision.json`, as long as every weight file that it names has the hash it names; else None.

    A second reader of the same tokens (`cell_reader.safetensors`) may change without making them another codec's
    (docs/decisions/0039-reader-alone.md).
    """
    path = directory / REVISION
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text("utf-8"))
        revision, weights = record["revision"], record["weights"].items()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path}: expected {{'revision': …, 'weights': {{file: sha256}}}}: {error!r}") from error
    for name, expected in weights:
        file = directory / name
        if not file.is_file() or _file_hash(file, (stat := file.stat()).st_size, stat.st_mtime_ns) != expected:
            return None
    return revision


@lru_cache(maxsize=1024)
def _file_hash(path: Path, size: int, mtime_ns: int) -> str:
    with path.open("rb") as stream:
        return file_digest(stream, "sha256").hexdigest()


def is_packed(directory: Path) -> bool:
    """Whether the weight files of `directory` are packed (`palimpsest.lab.training.packed`)."""
    for path in directory.glob("model*.safetensors"):
        with safe_open(path, "pt") as stored:
            if any(name.endswith(SCALE) for name in stored.keys()):  # noqa: SIM118 - no mapping
                return True
    return False


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file by name, packed ones unpacked to float32."""
    found: dict[str, torch.Tensor] = {}
    stored = load_file(path)
    for name, value in stored.items():
        if name.endswith(ZEROS):
            found[name.removesuffix(ZEROS)] = torch.zeros(*value.tolist())
        elif not name.endswith((SCALE, COLUMN, ROW)):
            found[name] = value.float() * stored[name + SCALE] if name + SCALE in stored else value
            if name + COLUMN in stored:
                found[name] += (stored[name + COLUMN].float() @ stored[name + ROW].float()).view(value.shape)
    return found


def commit_of(directory: Path) -> str | None:
    """The hub commit that `directory` was downloaded from, where the hub cache or `hf download --local-dir` recorded it."""
    if directory.parent.name == "snapshots":
        return directory.name
    record = directory / ".cache" / "huggingface" / "download" / "config.json.metadata"
    return record.read_text("utf-8").partition("\n")[0].strip() or None if record.is_file() else None


def read_config(preset: CodecPreset, directory: Path, trust_remote_code: bool = False) -> PreTrainedConfig:
    """The configuration with the preset's corrections.

    Raises:
        CheckpointError: for an unknown class, or one that only the checkpoint's own code defines.
    """
    path = directory / "config.json"
    try:
        with _reported():
            if not preset.model_class:
                return AutoConfig.from_pretrained(directory, trust_remote_code=trust_remote_code, local_files_only=True)
            config = getattr(transformers, preset.model_class).config_class.from_pretrained(directory, local_files_only=True)
    except (ValueError, OSError, KeyError) as error:
        raise CheckpointError(
            f"{path} is no configuration that transformers {transformers.__version__} knows: {error}"
        ) from error
    if preset.model_type is not None:
        config.model_type = preset.model_type
    if preset.full_attention:
        config.text_config.layer_types = ["full_attention"] * config.text_config.num_hidden_layers
    return config


def _load(
    preset: CodecPreset, directory: Path, config: PreTrainedConfig, dtype: torch.dtype, parts: Parts, trust_remote_code: bool
) -> PreTrainedModel:
    cls: Any = getattr(transformers, preset.model_class) if preset.model_class else AutoModelForImageTextToText
    remote = {} if preset.model_class else {"trust_remote_code": trust_remote_code}
    if preset.lean and parts == "encoder":
        cls = getattr(transformers, preset.model_class.replace("ForConditionalGeneration", "Model"))
        _empty(config.text_config)
    elif preset.lean and parts == "decoder":
        _empty(config.vision_config.sam_config)
        _empty(config.vision_config.encoder_config)
    source: dict[str, Any] = {"pretrained_model_name_or_path": directory}
    with _reported() as report:
        try:
            if is_packed(directory):
                files_ = sorted(directory.glob("model*.safetensors"))
                unpacked = {name: value for path in files_ for name, value in read_weights(path).items()}
                source = {"pretrained_model_name_or_path": None, "state_dict": unpacked}
            model, info = cls.from_pretrained(
                **source,
                config=config,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are listed below
                local_files_only=True,
                use_safetensors=True,
                **remote,
            )
        except (SafetensorError, OSError, RuntimeError) as error:
            names = f"; incomplete: {_some(report.unconverted)}" if report.unconverted else ""
            raise CheckpointError(f"the weights in {directory} cannot be loaded: {error}{names}") from error
    if source["pretrained_model_name_or_path"] is None and (directory / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(directory)
    _refuse_gaps(directory, info)
    if preset.lean or config.model_type in FAMILIES:
        _drop_unused(model, parts)
    return model


def _empty(config: PreTrainedConfig) -> None:
    """Take all layers out of a part's configuration."""
    config.num_hidden_layers = 0
    for name in ("layer_types", "mlp_layer_types"):
        if getattr(config, name, None) is not None:
            setattr(config, name, [])


def _refuse_gaps(directory: Path, info: dict[str, Any]) -> None:
    """Raise CheckpointError where a weight did not come out of the file as it should."""
    mismatched = [f"{name} (file {list(file)}, model {list(model)})" for name, file, model in info["mismatched_keys"]]
    gaps = {"missing": info["missing_keys"], "of another shape": mismatched}
    problems = [f"{len(names)} weights {kind}: {_some(names)}" for kind, names in gaps.items() if names]
    if problems:
        unused = info["unexpected_keys"]
        hint = f"; the files also hold what the model does not know: {_some(unused)}" if unused else ""
        raise CheckpointError(f"{directory} does not hold the whole model: {'; '.join(problems)}{hint}")


def _some(names: Collection[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(sorted(names)[:SHOWN]) + more


def _drop_unused(model: PreTrainedModel, parts: Parts) -> None:
    """Take the half that `parts` leaves out from `model`; projection, constants and embeddings stay where they are."""
    unused: list[torch.nn.Module] = []
    if parts == "decoder":
        unused = [model.get_encoder(modality="image")]
    elif parts == "encoder":
        unused = [model.get_decoder(), *(head for head in [model.get_output_embeddings()] if head is not None)]
    for part in unused:
        for module in list(model.modules()):
            for name, child in module.named_children():
                if child is part:
                    setattr(module, name, None)


class _Report(logging.Filter):
    """Keeps what transformers would print about a checkpoint: gaps are raised, and the other half's weights are no news."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def filter(self, record: logging.LogRecord) -> bool:
        self.lines += record.getMessage().splitlines()
        return False

    @property
    def unconverted(self) -> list[str]:
        """Weights that were there in part, such as all experts but one."""
        return [line.partition("|")[0].strip() for line in self.lines if "|" in line and "CONVERSION" in line]


@contextmanager
def _reported() -> Iterator[_Report]:
    report, bars = _Report(), transformers.utils.logging.is_progress_bar_enabled()
    loggers = [logging.getLogger(f"transformers.{module}") for module in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    transformers.utils.logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.WARNING)
        logger.addFilter(report)
    try:
        yield report
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.removeFilter(report)
            logger.setLevel(level)
        if bars:
            transformers.utils.logging.enable_progress_bar()
