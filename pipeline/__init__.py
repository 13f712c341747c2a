"""From a delivery to maps and biomarkers: what the assets and the command line both call.

Knows imaging and the lake; knows nothing of Dagster.
"""
