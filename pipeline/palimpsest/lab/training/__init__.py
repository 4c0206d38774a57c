"""Training of the embedded codec.

codec_pages.py     the pages it is trained on: licensed text, numbers, random strings, rendered by our own code
painting.py        drawn on the device that learns
batches.py         made ahead, in processes of their own
writing.py         kinds of writing for the reader: chats, logs, names, markup
mark_places.py     tokens that say where on the page they are
guidance.py        where the decoder should look, while it learns
ideal_reading.py   what it would write if it looked there
lessons.py         what of it learns to read, and what to write
trainee.py         the model with its heads, and their losses
train_codec.py     the training loop: resumable, bf16, compiled
evaluation.py      how far it is
curves.py          its curves
frozen_pages.py    tokens of a frozen encoder, made once
train_reader.py    the cell reader alone, on such tokens
reader_prior.py    how often each character is read, put right after training
reader_errors.py   errors by character and word, and the gate for new weights
export_codec.py    a training state -> the checkpoint that ships
packed.py          its weights, smaller
compress.py        how the compressor and the cell reader begin
"""
