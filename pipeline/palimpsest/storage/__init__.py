"""Bytes by URI: local files and S3, with conditional writes."""
