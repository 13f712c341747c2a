"""The sweep over a lake: resumed, listed, chosen by validation, beside the published one."""

from pathlib import Path

import polars as pl
import pytest

from imaging.errors import BadInputError
from lake.store import Lake
from models.classifier import NetworkConfig
from models.errors import ModelError
from models.sweep import SweepGrid
from models.training_config import preset
from pipeline.classifiers import train_classifiers
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.sweep import SweepReport, grid_of, read_published_sweep, sweep_classifiers

NETWORK = NetworkConfig("resnet18", 0.125)
BASE = preset("demo", "chronic_pain").changed(network=NETWORK, max_epochs=2, precision="float32")
GRID = SweepGrid(
    learning_rates=(3e-3, 1e-3),
    architectures=("resnet18",),
    initializations=("random", "oa"),
    trained=("all", "head"),
    oa_architectures=("resnet18",),
)
MODEL = ("femur", "bone_shape")


@pytest.fixture(scope="module")
def lake(pictured: Lake) -> Lake:
    return pictured


def swept(lake: Lake, grid: SweepGrid) -> SweepReport:
    settings = Settings(lake_root=lake.root)
    return sweep_classifiers(lake, settings, grid, BASE, models=[MODEL], cluster=Cluster())


def test_a_sweep_goes_on_where_it_was(lake: Lake) -> None:
    first = swept(lake, GRID)
    assert (first.n_full, first.n_legal, first.n_run, first.n_skipped) == (8, 6, 6, 4)
    runs = lake.sql("FROM sweep_runs ORDER BY trial_id")
    skipped = runs.filter(pl.col("status") == "skipped")
    assert set(skipped["reason"]) == {"there are no oa weights of resnet18"}
    assert skipped["val_auc"].null_count() == 4
    again = swept(lake, GRID)
    assert (again.n_run, again.n_unchanged) == (0, 6)
    # Once the weights are there, what was skipped runs, and nothing else.
    train_classifiers(
        lake,
        Settings(lake_root=lake.root),
        "oa",
        BASE.changed(initialization="random", max_epochs=1),
        models=[MODEL],
        cluster=Cluster(),
    )
    third = swept(lake, GRID)
    assert (third.n_run, third.n_unchanged, third.n_skipped) == (4, 2, 0)
    runs = lake.sql("FROM sweep_runs ORDER BY trial_id")
    assert len(runs) == 6
    assert set(runs["status"]) == {"done"}
    assert set(runs["n_epochs"]) == {2}


def test_the_best_are_chosen_by_validation(lake: Lake) -> None:
    # Of the sweep above.
    runs = lake.sql("FROM sweep_runs WHERE status = 'done'")
    best = lake.sql("FROM sweep_best")
    for rule, column, descending in (("val_loss", "val_loss", False), ("val_auc", "val_auc", True)):
        for initialization in runs["initialization"].unique():
            own = runs.filter(pl.col("initialization") == initialization)
            expected = own.sort([column, "trial_id"], descending=[descending, False])[0]
            found = best.filter(pl.col("rule") == rule, pl.col("initialization") == initialization)
            assert found["trial_id"].to_list() == expected["trial_id"].to_list()
        assert best.filter(pl.col("rule") == rule)["is_best"].sum() == 1
    tpn = best.filter(pl.col("rule") == "tpn")
    assert (
        (tpn.select(pl.min_horizontal("val_sensitivity", "val_specificity")) >= 0.5)
        .to_series(0)
        .all()
    )


def test_trials_of_other_data_are_not_compared(lake: Lake) -> None:
    # As after an interrupted sweep on new images: one trial of the new data, the rest of the old.
    run = lake.sql("FROM sweep_runs WHERE status = 'done' ORDER BY val_loss DESC LIMIT 1")
    worst = run.drop("batch_id").to_dicts()[0]
    with lake.batch("sweep", "all", "1", "c") as batch:
        batch.add("sweep_runs", [{**worst, "data_hash": "of new images"}])
    best = lake.sql("FROM sweep_best WHERE rule = 'val_loss'")
    assert best["trial_id"].to_list() == [worst["trial_id"]]
    assert len(lake.sql("FROM sweep_runs WHERE status = 'done'")) > 1


def test_presets_of_the_sweep() -> None:
    grid, base = grid_of("paper")
    assert len(grid.trials()) == 38
    assert (base.batch_size, base.max_epochs, base.patience) == (300, 100, 15)
    with pytest.raises(ModelError, match="'large' is no preset of the sweep; use paper, demo"):
        grid_of("large")


def test_the_published_sweep_is_read(shared_data: Path) -> None:
    published = read_published_sweep(shared_data / "published" / "painoptimization.csv")
    # 18 models x 3 initialisations.
    assert len(published) == 54
    assert len(published.unique(["bone", "strategy", "initialization"])) == 54
    means = dict(published.group_by("initialization").agg(pl.col("val_auc").mean()).rows())
    assert means == {
        "random": pytest.approx(0.717, abs=6e-4),
        "oa": pytest.approx(0.721, abs=6e-4),
        "imagenet": pytest.approx(0.729, abs=6e-4),
    }
    # As the authors' code allows: these weights exist for one network.
    oa = published.filter(pl.col("initialization") == "oa")
    assert set(oa["architecture"]) == {"resnet50"}
    random = published.filter(pl.col("initialization") == "random")
    assert set(random["trained"]) == {"all"}
    sums = published["val_sensitivity"] + published["val_specificity"] + published["val_auc"]
    assert (sums - published["tpn"]).abs().max() < 5e-3


def test_another_file_is_not_taken_for_it(tmp_path: Path) -> None:
    path = tmp_path / "painoptimization.csv"
    path.write_text("Bone,AUC\nFemur,0.7\n")
    with pytest.raises(BadInputError, match="column Fusion, TPR, TNR, MCC, TPN, CV, Model is mis"):
        read_published_sweep(path)
    path.write_text(
        "Bone,Fusion,TPR,TNR,AUC,MCC,TPN,CV,Model\n"
        "Femur,Bone,.5,.8,.7,.3,2.0,1.0,DiagnosisResnet101Finetuned1e4\n"
    )
    with pytest.raises(BadInputError, match="line 2: Model is 'DiagnosisResnet101Finetuned1e4'"):
        read_published_sweep(path)
    with pytest.raises(BadInputError, match="cannot be read as a table"):
        read_published_sweep(tmp_path / "absent.csv")
