"""Memory that fades: which tier a page gets, and how many visual tokens it may cost.

    ladder.py        the tiers of a codec, from plain text down to its blurriest mode
    clock.py         durations, dates and ages: what time it is is a setting, never the machine's clock
    policy.py        the seam: what a policy knows of a page, the protocol, and policies found by name and chained
    fixed.py         every page in the same mode
    age.py           the older, the blurrier: DeepSeek-OCR's figure
    importance.py    keeps a document sharper for longer, or pins it as text
    forget.py        drops the text of very old pages; only if the policy names it
    fidelity.py      rate control: the cheapest mode whose verdict meets the target
    predictor.py     predicts the precision of a page in each mode, from cheap features of its text
    measured.py      rungs files: the modes of a codec that are worth using, and the predictor
    published.py     operating points of codecs whose weights are not here, as others published them
    operating_points/  the files that come with Palimpsest: measured ones, named after the codec's revision, and published ones

A policy is a pure function of the known facts of a page: its age and importance, its size, and the verdicts on the modes tried.
`[tiers] policy` names one policy, or several joined by "+": each gets the proposal of the one before. A new policy is one file
with a `build` function, and its name in `policy.RANKS`.
"""
