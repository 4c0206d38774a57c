"""From corpora to models.

    codec_pages.py   the pages that the embedded codec is trained on: licensed text, numbers, random strings, rendered by our own code
    reading_heads.py the dense heads that teach an encoder to read, cell by cell
    train_codec.py   the training loop: resumable, bf16, compiled
"""
