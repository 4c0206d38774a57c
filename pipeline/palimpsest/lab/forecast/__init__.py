"""The time, bytes and cost of a corpus before a machine is rented, and the limits of many machines.

rates.py reads what was measured (docs/results) and refuses what was not; workload.py counts pages, or samples a real corpus;
estimate.py makes hours, machines, bytes and cost of both; forecast.py puts them together for `palimpsest plan`. scaling.py says
where the store, the manifest or the driver becomes the limit, simulation.py plays the same job through, event by event. Nothing
here loads a model or starts Ray.
"""
