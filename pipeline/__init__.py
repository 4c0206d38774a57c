"""Palimpsest: text corpora in, verified visual-token training data out.

The data's way through the rooms, and the order in which to read them:

    records.py       the words: one Arrow schema per boundary
    config.py        a job's settings, strictly checked; the fingerprint of what changes the bytes
    sources/         URIs -> documents, every bad record kept with its reason
    pages/           document -> pages -> images: normalise, lay out on the grid, draw
    codecs/          images -> visual tokens -> what a decoder gets; codecs/embedded is the one that ships
    verification/    tokens + text -> verdict: exact greedy decoding at the price of a prefill, fidelity, the blank-page control
    store/           rows -> shards, commit records, snapshots; fsck, gc
    plan.py          which units are new, and which of them stores a document that several hold
    stages.py        the six stages, plain classes from Arrow table to Arrow table
    tally.py         when is a unit complete, and does everything that went in come out?
    flow.py          chains the stages over Ray Data; the only file that imports ray
    run.py           `palimpsest run`, from plan to snapshot
    reverify.py      `palimpsest verify`: decode again what is stored
    training/        how the embedded codec is made
    report/          a corpus for people to look at; inspection.py draws its pages again
    bench/           what this machine can do
    cli.py           the commands; console.py how they speak

Imports go the same way: a room imports only what stands before it (tests/test_layers.py).
"""
