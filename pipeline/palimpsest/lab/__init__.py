"""Measuring and making. An extra: `pip install palimpsest[lab]`.

bench/               the benchmarks, one file each
training/            training of the embedded codec
forecast/            `palimpsest plan`: what a job will take
full_size.py         a codec of full DeepSeek-OCR size with random weights
bake_line_breaks.py  makes the table that pages/line_breaks.py reads
bake_unifont.py      makes what layout grid ships
"""
