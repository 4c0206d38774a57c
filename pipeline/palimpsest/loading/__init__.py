"""From a corpus to training batches."""
