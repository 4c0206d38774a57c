"""The DeepEncoder, fast: the same numbers as transformers' classes up to rounding, for uint8 pages of one gray channel.

Read in this order:

    bfloat16.py     products of bfloat16 numbers on CPUs without instructions for them
    attention.py    SAM's attention with decomposed relative positions, in four ways that are equal but for rounding
    grid_kernel.py  the fourth way: a Triton kernel that adds the positions tile by tile
    deepencoder.py  the encoder as functions of tensors: what depends on a mode alone is computed once
    runner.py       static shapes, compiled and captured; pinned copies that overlap with computing
"""
