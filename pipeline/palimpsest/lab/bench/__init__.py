"""How fast this machine turns text into verified tokens. Every comparison runs both sides in one go and quotes the ratio.

texts.py     what is read: invented prose, or a file of your own
render.py    text -> pixels, compared with Pillow
encode.py    pixels -> tokens, by mode and batch size
planting.py  errors of a known number
drafted.py   plain and drafted decoding of the same pages, on any device
verify.py    tokens -> text: drafted decoding compared with plain `generate`
overlap.py   rendering, encoding and verifying at the same time in one process
sections.py  parts of a long bench that do each other no harm
gpu.py       all that on one GPU, in one go; gpu_encode.py and gpu_verify.py are its sections
run.py       the whole way through Ray to committed shards, compared with a bare loop in one process
public.py    public benchmarks, ours and recorded outputs of other systems in the same metrics
recorded.py  scores of recorded outputs; replay.py decodes them again to count passes
machine.py   what every result carries, and how it is shown and written to docs/results
"""
