"""The verification room: what can really be read back out of a page's visual tokens.

Read in this order:

    reading      the words: DraftedPage in, Decoded out, and Watch, the seam that may end a page early
    drafting     guesses of what comes next (the reference, corrected and re-aligned after an error, or the page's own repetition)
    slots        a key-value cache in which every page writes at places of its own
    packing      later passes without padding: tokens behind each other, unpacked for attention alone
    masks        attention masks from places
    greedy       batched, drafted, exact greedy decoding; it, slots, packing and masks are the only files here that import torch
    loops        a Watch that cuts and names a repetition that the reference does not have
    early_stop   a Watch that ends a page once its target precision is provably out of reach
    fidelity     the metrics and their formulas
    control      which pages are also decoded from a blank page's tokens
    verdict      metrics and outcome of a page as columns of the row contract

Drafts only decide how *fast* a page is decoded. What is decoded is the model's own greedy output, whatever the draft.
"""
