"""The sources: from URIs to documents, streamed, with every bad record kept as a row that says what is wrong with it.

Read the files in the order in which the data meets them:

    config.py          which fields mean what, and the bounds
    objects.py         what a listing finds: an object and the version of its content
    documents.py       what a reader yields: a document, or a rejected record with one of the reasons
    decompression.py   .gz .bz2 .xz .zst in bounded steps, up to the very place where a stream breaks
    streams.py         an object -> its bytes; what the storage did wrong as a reason
    fields.py          the fields of one record -> a document
    units.py           the seam `Source`: an object -> units -> documents
    text.py            .txt, .md: one document per file
    jsonl.py           .jsonl, .ndjson: one document per line, sliced by bytes
    parquet.py         .parquet: one document per row, sliced by row groups
    formats.py         which format an object has
    s3_listing.py      s3:// -> objects
    listing.py         any URI -> objects
    tables.py          a unit -> Arrow tables of the DOCUMENTS schema

A new format is a new file with a `Source` in it, and one line in formats.py.
"""
