"""Verification: measures how much of a page can be read back from its visual tokens.

Read in this order:

    reading.py      the types: DraftedPage in, Decoded out, and Watch, the protocol that may end a page early
    drafting.py     drafts of the next tokens: the reference, re-aligned after an error, or the page's own repetition
    conventions.py  whether a decoder keeps the lines of a page or joins them, learned while it writes
    slots.py        a key-value cache in which every page writes at its own positions
    packing.py      later passes without padding: the tokens of all pages in one row, unpacked for attention alone
    masks.py        attention masks from positions
    greedy.py       batched, drafted, exact greedy decoding
    loops.py        a Watch that cuts and names a repetition that the reference does not have
    early_stop.py   a Watch that ends a page once its target precision is provably out of reach
    fidelity.py     the metrics and their formulas
    errata.py       the misread words of a page, and those worth keeping
    control.py      which pages are also decoded from a blank page's tokens
    verdict.py      metrics and outcome of a page as columns of the row contract

Drafts only decide how *fast* a page is decoded. The result is the model's own greedy output, whatever the draft.
Of these files only greedy, slots, packing and masks import torch.
"""
