"""`python -m palimpsest.cli`."""

from palimpsest.cli.app import main

main()
