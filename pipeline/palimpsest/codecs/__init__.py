"""Image ↔ visual tokens ↔ text: one adapter over many vision-language models, and how their tokens are kept.

    modes.py          the resolutions at which a page is seen
    presets.py        the codecs, found by name: checkpoint, revision, prompt, pixels
    checkpoint.py     finds, pins and loads weights; refuses a checkpoint that is not complete
    families.py       the arguments that architectures of transformers take besides pixels and ids
    prompting.py      prompt, chat template, system text, BOS: the ids around an image
    target.py         what a decoder is expected to write for a page
    dialects.py       what a decoder writes around the text, undone before scoring
    image_encoder.py  images -> tokens
    fast/             DeepSeek-OCR's encoder, faster than in transformers and equal up to rounding
    adapter.py        `Codec`: images -> tokens -> features -> text
    token_storage/    tokens <-> bytes, one file per storage: bf16, int8, int4, pq, none
    text_tokens.py    counting text tokens, the other side of the compression ratio
    embedded/         the codec that ships inside the package

`modes`, `presets`, `target`, `dialects`, `token_storage` and `text_tokens` import neither torch nor transformers.
"""
