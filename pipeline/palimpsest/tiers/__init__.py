"""Memory that fades: which tier a page gets, and how many visual tokens it may cost.

    ladder.py     the tiers of a codec, from plain text down to its blurriest mode
    clock.py      durations, dates and ages: what time it is is a setting, never the machine's clock
    policies/     the policies, one file each, and their protocol
    predictor.py  predicts the precision of a page in each mode, from cheap features of its text
    measured.py   rungs files: the modes of a codec that are worth using, and the predictor
    published.py  operating points of codecs whose weights are not here, as others published them

The files that come with Palimpsest are in operating_points/: measured ones, named after the codec's revision, and published ones.
"""
