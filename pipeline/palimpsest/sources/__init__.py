"""Sources: from URIs to documents, streamed. Every bad record stays as a row with its reason.

In the order in which data meets them:

    objects.py          an object of a listing, the version of its content, globs
    names.py            which names are sources, and which are passed over
    s3_objects.py       S3: entries of a listing, first bytes
    remote_objects.py   Google Cloud, Azure, HTTP, SFTP, HDFS and the Hugging Face hub
    bucket_listing.py   objects of a service that lists by prefix
    listing.py          any URI -> objects
    inventory.py        a listing of any size, sorted, on disk
    documents.py        a document, or a rejected record with one of the reasons
    decompression.py    .gz .bz2 .xz .zst in bounded steps, up to where a stream breaks
    streams.py          an object -> its bytes, within the limits of what it may unfold to
    timestamps.py       a cell -> a moment
    cells.py            a cell -> an id, an importance, a class, a value to carry
    fields.py           the fields of one record -> a document
    columns.py          the columns and rows of tables
    units.py            the seam `Source`: an object -> units -> documents
    text.py             .txt .md
    json_values.py      JSON values in a stream of bytes
    jsonl.py            .jsonl .ndjson .json
    parquet_pages.py    memory that decoding a Parquet page takes
    parquet.py          .parquet
    ipc_sizes.py        memory that decoding an Arrow message takes
    arrow.py            .arrow .feather
    csv.py              .csv .tsv
    formats.py          which format an object has
    tables.py           a unit -> Arrow tables of the DOCUMENTS schema

A new format is a file with a `Source` and a line in formats.py. A new place is a line in remote_objects.py.
"""
