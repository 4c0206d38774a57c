"""From corpora to models.

codec_pages.py   the pages that the embedded codec is trained on: licensed text, numbers, random strings, rendered by our own code
painting.py      drawn on the device that learns; batches.py makes them ahead, in processes of their own
mark_places.py   tokens that say where on the page they are
guidance.py      where the decoder should look, while it learns
ideal_reading.py what it would write if it looked there
lessons.py       what of it learns to read, and what to write
trainee.py       the model with its heads, and their losses
train_codec.py   the training loop: resumable, bf16, compiled; evaluation.py how far it is
export_codec.py  a training state -> the checkpoint that ships; packed.py makes its weights smaller
curves.py        its curves
"""
