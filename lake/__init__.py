"""Storage: where things lie, atomic writes, the ledger of what is done, DuckDB as the lens.

Knows nothing of Dagster, of images or of networks.
"""
