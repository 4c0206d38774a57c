"""Entry point of `palimpsest ingest` as a Ray job or in a container: `python -m jobs.ingest job.toml [options]`."""

import sys

from palimpsest.cli.app import app

if __name__ == "__main__":
    app(["ingest", *sys.argv[1:]])
