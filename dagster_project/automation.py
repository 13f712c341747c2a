"""What runs because something upstream changed.

Here: the sensor that evaluates automation conditions. Not here: the conditions (with their
assets) or the inbox (`sensors`).
"""

import dagster as dg

# Dagster's own automation sensor is created stopped; a lake should keep itself up to date.
automation = dg.AutomationConditionSensorDefinition(
    name="automation",
    target=dg.AssetSelection.all(),
    default_status=dg.DefaultSensorStatus.RUNNING,
    minimum_interval_seconds=30,
    description="Evaluates SQL assets again when something they read has changed.",
)
