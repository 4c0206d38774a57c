"""Image ↔ visual tokens ↔ text: one adapter over many vision-language models, and how their tokens are kept.

    modes.py          the resolutions at which a page is seen
    presets.py        the codecs, found by name: checkpoint, revision, prompt, pixels
    checkpoint.py     finds, pins and loads weights; refuses what is not exactly there
    families.py       what architectures of transformers want besides pixels and ids
    target.py         what a decoder is expected to write for a page
    fast/             DeepSeek-OCR's encoder, faster than in transformers and equal up to rounding
    adapter.py        `Codec`: images -> tokens -> features -> text
    token_storage.py  tokens <-> bytes: bf16, int8
    text_tokens.py    counting text tokens, the other side of the compression ratio
    full_size.py      a codec of full DeepSeek-OCR size with random weights, to measure with
    embedded/         the codec that ships inside the package

`modes`, `presets`, `target`, `token_storage` and `text_tokens` import neither torch nor transformers.
"""
