"""Arrays in, arrays out: reading, morphometry, relaxometry, surfaces and spherical maps.

Knows nothing of Dagster, DuckDB, torch or the file layout of the lake.
"""
