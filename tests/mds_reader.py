"""MosaicML Streaming's own readers over an exported folder: python tests/mds_reader.py FOLDER prints each page as JSON.

A process of its own, because the library's outermost package imports torchvision, which nothing here needs: its inner packages
are imported without it. It is installed without its dependencies, some of which contradict ours (decision 0037).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import sys
import types
from typing import Any


def packages() -> None:
    spec = importlib.util.find_spec("streaming")
    assert spec is not None and spec.submodule_search_locations
    outermost = types.ModuleType("streaming")
    outermost.__path__ = list(spec.submodule_search_locations)
    sys.modules["streaming"] = outermost


def plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def main(folder: str) -> None:
    packages()
    from streaming.base.dataset import StreamingDataset
    from streaming.base.local import LocalDataset

    local = LocalDataset(folder)
    random_access = [{name: plain(value) for name, value in local[index].items()} for index in range(len(local))]
    streamed = StreamingDataset(local=folder, shuffle=True, batch_size=4, validate_hash="sha256")
    ids = [sample["page_id"] for sample in streamed]
    print(json.dumps({"pages": random_access, "streamed": ids, "shards": len(local.shards)}))


if __name__ == "__main__":
    main(sys.argv[1])
