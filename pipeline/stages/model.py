"""What the stages with a codec share, and how stored tokens are unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline.batching import Batches
from pipeline.config import JobConfig
from pipeline.memory import keep_freed_memory

if TYPE_CHECKING:
    from pipeline.codecs.adapter import Codec


class Model:
    """What Encode and Verify share: a codec, loaded once per worker."""

    parts: Any = "both"

    def __init__(self, config: JobConfig, fingerprint: str) -> None:
        import torch

        from pipeline.codecs.adapter import load_codec

        keep_freed_memory()
        self.config, self.fingerprint = config, fingerprint
        if config.placement.threads_per_worker:
            torch.set_num_threads(config.placement.threads_per_worker)
        self.codec: Codec = load_codec(config.codec.name, config.codec.path, **codec_options(config), parts=self.parts)
        stage, place = "encode" if self.parts == "encoder" else "verify", config.placement
        most = place.encode_batch if stage == "encode" else place.verify_batch
        self.batched = Batches(stage, most, grows=self.codec.device.type != "cpu")

    def step(self, batch: int) -> int:
        """Pages per call for those who need the same number each time: `batch`, but one on a CPU (batching.py says why)."""
        return 1 if self.codec.device.type == "cpu" else batch


def codec_options(config: JobConfig) -> dict[str, Any]:
    """Arguments of `load_codec` other than name, path and parts."""
    import torch

    device = config.codec.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    return {
        "revision": config.codec.revision,
        "content_hash": config.codec.content_hash,
        "dtype": getattr(torch, config.codec.dtype),
        "device": device,
        "trust_remote_code": config.codec.trust_remote_code,
        "fast": config.codec.fast,
    }


def stored_tokens(table: pa.Table, mode: Any, codec: Codec) -> Any:
    """The visual tokens of rows of one mode and one storage, bfloat16 `[n, num_vision_tokens, token_dim]`.

    Raises:
        CodecMismatch: for tokens of another codec or revision.
        DamagedTokens: for a payload of the wrong length or hash.
    """
    from pipeline.codecs.token_storage import DamagedTokens, PackedTokens, refuse_other_codec, unpack

    pages = []
    for row in table.select(["page_id", "tokens", "token_scales", "tokens_sha256", "codec", "codec_revision"]).to_pylist():
        refuse_other_codec((row["codec"], row["codec_revision"]), (codec.id, codec.revision))
        page = PackedTokens(payload=row["tokens"], scales=row["token_scales"])
        if page.sha256 != row["tokens_sha256"]:
            said = row["tokens_sha256"]
            raise DamagedTokens(f"page {row['page_id']}: its tokens have sha256 {page.sha256}, the row says {said}")
        pages.append(page)
    return unpack(table["token_dtype"][0].as_py(), pages, mode.num_vision_tokens, codec.token_dim)
