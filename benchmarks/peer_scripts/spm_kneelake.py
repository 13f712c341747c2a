"""kneelake's SPM on the maps of a Parquet file, in a process of its own; run by benchmarks.spm."""

import duckdb
import numpy as np
import polars as pl
from spm_measure import FOLDER, measure

import sql
from stats.spm import spm
from stats.spm_design import SpmDesign

design = np.load(FOLDER / "design.npy")
path = str(np.load(FOLDER / "maps_file.npy"))
threads = int(np.load(FOLDER / "threads.npy"))
engine = str(np.load(FOLDER / "engine.npy"))
frame = pl.DataFrame(design[:, 1:], schema=["age", "sex", "bmi", "pain"]).with_columns(
    case=pl.int_range(pl.len()), position=pl.int_range(1, pl.len() + 1)
)
connection = duckdb.connect()
connection.execute(f"SET threads = {threads}")
for file in sql.macros():
    connection.execute(file.text)
connection.register("cases", frame.to_arrow())
connection.execute(f"CREATE VIEW maps AS FROM '{path}'")
points = measure(
    lambda: spm(connection, "maps", "cases", SpmDesign("pain"), engine=engine).points, 5
)
np.save(FOLDER / "t.npy", points["t"].to_numpy())
np.save(FOLDER / "p.npy", points["p"].to_numpy())
