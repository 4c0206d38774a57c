"""Entry point of `palimpsest run` as a Ray job or in a container: `python -m jobs.run job.toml [options]`."""

import sys

from palimpsest.cli.app import app

if __name__ == "__main__":
    app(["run", *sys.argv[1:]])
