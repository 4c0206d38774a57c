"""The commands' work: run, ingest, retier, verify, status, submit, conversations."""
