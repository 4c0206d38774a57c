"""Memory that fades: which tier a page gets, and how many visual tokens it may cost.

ladder.py          the tiers of a codec, from plain text down to its blurriest mode
clock.py           durations, dates and ages: what time it is is a setting, never the machine's clock
policies/          the policies, one file each, and their protocol
predictor.py       predicts the precision of a page in each mode, from cheap features of its text
operating_points/  where a codec reads how much, measured or published, and the modes worth using
"""
