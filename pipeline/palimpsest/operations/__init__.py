"""What the commands do: run, ingest, retier, verify, status, submit, conversations."""
