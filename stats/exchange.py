"""Rearrangements of the cases that leave the data as likely as before if the group does not matter.

Cases of one patient are not exchangeable with those of another one by one: their errors go
together. `whole` moves a patient's cases together to the place of another patient with as many
(PALM's whole-block exchangeability); `within` rearranges the cases of each patient among
themselves. Source: Winkler et al. 2015, doi:10.1016/j.neuroimage.2015.05.092.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stats.errors import StatisticsError

Exchange = Literal["whole", "within"]

FEWEST = 20
"""Rearrangements below which no p-value can reach 5 %."""


@dataclass(frozen=True, eq=False)
class ExchangePlan:
    """How cases may be rearranged.

    Attributes:
        n: number of cases.
        sets: arrays of case numbers, shape (n_unit, size): the rows of each may be interchanged.
        ln_possible: natural logarithm of the number of rearrangements.
        n_fixed: cases that no rearrangement moves.
    """

    n: int
    sets: tuple[NDArray[np.int64], ...]
    ln_possible: float
    n_fixed: int

    def draw(self, seed: int, n_permutations: int) -> Iterator[NDArray[np.int64]]:
        """Random rearrangements: case i takes the data of case `order[i]`; the same for a seed."""
        rng = np.random.default_rng(seed)
        for _ in range(n_permutations):
            order = np.arange(self.n)
            for units in self.sets:
                order[units] = units[rng.permutation(len(units))]
            yield order


def plan_exchange(
    group: NDArray[np.bool_], block: NDArray[np.int64] | None, exchange: Exchange
) -> ExchangePlan:
    """The rearrangements of a design.

    Blocks of different size cannot stand for each other; `whole` interchanges those of equal size
    among themselves, which is exact, and leaves a block of a size of its own where it is.

    Args:
        group: of each case.
        block: number of each case's block; None where each case is its own.
        exchange: what is rearranged where there are blocks; `whole` keeps the order of the cases
            within a block.

    Raises:
        StatisticsError: no rearrangement changes the group, or fewer than 20 exist.
    """
    n = len(group)
    if block is None:
        sets = [np.arange(n)[:, None]]
    else:
        order = np.argsort(block, kind="stable")
        members = np.split(order, np.flatnonzero(np.diff(block[order])) + 1)
        if exchange == "within":
            sets = [units[:, None] for units in members]
        else:
            sizes = sorted({len(units) for units in members})
            sets = [np.array([m for m in members if len(m) == size]) for size in sizes]
    moved = [units for units in sets if len(units) > 1]
    if not any((group[units] != group[units[0]]).any() for units in moved):
        raise StatisticsError(
            "no rearrangement of the cases changes which group they are in: "
            + (
                "the group is the same for all cases of each block; use exchange='whole'"
                if exchange == "within"
                else "no two blocks of equal size differ in group; use exchange='within', or other "
                "blocks"
            )
        )
    ln_possible = sum(math.lgamma(len(units) + 1) for units in moved)
    if ln_possible < math.log(FEWEST) - 1e-9:
        raise StatisticsError(
            f"only {round(math.exp(ln_possible))} rearrangements of the cases are possible, so no "
            "permutation p-value could reach 0.05; use the uncorrected or FDR-corrected p"
        )
    n_fixed = n - sum(units.size for units in moved)
    return ExchangePlan(n, tuple(moved), ln_possible, n_fixed)
