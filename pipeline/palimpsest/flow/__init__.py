"""Stages, plan, ledger, and the executors that run them. Only this room imports Ray.

    recipe.py          what makes a job's pages, as one value, and its fingerprint
    plan.py            the units of a run, and which of them are new
    stages/            the work on a unit, stage by stage
    ledger.py          which units are complete; nothing may be lost
    executor.py        the protocol of executors
    local_executor.py  the stages in this process
    ray_executor.py    the stages on Ray Data
    ray_workers.py     the stages as Ray's workers run them
    ray_output.py      Ray's own lines, kept away from ours
    ray_jobs.py        Ray's job submission
    ray_internals.py   all uses of Ray's private API
    isolation.py       records that killed a worker, tried one by one
    batching.py        the batch size of a model
    allocator.py       glibc keeps freed memory
    clock.py           the time of each stage
    supply.py          CPU supply versus model demand, from the times

A worker that dies is restarted by Ray; what it worked on is tried again by ray_workers.py, and isolated in the end.
"""
