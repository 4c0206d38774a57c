"""Operating points: where a codec reads how much, at which compression. A point is a layout and a mode.

    point.py      `OperatingPoint`, measured here or published by others
    measured.py   files of measured points, one entry a layout; `palimpsest fit` writes them
    rungs.py      of the measured modes those worth using: policies climb and fade on them
    published.py  points of codecs whose weights are not here, as others published them

The JSON files beside these come with Palimpsest: measured ones are named after the codec's revision.
"""
