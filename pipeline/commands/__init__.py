"""The commands that stand in files of their own; `cli.py` registers them."""
