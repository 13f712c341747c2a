"""kneelake's Freedman-Lane max-T on an array, in a process of its own; run by benchmarks.spm."""

import numpy as np
from spm_measure import FOLDER, measure

from stats.exchange import plan_exchange
from stats.permutation import PermutationOptions, PermutedMap, null_maxima

design, values = np.load(FOLDER / "design.npy"), np.load(FOLDER / "values.npy")
count = int(np.load(FOLDER / "n_permutations.npy"))
n_vertices = values.shape[1]
everyone = np.ones(n_vertices, dtype=bool)
given = PermutedMap(values, everyone, np.zeros(n_vertices), None)
plan = plan_exchange(design[:, -1] == 1, None, "whole")
# Compiled once per installation, which is not what is measured.
null_maxima([given], design, plan, PermutationOptions(19))
found = measure(lambda: null_maxima([given], design, plan, PermutationOptions(count)), 1)
np.save(FOLDER / "maxima.npy", found.abs_t[0])
