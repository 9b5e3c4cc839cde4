"""Samples: ingest, latest values, history."""
