"""Wiring: what Dagster runs, when, and with what."""
