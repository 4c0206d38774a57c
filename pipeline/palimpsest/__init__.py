"""Palimpsest: text corpora in, verified visual-token training data out.

The rooms, in import order. A room imports only rooms above it (tests/test_rooms.py checks the code against this list):

    errors.py        one base class with an exit code
    schemas.py       the Arrow schemas, one per boundary
    settings.py      the base of settings: checked types, TOML, errors
    config.py        the settings of a job and the fingerprint of those that change the bytes
    telemetry.py     logs and metrics
    storage/         bytes by URI: local, s3; conditional writes
    sources/         URIs -> documents
    pages/           documents -> pages -> images
    codecs/          images -> visual tokens -> features; token storage; fast/, embedded/
    verification/    tokens + text -> verdict
    tiers/           which page gets which tier; rate control
    corpus/          shards, commits, snapshots, reader, fsck, gc
    loading/         corpus -> batches
    flow/            plan, stages, ledger, executors; the only room that imports ray
    report/          a corpus for people to look at
    operations/      run, ingest, retier, verify, status, submit, conversations/
    lab/             benchmarks, training of the embedded codec, forecast: the extra palimpsest[lab]
    cli/             the commands

`presets/` holds the job presets that come with Palimpsest.
"""

__version__ = "0.1.0"
