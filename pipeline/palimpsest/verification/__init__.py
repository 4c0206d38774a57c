"""Verification: measures how much of a page can be read back from its visual tokens.

Read in this order:

    reading      the types: DraftedPage in, Decoded out, and Watch, the seam that may end a page early
    drafting     drafts of the next tokens (the reference, corrected and re-aligned after an error, or the page's own repetition)
    slots        a key-value cache in which every page writes at its own positions
    packing      later passes without padding: the tokens of all pages in one row, unpacked for attention alone
    masks        attention masks from positions
    greedy       batched, drafted, exact greedy decoding; it, slots, packing and masks are the only files here that import torch
    loops        a Watch that cuts and names a repetition that the reference does not have
    early_stop   a Watch that ends a page once its target precision is provably out of reach
    fidelity     the metrics and their formulas
    control      which pages are also decoded from a blank page's tokens
    verdict      metrics and outcome of a page as columns of the row contract

Drafts only decide how *fast* a page is decoded. The result is the model's own greedy output, whatever the draft.
"""
