"""Bytes by URI: local files and S3, with conditional writes.

    object_store.py  the protocol: what any store must do
    opening.py       the store behind a path or URI, found by its scheme
    probe.py         a race that a store must pass before anything is written
    local_store.py   a directory
    s3_store.py      a prefix of a bucket
    s3_client.py     requests to S3: bounded retries, error messages, listings
    s3_stream.py     objects in S3 as seekable streams
    stable_json.py   one rendering of a record as bytes

A new object store is a file with a class of the protocol and a line in opening.py.
"""
