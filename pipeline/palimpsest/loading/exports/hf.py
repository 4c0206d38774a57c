"""A folder that `datasets.load_dataset` and the Hugging Face hub take: shards by tier, a data card, Croissant metadata.

The shards are written again, because `datasets` refuses a file with a map column: `extra` becomes a list of keys and values.
"""

from __future__ import annotations

import json
from pathlib import Path

from palimpsest.corpus.shards import parquet_body
from palimpsest.errors import UsageError
from palimpsest.loading.exports.hf_card import card, croissant
from palimpsest.loading.exports.snapshot_pages import SnapshotPages, without_maps


def write(pages: SnapshotPages, target: Path, licence: str = "unknown") -> None:
    """Write the folder.

    Args:
        licence: of the texts, for the card: an identifier of the hub, as "apache-2.0".
    """
    for shard, table in pages.tables():
        into = target / "data" / shard.tier / Path(shard.key).name
        into.parent.mkdir(parents=True, exist_ok=True)
        into.write_bytes(parquet_body(without_maps(table)))
    (target / "README.md").write_text(card(pages, licence), "utf-8")
    (target / "croissant.json").write_text(json.dumps(croissant(pages, licence), indent=1) + "\n", "utf-8")


def push(folder: Path, repository: str, *, private: bool = True) -> str:
    """Upload an exported folder to a data set repository of the hub, which is created where it is not there; its URL.

    The endpoint and the token are those of huggingface_hub (HF_ENDPOINT, HF_TOKEN).

    Raises:
        UsageError: the repository's name is none, or the hub refuses.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    api = HfApi()
    try:
        url = api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, repo_type="dataset", folder_path=str(folder), commit_message="palimpsest export hf")
    except (HfHubHTTPError, HFValidationError) as error:
        raise UsageError(f"--push {repository}: {str(error).strip()}; the export itself is in {folder}") from error
    return str(url)
