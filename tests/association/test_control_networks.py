"""Control networks: nobody is explained by a network that knew him, and averages are its own."""

from pathlib import Path

import pytest
from small_study import NETWORK, SmallStudy, small_study

from models.errors import ModelError
from pipeline.cluster import Cluster
from pipeline.control_networks import (
    ControlOptions,
    folds_of,
    options_of,
    permuted_labels,
    train_control_networks,
)

PEOPLE = [
    {"subject_id": subject, "knee_visit": f"{subject}_RIGHT_V0{visit}", "is_case": subject % 3 == 0}
    for subject in range(100, 130)
    for visit in range(1 + subject % 2)
]


def people(rows: tuple[tuple[str, bool], ...]) -> set[str]:
    return {name.split("_")[0] for name, _ in rows}


def test_no_network_of_a_fold_knows_whom_it_explains() -> None:
    for n_folds in (2, 5):
        folds = folds_of(PEOPLE, n_folds, seed=3)
        held_out = [name for fold in folds for name in fold.held_out]
        assert sorted(held_out) == sorted(row["knee_visit"] for row in PEOPLE)
        labels = {row["knee_visit"]: row["is_case"] for row in PEOPLE}
        for fold in folds:
            explained = {name.split("_")[0] for name in fold.held_out}
            parts = (people(fold.training), people(fold.validation), explained)
            assert sum(map(len, parts)) == len(set().union(*parts)) == 30
            for rows in (fold.training, fold.validation):
                assert dict(rows) == {name: labels[name] for name, _ in rows}
                # Both classes are dealt out evenly.
                assert len({is_case for _, is_case in rows}) == 2
    assert folds_of(PEOPLE, 2, seed=3) == folds_of(PEOPLE[::-1], 2, seed=3)
    assert folds_of(PEOPLE, 2, seed=3) != folds_of(PEOPLE, 2, seed=4)


def test_permuted_labels_are_anothers() -> None:
    marked = [{**row, "is_case": row["subject_id"] == 100} for row in PEOPLE]
    given = dict(permuted_labels(marked, seed=1))
    assert set(given) == {row["knee_visit"] for row in PEOPLE}
    cases = {name.split("_")[0] for name, is_case in given.items() if is_case}
    # One participant takes the only case's labels, and it is not the case.
    assert len(cases) == 1
    assert cases != {"100"}
    with pytest.raises(ModelError, match="fewer than two participants"):
        permuted_labels(PEOPLE[:1], seed=1)


def test_choices() -> None:
    demo, paper = options_of("demo"), options_of("paper")
    assert (demo.n_folds, paper.n_folds) == (2, 5)
    assert demo.training.initialization == paper.training.initialization == "random"
    with pytest.raises(ModelError, match="2 or more"):
        ControlOptions(demo.training, 1)
    with pytest.raises(ModelError, match="random weights"):
        ControlOptions(demo.training.changed(initialization="oa"), 2)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> SmallStudy:
    root: Path = tmp_path_factory.mktemp("controls") / "lake"
    return small_study(root, people=60, knees=12, strategies=("thickness",), bones=())


def test_networks_are_trained_once_and_averages_are_of_the_maps(study: SmallStudy) -> None:
    training = options_of("demo").training.changed(network=NETWORK, max_epochs=1)
    options = ControlOptions(training, 2, strategies=("thickness",))

    def train():
        return train_control_networks(
            study.lake,
            study.settings,
            options,
            bones=("tibia",),
            cluster=Cluster(),
        )

    first = train()
    assert [group.name for group in first.trained] == ["cross_fitted tibia thickness"]
    assert first.n_networks == 2
    # The four knees of the small study's validation split have no pain: that group leaves nothing.
    [(refused, reason)] = first.failed
    assert refused.name == "permuted_labels tibia thickness"
    assert "0 cases and 4 controls" in reason
    rows = study.read(
        "SELECT control, fold, count(*) AS n, count(dl_guided) AS n_averages, "
        "min(dl_guided) AS low, max(dl_guided) AS high FROM control_biomarkers GROUP BY ALL"
    ).to_dicts()
    knees = study.read(
        "SELECT count(*) AS n FROM model_images WHERE task = 'chronic_pain' AND bone = 'tibia'"
    )["n"][0]
    assert {(row["control"], row["fold"]) for row in rows} == {
        ("cross_fitted", 0),
        ("cross_fitted", 1),
    }
    assert sum(row["n"] for row in rows) == knees
    assert sum(row["n_averages"] for row in rows) > 0
    # A weighted average lies within the thickness there is.
    assert all(row["low"] is None or 0 < row["low"] <= row["high"] < 6 for row in rows)
    assert study.lake.check("control_biomarkers")["n_failed"].sum() == 0
    again = train()
    assert again.trained == ()
    assert again.unchanged == first.trained
