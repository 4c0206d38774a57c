"""The shared parts of the stages with a codec, and the unpacking of stored tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from palimpsest.codecs.token_storage.pq import PREFIX, is_known
from palimpsest.config import ConfigError, JobConfig
from palimpsest.corpus.codebooks import read_codebook
from palimpsest.flow.allocator import keep_freed_memory
from palimpsest.flow.batching import Batches
from palimpsest.flow.recipe import ASKED
from palimpsest.storage.opening import open_store

if TYPE_CHECKING:
    from palimpsest.codecs.adapter import Codec


class Model:
    """The shared part of Encode and Verify: a codec, loaded once per worker."""

    parts: Any = "both"

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        import torch

        from palimpsest.codecs.adapter import load_codec

        keep_freed_memory()
        self.config, self.fingerprint = config, fingerprint
        if config.placement.threads_per_worker:
            torch.set_num_threads(config.placement.threads_per_worker)
        self.codec: Codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts=self.parts)
        self.storage = in_flight(config)
        stage, place = "encode" if self.parts == "encoder" else "verify", config.placement
        most = place.encode_batch if stage == "encode" else place.verify_batch
        self.batched = Batches(stage, most, grows=self.codec.device.type != "cpu")

    def step(self, batch: int) -> int:
        """Pages per call for those who need the same number each time: `batch`, but one on a CPU (batching.py says why)."""
        return 1 if self.codec.device.type == "cpu" else batch


def in_flight(config: JobConfig) -> str:
    """The token storage between the stages: that of the corpus, with its codebook read; bf16 where the corpus keeps no tokens.

    Raises:
        ConfigError: pq without a codebook. NoSuchObject, Damaged: it is not in the corpus, or not what it should be.
    """
    if config.storage.tokens == "none":
        return "bf16"
    if config.storage.tokens != "pq":
        return config.storage.tokens
    if not config.storage.codebook:
        raise ConfigError("storage.tokens = 'pq' without storage.codebook: `palimpsest run` and `ingest` fit one to their corpus")
    name = PREFIX + config.storage.codebook
    if not is_known(name):
        read_codebook(open_store(config.out), name)
    return name


def codec_options(config: JobConfig) -> dict[str, Any]:
    """Arguments of `load_codec` other than name, path and parts."""
    import torch

    from palimpsest.codecs.prompting import Prompting

    device = config.codec.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    elif device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigError(f"codec.device = {device!r}: torch sees no GPU here; set codec.device to 'auto' or 'cpu'")
    return {
        "revision": config.codec.revision,
        "content_hash": config.codec.content_hash,
        "dtype": getattr(torch, config.codec.dtype),
        "device": device,
        "trust_remote_code": config.codec.trust_remote_code,
        "fast": config.codec.fast,
        "prompting": Prompting(**{name: getattr(config.codec, name) for name in ASKED}),
    }
