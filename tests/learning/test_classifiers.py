"""Models trained from a lake, committed, and trained again only where something is new."""

import dataclasses
import json
from pathlib import Path

import duckdb
import polars as pl
import pytest
import torch
from pictured_lake import RANGES_ID, add_images

from lake.store import Lake
from models.checkpoint import load_checkpoint
from models.classifier import NetworkConfig, build_network, seeded
from models.errors import ModelError
from models.gradcam import Explanation
from models.initialization import Initialization
from models.training_config import TrainingConfig, preset
from pipeline.classifiers import train_classifiers
from pipeline.cluster import Cluster
from pipeline.config import Settings
from pipeline.learning_figures import sweep_figure, training_curves
from pipeline.model_data import (
    Model,
    initial_weights,
    labelled_images,
    model_rows,
    require_no_leak,
)

CHANGES = {"network": NetworkConfig("resnet18", 0.125), "max_epochs": 1, "precision": "float32"}
OA = preset("demo", "oa").changed(**CHANGES)
PAIN = preset("demo", "chronic_pain").changed(**CHANGES)
FEMUR, TIBIA = ("femur", "thickness"), ("tibia", "t2")


@pytest.fixture(scope="module")
def lake(pictured: Lake) -> Lake:
    return pictured


def trained(lake: Lake, task: str, config: TrainingConfig, *models: tuple[str, str]):
    return train_classifiers(
        lake, Settings(lake_root=lake.root), task, config, models=models, cluster=Cluster()
    )


def test_models_are_trained_once_and_pain_begins_with_osteoarthritis(lake: Lake) -> None:
    # Without the network it begins with, a model is refused, not begun at random.
    early = trained(lake, "chronic_pain", PAIN, FEMUR)
    assert early.trained == ()
    assert early.failed[0][1].startswith("there is no network trained on osteoarthritis")

    first = trained(lake, "oa", OA, FEMUR, TIBIA)
    assert [model.name for model in first.trained] == ["oa femur thickness", "oa tibia t2"]
    assert first.failed == ()
    again = trained(lake, "oa", OA, FEMUR, TIBIA)
    assert again.trained == ()
    assert len(again.unchanged) == 2
    # Other choices are another model.
    assert len(trained(lake, "oa", OA.changed(seed=1), FEMUR).trained) == 1

    assert len(trained(lake, "chronic_pain", PAIN, FEMUR, TIBIA).trained) == 2
    # The lake is also that of other files' tests, which train by other strategies.
    rows = lake.sql(
        "FROM classifiers WHERE strategy IN ('thickness', 't2') ORDER BY task, bone"
    ).to_dicts()
    assert [(row["task"], row["bone"]) for row in rows] == [
        ("chronic_pain", "femur"),
        ("chronic_pain", "tibia"),
        ("oa", "femur"),
        ("oa", "tibia"),
    ]
    pain, oa = rows[0], rows[2]
    assert pain["initialized_from"].startswith(Path(oa["path"]).name)
    assert oa["initialized_from"] == ""
    assert oa["seed"] == 1
    assert pain["ranges_id"] == RANGES_ID
    counted = lake.sql(
        "SELECT split, count(*) AS n FROM model_cases WHERE model = 'chronic_pain' GROUP BY split"
    )
    expected = dict(counted.rows())
    assert pain["n_training"] == expected["training"]
    assert pain["n_validation"] == expected["validation"]
    network, metadata = load_checkpoint(
        lake.root / pain["path"], expected_hash=pain["checkpoint_hash"]
    )
    assert (metadata.task, metadata.bone, metadata.strategy) == ("chronic_pain", *FEMUR)
    assert metadata.data_hash == pain["data_hash"]
    assert metadata.config == json.loads(pain["config"])
    assert metadata.metrics["auc"] == pain["val_auc"]
    assert network.fc.weight.shape == (2, PAIN.network.n_features)
    epochs = lake.sql(
        "FROM training_epochs WHERE task = 'chronic_pain' AND bone = 'femur' "
        "AND strategy = 'thickness'"
    )
    assert epochs["val_auc"].to_list() == [pain["val_auc"]]
    assert epochs["checkpoint_hash"].to_list() == [pain["checkpoint_hash"]]
    # What a kill would have needed is gone.
    assert not list((lake.root / "training").glob("*"))


def test_processes_give_what_one_process_gives(lake: Lake) -> None:
    models = [FEMUR, ("tibia", "bone_thickness")]
    config = OA.changed(seed=5)
    settings = Settings(lake_root=lake.root)

    def made(cluster: Cluster) -> dict[str, str]:
        report = train_classifiers(lake, settings, "oa", config, models=models, cluster=cluster)
        assert len(report.trained) == 2
        rows = lake.sql("SELECT strategy, path FROM classifiers WHERE seed = 5")
        return dict(rows.rows())

    spread = made(Cluster("processes", 2))
    for path in spread.values():
        # A checkpoint that is lost is made again, the same to the byte: it is named for its hash.
        (lake.root / path).unlink()
    assert made(Cluster()) == spread


def test_a_lake_without_images_says_what_is_missing(tmp_path: Path) -> None:
    report = trained(Lake(tmp_path), "oa", OA, FEMUR)
    assert "there are no femur images of knee-visits with a label of oa" in report.failed[0][1]


def test_first_weights_are_named_by_the_settings(lake: Lake) -> None:
    settings = Settings(imagenet_weights={"resnet18": Path("x.pth")})
    model = Model("chronic_pain", *FEMUR)
    config = PAIN.changed(initialization="imagenet")
    known = lake.sql("FROM classifiers")
    rows = model_rows(labelled_images(lake, "chronic_pain"), model)
    found = initial_weights(lake, known, settings, model, config, rows)
    assert found == Initialization("imagenet", Path("x.pth"))
    other = config.changed(network=NetworkConfig("resnet50"))
    assert initial_weights(lake, known, settings, model, other, rows).file is None
    report = trained(lake, "chronic_pain", config, FEMUR)
    assert "no ImageNet weights of resnet18" in report.failed[0][1]


def test_other_first_weights_under_the_same_name_are_another_training(
    lake: Lake, tmp_path: Path
) -> None:
    path = tmp_path / "mine.pth"
    settings = Settings(lake_root=lake.root, imagenet_weights={"resnet18": path})
    config = OA.changed(initialization="imagenet")

    def n_trained(seed: int) -> int:
        with seeded(seed):
            torch.save(build_network(OA.network).state_dict(), path)
        report = train_classifiers(lake, settings, "oa", config, models=[TIBIA], cluster=Cluster())
        assert report.failed == ()
        return len(report.trained)

    assert [n_trained(seed) for seed in (1, 1, 2)] == [1, 0, 1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split_rule": "7|0.5|0.2"}, r"under another split.*7\|0.5\|0.2, not 42\|"),
        ({"ranges_id": "r0"}, "with other map_ranges.*r0, not r1.*materialize oa_classifiers"),
        ({"checkpoint_hash": "0123456789abcdef"}, "not 0123456789abcdef; the file is damaged"),
    ],
)
def test_pain_does_not_begin_with_a_network_of_another_study(
    lake: Lake, change: dict[str, str], message: str
) -> None:
    settings, model = Settings(lake_root=lake.root), Model("chronic_pain", *FEMUR)
    assert trained(lake, "oa", OA.changed(seed=2), FEMUR).failed == ()
    rows = model_rows(labelled_images(lake, "chronic_pain"), model)
    known = lake.sql("FROM classifiers")
    assert initial_weights(lake, known, settings, model, PAIN, rows).file is not None
    other = known.with_columns(**{name: pl.lit(value) for name, value in change.items()})
    with pytest.raises(ModelError, match=message):
        initial_weights(lake, other, settings, model, PAIN, rows)


class LeakyLake:
    """Splits that the lake's own views could not make."""

    def __init__(self, *cases: tuple[str, int, str]) -> None:
        self._cases = pl.DataFrame(
            cases, schema=["model", "subject_id", "split"], orient="row"
        ).to_arrow()

    def sql(self, query: str, params: dict[str, str]) -> pl.DataFrame:
        with duckdb.connect() as connection:
            connection.register("model_cases", self._cases)
            return pl.DataFrame(connection.sql(query, params=params).to_arrow_table())


def test_nobody_the_pain_models_are_tested_on_is_trained_on() -> None:
    clean = [("oa", 1, "training"), ("oa", 2, "test"), ("chronic_pain", 2, "test")]
    require_no_leak(LeakyLake(*clean), "oa")
    with pytest.raises(ModelError, match="1 participants of the training of oa, such as 1, are in"):
        require_no_leak(LeakyLake(*clean, ("chronic_pain", 1, "test")), "oa")
    with pytest.raises(ModelError, match="of the training of oa, such as 1"):
        require_no_leak(LeakyLake(*clean, ("oa", 1, "validation")), "oa")


def test_curves_and_figure_s4_are_drawn(lake: Lake, shared_data: Path) -> None:
    from pipeline.sweep import read_published_sweep

    epochs = lake.sql("FROM training_epochs WHERE task = 'oa'")
    picture = training_curves(epochs)
    assert picture.startswith(b"\x89PNG")
    assert picture == training_curves(epochs)
    with pytest.raises(ValueError, match="no epochs to draw"):
        training_curves(epochs.clear())
    nothing = lake.sql("FROM sweep_best")
    published = read_published_sweep(shared_data / "published" / "painoptimization.csv")
    assert sweep_figure(nothing, published).startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no runs to draw"):
        sweep_figure(nothing)


def test_settings_name_weights_and_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KNEELAKE_IMAGENET_WEIGHTS", "resnet18=a.pth,resnet50=b.pth")
    monkeypatch.setenv("KNEELAKE_CLASSIFIER_PRESET", "demo")
    settings = Settings.from_environment(workers=1)
    assert settings.imagenet_weights == {"resnet18": Path("a.pth"), "resnet50": Path("b.pth")}
    assert settings.classifier_preset == "demo"
    assert dataclasses.replace(settings, device="cpu").device == "cpu"
    monkeypatch.setenv("KNEELAKE_IMAGENET_WEIGHTS", "a.pth")
    with pytest.raises(ValueError, match="write resnet50=FILE"):
        Settings.from_environment(workers=1)
    monkeypatch.setenv("KNEELAKE_IMAGENET_WEIGHTS", "")
    monkeypatch.setenv("KNEELAKE_DEVICE", "gpu")
    with pytest.raises(ValueError, match="use auto, cpu or cuda"):
        Settings.from_environment(workers=1)
    monkeypatch.setenv("KNEELAKE_DEVICE", "cpu")
    monkeypatch.setenv("KNEELAKE_EXPLANATION", "hires_cam:layer2")
    assert Settings.from_environment().explanation == Explanation("hires_cam", "layer2")
    monkeypatch.setenv("KNEELAKE_EXPLANATION", "hires_cam:layer9")
    with pytest.raises(ValueError, match=r"KNEELAKE_EXPLANATION.*layer4, layer3, layer2"):
        Settings.from_environment()


def test_new_images_are_trained_on(lake: Lake) -> None:
    # The last test of this file: what it adds is new to the others as well.
    before = model_rows(labelled_images(lake, "oa"), Model("oa", *FEMUR)).data_hash
    assert len(trained(lake, "oa", OA.changed(seed=6), FEMUR).trained) == 1
    visit = lake.sql("SELECT min(timepoint) AS first FROM image_index")["first"][0]
    add_images(lake, visit, seed=9)
    assert model_rows(labelled_images(lake, "oa"), Model("oa", *FEMUR)).data_hash != before
    assert len(trained(lake, "oa", OA.changed(seed=6), FEMUR).trained) == 1
    # Scans without MSME: left out where T2 is needed, and said so.
    add_images(lake, visit, seed=9, t2=False)
    report = trained(lake, "oa", OA, TIBIA)
    left_out = lake.sql("SELECT n_left_out FROM classifiers WHERE task = 'oa' AND n_left_out > 0")
    left_out = int(left_out["n_left_out"][0])
    assert left_out > 0
    assert report.notes[0][1] == f"{left_out} knee-visits without T2 are left out"
    assert model_rows(labelled_images(lake, "oa"), Model("oa", *FEMUR)).n_left_out == 0
