"""How fast this machine turns text into verified tokens. Every comparison runs both sides in one go and quotes the ratio.

texts.py     what is read: invented prose, or a file of your own
render.py    text -> pixels, beside Pillow
encode.py    pixels -> tokens, by mode and batch size
planting.py  errors of a known number
verify.py    tokens -> text: drafted decoding beside plain `generate`
overlap.py   rendering, encoding and verifying at the same time in one process
sections.py  parts of a long bench that do each other no harm
gpu.py       all that on one GPU, in one go; gpu_encode.py and gpu_verify.py are its sections
run.py       the whole way through Ray to committed shards, beside a bare loop in one process
machine.py   what every result carries, and how it is shown and written to docs/results
"""
