"""Palimpsest: text corpora in, verified visual-token training data out.

The data's way through the rooms, and the order in which to read them:

    records.py       the words: one Arrow schema per boundary
    strict_settings.py, config.py   a job's settings, strictly checked; the fingerprint of what changes the bytes
    s3.py            object storage: one client, its patience, what its errors mean; s3_stream.py objects as streams
    sources/         URIs -> documents, every bad record kept with its reason
    pages/           document -> pages -> images: normalise, lay out on the grid, draw
    codecs/          images -> visual tokens -> what a decoder gets; codecs/embedded is the one that ships
    verification/    tokens + text -> verdict: exact greedy decoding at the price of a prefill, fidelity, the blank-page control
    tiers/           page + age + importance + verdict -> tier; rate control
    store/           rows -> shards, commit records, snapshots; fsck, gc
    plan.py          which units are new, and which of them stores a document that several hold
    stages/          the stages, plain classes from Arrow table to Arrow table
    tally.py         when is a unit complete, and does everything that went in come out?
    batching.py      how many pages a model takes at a time; supply.py, whether cores and models keep up with each other
    isolation.py     a child process for records that killed their worker
    flow.py          chains the stages over Ray Data; flow_workers.py is what runs there. Only these two and submit.py import ray
    run.py           `palimpsest run`, from plan to snapshot; run_record.py what it leaves beside the corpus
    changes.py, ingest*.py   `palimpsest ingest`: what changed, batch by batch; status.py `snapshots` and `status`
    retier.py        `palimpsest retier`: the tier policy on a published corpus; retier_plan.py, flow_retier.py
    reverify.py      `palimpsest verify`: decode again what is stored
    training/        how the embedded codec is made
    report/          a corpus for people to look at; inspection.py draws its pages again
    forecast/        what a corpus will take, from measured rates; where a big cluster stops growing
    bench/           what this machine can do
    submit.py        `palimpsest submit`: a job for a running cluster
    cli.py           the commands; console.py how they speak; logs.py, metrics.py what they tell machines

Imports go the same way: a room imports only what stands before it (tests/test_layers.py).
"""
