"""A corpus: immutable shards, published by one conditional write.

A corpus is a directory or a bucket prefix. Its objects never change. Shards have unique names. The three records that decide its
content (`corpus.json`, `_units/*.json`, `_snapshots/*.json`) are created only if absent, so one of two writers wins and the other
reads the winner's record. A crash between any two steps loses nothing and doubles nothing.

Read the files in the order in which a unit of work meets them:

    format.py           corpus.json: is this a corpus, and of which format
    shards.py           rows -> Parquet -> data/ and quarantine/
    units.py            the commit record of one unit: first writer wins, counts reconciled
    duplicates.py       documents that several units contain; pages that appear twice
    codebooks.py        codebooks of tokens that are stored as pq, by their hash
    manifest.py         segments: the units of a snapshot in pieces that versions share
    document_index.py   which unit stores a document
    snapshots.py        the published versions
    sample_sets.py      corpora of memory samples: the same protocol
    reader.py           `palimpsest.Corpus`: the public way to read one
    page.py             a page and a document, as read back
    row_filter.py       conditions on rows, as `where` takes them
    matching.py         objects that hold documents of a condition
    run_records.py      configuration, environment and outcome of each run
    running.py          runs at work: one with other settings is refused before its work
    attempts.py         objects that could not be read, by version
    quarantine_rows.py  the quarantine of a unit, on disk if it is long
    repair.py           units that lost a shard, and their successors
    shard_check.py      every promise of one shard
    manifest_check.py   every promise of a manifest and of an index
    fsck.py             every promise of a corpus
    gc.py               removal of objects that were not needed for a given time
"""
