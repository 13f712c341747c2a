"""What a partition is.

Here: the partitions definitions every asset shares. Not here: which partitions are due (the
sensor), or what is pending inside one (the lake's ledger).

A partition is a visit of the study, or one of the classifiers. Inside a visit every knee-visit is
a unit of its own, done or pending in the ledger: one Dagster partition per knee-visit would cost
hours of bookkeeping.
"""

import dagster as dg

from imaging.labels import BONES
from lake.keys import STRATEGIES, TIMEPOINTS

TIMEPOINT_PARTITIONS = dg.StaticPartitionsDefinition(list(TIMEPOINTS))

MODEL_PARTITIONS = dg.MultiPartitionsDefinition(
    {
        "bone": dg.StaticPartitionsDefinition(list(BONES)),
        "strategy": dg.StaticPartitionsDefinition(list(STRATEGIES)),
    }
)
"""The paper's 18 classifiers: a partition is one of them, such as `femur|thickness`. One run may
take any of them, so that they share processes and images."""
