"""Stages, plan, ledger, and the executors that run them. Only this room imports Ray."""
