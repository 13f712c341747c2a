"""Regressions, ROC and statistical parametric mapping: SQL over any DuckDB connection.

Here: generators of SQL text, the runs of it, and the permutations that are linear algebra rather
than SQL. Not here: the lake, Dagster, or how a table of a manuscript looks.
"""
