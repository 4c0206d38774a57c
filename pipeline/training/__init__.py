"""From corpora to models.

codec_pages.py   the pages that the embedded codec is trained on: licensed text, numbers, random strings, rendered by our own code
guidance.py      where the decoder should look, while it learns
train_codec.py   the training loop: resumable, bf16, compiled
export_codec.py  a training state -> the checkpoint that ships
curves.py        its curves
"""
