"""Corpora into training: batches with exact resume on any number of ranks and workers, and exports.

    order.py          blocks, streams, windows: the order of an epoch, from row counts and a seed alone
    source.py         `Source` and `Rows`: streams of items with cursors
    pages.py          `Pages`: one snapshot of a corpus
    memory.py         `Memory`: conversations as memory samples
    mix.py            `Mix`: sources by weight
    packing.py        `Packed`: sequences of a fixed length
    consumer.py       the consumer's tokenizer
    loader.py         `Loader`: batches for one rank
    state.py          states of all ranks as one
    adapters.py       batches for the codec's model, and for any other
    batches.py        samples to batches
    transport.py      samples between processes
    tokens.py         stored tokens to tensors
    shard_rows.py     single rows of a shard
    parquet_pages.py  payloads straight from Parquet's data pages
    shard_cache.py    a bounded folder of a bucket's shards
    exports/          a snapshot for Hugging Face, Lance, MosaicML Streaming, WebDataset

`Pages`, `Memory` and `Mix` are also `palimpsest.Pages`, `palimpsest.Memory` and `palimpsest.Mix`.
"""
