"""A corpus: immutable shards, published by one conditional write.

A corpus is a directory or a bucket prefix. Its objects never change. Shards have unique names. The three records that decide its
content (`corpus.json`, `_units/*.json`, `_snapshots/*.json`) are created only if absent, so one of two writers wins and the other
reads the winner's record. A crash between any two steps loses nothing and doubles nothing.

Read the files in the order in which a unit of work meets them:

    object_store.py   the seam: what any storage must do, and the race that it must pass before it is trusted
    local.py          a directory
    s3.py             a prefix of a bucket (pipeline/palimpsest/storage/s3_client.py talks to the service)
    stable_json.py    one rendering of a record as bytes
    corpus.py         corpus.json: is this a corpus, and of which format
    shards.py         rows -> Parquet -> data/ and quarantine/
    units.py          the commit record of one unit: first writer wins, counts reconciled
    duplicates.py     documents that several units contain; pages that appear twice
    manifest.py       segments: the units of a snapshot in pieces that versions share
    document_index.py which unit stores a document
    snapshots.py      the published versions, and their readers
    manifest_check.py every promise of a manifest and of an index
    tries.py          objects that could not be read, by version
    quarantine_rows.py  the quarantine of a unit, on disk if it is long
    running.py        runs at work: one with other settings is refused before its work
    repair.py         units that lost a shard, and their successors
    shard_check.py    every promise of one shard
    fsck.py           every promise of a corpus
    gc.py             removal of objects that were not needed for a given time
"""
