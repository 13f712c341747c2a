"""Where imaging meets the lake: ingest of deliveries and the work of one knee-visit.

Called by the Dagster assets and by the command line alike; knows nothing of Dagster.
"""
