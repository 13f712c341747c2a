"""In which order a selection runs, visit by visit, model by model, or once.

Here: cutting the selected assets into runs. Not here: running them (`launch`).

A run takes partitions of one kind only, and the graph goes back and forth between kinds: maps of
a visit, the cohort over all, images of a visit, a network per model, tables over all.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import dagster as dg
from dagster import AssetKey

from assets.partitions import MODEL_PARTITIONS, TIMEPOINT_PARTITIONS

Kind = Literal["visits", "once", "models"]
KINDS: tuple[Kind, ...] = ("visits", "once", "models")
"""In order of preference: as much as possible of a kind runs before the next one's turn."""


@dataclass(frozen=True)
class Stage:
    """Assets that run together.

    Attributes:
        kind: what a run of it is for: a visit, all models at once, or everything.
        keys: in the order of the graph.
    """

    kind: Kind
    keys: tuple[AssetKey, ...]


def kind_of(partitions: dg.PartitionsDefinition | None) -> Kind:
    """The kind of an asset.

    Raises:
        ValueError: partitions that are neither visits nor models.
    """
    if partitions is None:
        return "once"
    if partitions == TIMEPOINT_PARTITIONS:
        return "visits"
    if partitions == MODEL_PARTITIONS:
        return "models"
    raise ValueError(f"{partitions} are neither visits nor models; add them to `stages`")


def stages(defs: dg.Definitions, selected: Iterable[AssetKey]) -> Iterator[Stage]:
    """The selected assets as stages, each after those it reads."""
    graph = defs.resolve_asset_graph()
    wanted = set(selected)
    waiting = [key for key in graph.toposorted_asset_keys if key in wanted]
    while waiting:
        for kind in KINDS:
            ready: list[AssetKey] = []
            for key in waiting:
                node = graph.get(key)
                unmet = (node.parent_keys & set(waiting)) - set(ready)
                if kind_of(node.partitions_def) == kind and not unmet:
                    ready.append(key)
            # Steps that compute several assets at once run whole.
            whole = tuple(
                key for key in ready if graph.get(key).execution_set_asset_keys <= set(ready)
            )
            if whole:
                yield Stage(kind, whole)
                waiting = [key for key in waiting if key not in whole]
                break
        else:
            raise ValueError(f"{waiting} wait for each other")
