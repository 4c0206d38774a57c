"""The policies that choose a page's tier, and their protocol.

    protocol.py    what a policy knows of a page, the protocol, and policies found by name and chained
    fixed.py       every page in the same mode
    age.py         the older, the blurrier: DeepSeek-OCR's figure
    importance.py  keeps a document sharper for longer, or pins it as text
    forget.py      drops the text of very old pages; only if the setting names it
    fidelity.py    rate control: the cheapest mode whose verdict meets the target

A policy is a pure function of the known facts of a page: its age and importance, its size, and the verdicts on the modes tried.
`[tiers] policy` names one policy, or several joined by "+": each gets the proposal of the one before. A new policy is one file
with a `build` function, and its name in `protocol.RANKS`.
"""
