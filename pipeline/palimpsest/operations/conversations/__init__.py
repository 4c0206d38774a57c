"""Conversations as memory samples: old turns as visual tokens, the last turns as text, the next reply as the target.

    settings.py      the budget, and the age of a turn without a timestamp
    turns.py         a record of a chat -> a conversation, or the reason why it is none
    refusals.py      those reasons
    formats.py       where each form of chat keeps its messages: lists, trees, sessions, traces
    speakers.py      the speaker of a message: its role, and the name that is shown
    contents.py      what it says: parts, tool calls, and gaps for images and sound
    transcript.py    a conversation -> one text and its pages, each drawn alike in every sample that shows it
    compose.py       pages, ages, a tier policy and a budget -> the tier of each page in the context: pure functions
    bank.py          pages of a conversation, drawn, encoded and read back at most once in each mode
    writer.py        rows to Parquet, in bounded memory
    samples.py       the rows of one conversation, a reply at a time
    build.py         `palimpsest conversations`: sources in, a published set of samples out

The rows contain references; the tokens are stored once per page and mode, in shards with the row contract of every corpus.
"""
