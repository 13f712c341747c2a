"""kneelake's logistic regression on a Parquet file, by SQL or polars; run by benchmarks.logit."""

from pathlib import Path

import numpy as np
from logit_measure import FOLDER, ROWS, TERMS, measure

from stats.logit import bootstrap_logit, fit_logit
from stats.source import open_source

method = str(np.load(FOLDER / "method.npy"))
repeats = int(np.load(FOLDER / "repeats.npy"))


with open_source(Path(ROWS)) as source:
    if method.startswith("bootstrap"):
        engine = method.removeprefix("bootstrap by ")

        def job() -> np.ndarray:
            found = bootstrap_logit(source.connection, source.relation, "y", TERMS, engine=engine)
            return found.select("Intercept", *TERMS).to_numpy()
    else:

        def job() -> np.ndarray:
            file = Path(ROWS) if method == "polars" else None
            fit = fit_logit(
                source.connection, source.relation, "y", TERMS, engine=method, file=file
            )
            return np.array([[term.estimate, term.se] for term in fit.terms])

    measure(job, repeats)
