"""The store: immutable shards, published by one conditional write.

A corpus is a directory (or a bucket prefix). Nothing in it is ever changed: shards get names of their own, and the three records
that decide what is true (`corpus.json`, `_units/*.json`, `_snapshots/*.json`) are created only if absent, so that of two writers
one wins and the other reads what won. A crash between any two steps loses nothing and doubles nothing.

Read the files in the order in which a unit of work meets them:

    object_store.py   the seam: what any storage must do, and the race that it must pass before it is trusted
    local.py          a directory
    s3.py             a prefix of a bucket (pipeline/palimpsest/storage/s3_client.py talks to the service)
    stable_json.py    one rendering of a record as bytes
    corpus.py         corpus.json: is this a corpus, and of which format
    shards.py         rows -> Parquet -> data/ and quarantine/
    units.py          the commit record of one unit: first writer wins, counts reconciled
    duplicates.py     documents that several units hold; pages that stand twice
    manifest.py       segments: the units of a snapshot in pieces that versions share
    document_index.py which unit stores a document
    snapshots.py      the published versions, and how to read one
    manifest_check.py every promise of a manifest and of an index
    tries.py          what could not be read, by version
    quarantine_rows.py  the quarantine of a unit, on disk where it is long
    repair.py         units that lost a shard, and their successors
    shard_check.py    every promise of one shard
    fsck.py           every promise of a corpus
    gc.py             what nobody has needed for a stated time
"""
