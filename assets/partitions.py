"""What a partition is.

Here: the partitions definitions every asset shares. Not here: which partitions are due (the
sensor), or what is pending inside one (the lake's ledger).

A partition is a visit of the study. Inside it every knee-visit is a unit of its own, done or
pending in the ledger: one Dagster partition per knee-visit would cost hours of bookkeeping.
"""

import dagster as dg

from lake.tables import TIMEPOINTS

TIMEPOINT_PARTITIONS = dg.StaticPartitionsDefinition(list(TIMEPOINTS))
