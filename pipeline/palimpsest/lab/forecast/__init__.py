"""The time, bytes and cost of a corpus before a machine is rented, and the limits of many machines.

    rates.py       what was measured (docs/results); what was not is refused
    workload.py    counts pages, or samples a real corpus
    estimate.py    hours, machines, bytes and cost of both
    forecast.py    the answer of `palimpsest plan`
    scaling.py     where the store, the manifest or the driver becomes the limit
    simulation.py  the same job played through, event by event

Nothing here loads a model or starts Ray.
"""
