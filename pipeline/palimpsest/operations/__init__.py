"""The commands' work: one file per command, and what they share.

run.py               sources in, a published snapshot out
dry_run.py           what a run would do, and what it would refuse
resolving.py         the settings of a job -> its recipe, resolved and checked
codebooks.py         the codebook of a corpus whose tokens are stored as pq: found or fitted
progress.py          a subscriber of the ledger: pages, rate, estimate
findings.py          findings about sources
quarantine.py        the first quarantined records, for the message of a failed run
ingest.py            one incremental pass over a prefix
changes.py           the differences between an inventory and a snapshot
ingest_batch.py      one batch of a pass: plan, process, publish
ingest_cache.py      the cache of a pass for the next one
retier.py            the tier policy, applied to a published corpus
retier_plan.py       the pages that are due another tier
conversations/       chats in, memory samples out
verify.py            stored tokens decoded again
status.py            the published versions, and whether a corpus is up to date
erase.py             documents removed from every snapshot
submit.py            a job for a running Ray cluster
doctor.py            checks of this machine
"""
