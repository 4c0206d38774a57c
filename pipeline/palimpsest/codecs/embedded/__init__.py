"""The codec that ships inside the package: a small UnlimitedOcr that reads Palimpsest's own pages.

vocabulary.py    cells, addresses and grids as token ids
target.py        what its decoder writes for a page: rows of cells, each stretch led by the address of the visual token it lies in
architecture.py  the configuration, and how a fresh model is initialised
cell_reader.py   its second decoder: all cells of a page at once
weights/         model.safetensors, cell_reader.safetensors, config.json, tokenizer.json, and the tokens' revision (revision.json)
"""
