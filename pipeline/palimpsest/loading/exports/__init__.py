"""One snapshot as the data set of another tool. Each page is in it once.

    protocol.py        the formats by name, `export`, and what a format's writer is
    snapshot_pages.py  what writers get: the tables of a snapshot, and its totals
    hf.py              a folder for Hugging Face's datasets, and its upload to the hub
    hf_card.py         the data card and the Croissant metadata of that folder
    lance.py           a Lance data set
    mds.py             shards of MosaicML Streaming
    webdataset.py      tars of WebDataset

A new format is one file with a function `write`, its name in `protocol.FORMATS`, and a command in cli/export.py.
"""
