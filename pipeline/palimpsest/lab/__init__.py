"""Measuring and making: benchmarks, training of the embedded codec, forecasts. An extra: `pip install palimpsest[lab]`."""
