"""The commands: app.py registers them, one file per command. A command parses, calls one function of operations, and prints.

app.py            `palimpsest`, its groups and its errors
options.py        options that several commands share
console.py        results to stdout, all else to stderr, exit codes
progress.py       the live line
run.py            run
ingest.py         ingest
retier.py         retier
conversations.py  conversations
verify.py         verify
erase.py          erase
submit.py         submit
corpus.py         inspect, report, fsck, gc
quarantine.py     quarantine
snapshots.py      snapshots
status.py         status
export.py         export
doctor.py         doctor
presets.py        presets
plan.py           plan
fit.py            fit
train_codec.py    train-codec
bench_quality.py  bench: how much is read back
bench_speed.py    bench: how fast
bench_result.py   the settings and the result of a benchmark
"""
