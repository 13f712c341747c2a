"""The 18 classifiers: trained on osteoarthritis, then on pain, and the search behind them.

Here: the assets that train, and what they show: numbers and curves of each model, and Figure S4.
Not here: images (`assets.images`), what the models say of knees (predictions, evaluation), or any
network (`models`).

A partition is a model, bone by strategy, and one run takes any number of them. To materialise a
model trains it where its images, labels, splits, first weights, choices or code are new, and does
nothing otherwise; new visits therefore train again when, and only when, somebody materialises.
All of it is asked for or does nothing: KNEELAKE_CLASSIFIER_PRESET and KNEELAKE_SWEEP_PRESET, or
`preset` in the launchpad.
"""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import dagster as dg
from pydantic import Field

from assets.metadata import figure, peak_memory_mib, preview, registry_schema
from assets.partitions import MODEL_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from lake.store import Lake
from lake.tables import TABLES
from pipeline.config import CODE_VERSION, FIGURES_FOLDER, Settings

if TYPE_CHECKING:
    from imaging.labels import Bone
    from models.training_config import TrainingConfig
    from pipeline.classifiers import TrainingReport
    from pipeline.model_data import TaskName

# One run for several partitions is what is wanted, and the parameter is only new to Dagster.
warnings.filterwarnings("ignore", r".*`backfill_policy`.*", dg.BetaWarning)

GROUP = "learning"
OWNERS = ["team:learning"]
LAKE_WRITER = "lake_writer"
PUBLISHED_SWEEP = "painoptimization.csv"
"""The authors' file, looked for in the inbox."""

IMAGES = [
    dg.AssetDep("training_images", partition_mapping=dg.AllPartitionMapping()),
    dg.AssetDep("model_cases"),
]


class ClassifierConfig(dg.Config):
    """Which training. What is left empty is the preset's."""

    preset: Literal["", "off", "demo", "paper"] = Field(
        default="",
        description="off: train nothing; demo: a narrow ResNet-18, minutes on a processor; paper: "
        "ResNet-50 as published, hours on a GPU. Empty: KNEELAKE_CLASSIFIER_PRESET, or off.",
    )
    architecture: Literal["", "resnet18", "resnet34", "resnet50"] = Field(
        default="", description="The network."
    )
    width: float | None = Field(default=None, gt=0, description="Channels relative to published.")
    initialization: Literal["", "random", "imagenet", "oa"] = Field(
        default="", description="What the training begins with."
    )
    trained: Literal["", "all", "from_layer2", "from_layer3", "head"] = Field(
        default="", description="What learns; the rest is frozen."
    )
    learning_rate: float | None = Field(default=None, gt=0, description="Of Adam.")
    batch_size: int | None = Field(default=None, ge=1, description="Images at once.")
    max_epochs: int | None = Field(default=None, ge=1, description="Epochs at most.")
    patience: int | None = Field(
        default=None, ge=1, description="Epochs without a lower validation loss before it ends."
    )
    selection_rule: Literal["", "val_loss", "val_auc", "tpn"] = Field(
        default="",
        description="Which epoch is kept; tpn is the authors' code: sensitivity + specificity + "
        "AUC, the first two at least 0.5.",
    )
    augmentation: Literal["", "none", "small_shifts", "authors"] = Field(
        default="", description="Random changes of training images."
    )
    seed: int = Field(default=0, ge=0, description="Of weights and the order of images.")
    device: Literal["", "auto", "cpu", "cuda"] = Field(
        default="", description="Where networks run; empty: KNEELAKE_DEVICE, or auto."
    )
    imagenet_weights: dict[str, str] = Field(
        default={},
        description="Files of ImageNet weights by network; empty: KNEELAKE_IMAGENET_WEIGHTS.",
    )

    def chosen_preset(self, settings: Settings) -> str:
        """The preset of a run; 'off' where nobody gave one."""
        return self.preset or settings.classifier_preset or "off"

    def training(self, task: "TaskName", settings: Settings) -> "TrainingConfig":
        """The training this config says.

        Raises:
            ModelError: a choice out of range.
        """
        from models.classifier import NetworkConfig
        from models.training_config import preset

        base = preset(self.chosen_preset(settings), task)
        fields = {
            *("initialization", "trained", "learning_rate", "batch_size", "max_epochs"),
            *("patience", "selection_rule", "augmentation"),
        }
        dumped = self.model_dump(include=fields)
        given = {name: value for name, value in dumped.items() if value not in {None, ""}}
        network = NetworkConfig(
            self.architecture or base.network.architecture,
            base.network.width if self.width is None else self.width,
        )
        return base.changed(**given, network=network, seed=self.seed)

    def on(self, settings: Settings) -> Settings:
        """The settings with what this config says of weights and device."""
        import dataclasses

        changes: dict[str, Any] = {}
        if self.imagenet_weights:
            files = {name: Path(file) for name, file in self.imagenet_weights.items()}
            changes["imagenet_weights"] = files
        if self.device:
            changes["device"] = self.device
        return dataclasses.replace(settings, **changes)


class SweepConfig(dg.Config):
    """Which search."""

    preset: Literal["", "off", "demo", "paper"] = Field(
        default="",
        description="off: nothing; demo: two rates of a narrow ResNet-18; paper: the paper's grid. "
        "Empty: KNEELAKE_SWEEP_PRESET, or off.",
    )
    max_epochs: int | None = Field(default=None, ge=1, description="Epochs of a trial at most.")
    width: float | None = Field(default=None, gt=0, description="Channels relative to published.")
    device: Literal["", "auto", "cpu", "cuda"] = Field(
        default="", description="Where networks run; empty: KNEELAKE_DEVICE, or auto."
    )


class SweepFigureConfig(dg.Config):
    """What Figure S4 shows."""

    rule: Literal["val_loss", "val_auc", "tpn"] = Field(
        default="tpn", description="How the best run is chosen; tpn is that of the authors' file."
    )
    published: str = Field(
        default="",
        description=f"The authors' {PUBLISHED_SWEEP}; empty: that of the inbox, if there is one.",
    )


def _idle(state: str, what: str) -> dg.MaterializeResult:
    return dg.MaterializeResult(
        data_version=dg.DataVersion(state), metadata={"state": f"{state}: {what}"}
    )


def _chosen(context: dg.AssetExecutionContext) -> dict[str, tuple["Bone", str]]:
    """Bone and strategy of each partition of a run."""
    chosen: dict[str, tuple[Bone, str]] = {}
    for key in context.partition_keys:
        assert isinstance(key, dg.MultiPartitionKey)  # noqa: S101 - the asset's own partitions
        dimensions: Mapping[str, Any] = key.keys_by_dimension
        chosen[key] = (dimensions["bone"], dimensions["strategy"])
    return chosen


def _has_images(store: Lake, task: str) -> bool:
    found = store.sql("SELECT 1 FROM model_images WHERE task = $task LIMIT 1", {"task": task})
    return not found.is_empty()


def _train(
    context: dg.AssetExecutionContext,
    task: "TaskName",
    config: ClassifierConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: ProgressResource,
) -> dg.MaterializeResult:
    from pipeline.classifiers import train_classifiers

    settings = config.on(lake.settings())
    if config.chosen_preset(settings) == "off":
        return _idle("off", "give a preset, demo or paper, to train classifiers")
    if not _has_images(lake.snapshot(), task):
        return _idle("waiting", f"there are no images of knee-visits with a label of {task}")
    chosen = _chosen(context)
    report = train_classifiers(
        lake.open(),
        settings,
        task,
        config.training(task, settings),
        models=list(chosen.values()),
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    for model, note in report.notes:
        context.log.warning(f"{model.name}: {note}")
    store = lake.snapshot()
    shown = {
        key: found
        for key, (bone, strategy) in chosen.items()
        if (found := _model_metadata(store, task, bone, strategy, report))
    }
    if report.failed:
        for key, metadata in shown.items():
            context.log_event(
                dg.AssetMaterialization(context.asset_key, partition=key, metadata=metadata)
            )
        problems = "; ".join(f"{model.name}: {problem}" for model, problem in report.failed)
        raise dg.Failure(f"{len(report.failed)} of {len(chosen)} models: {problems}")
    for key, metadata in shown.items():
        context.add_asset_metadata(metadata, partition_key=key)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("classifiers")),
        metadata={
            "n_trained": len(report.trained),
            "n_unchanged": len(report.unchanged),
            "seconds": round(report.seconds, 1),
            "peak_memory_mib": peak_memory_mib(),
        },
    )


def _model_metadata(
    store: Lake, task: str, bone: str, strategy: str, report: "TrainingReport"
) -> dict[str, Any]:
    """Numbers and curves of one model; none where it is not there."""
    from pipeline.learning_figures import training_curves

    values = {"task": task, "bone": bone, "strategy": strategy}
    of_model = "WHERE task = $task AND bone = $bone AND strategy = $strategy"
    rows = store.sql(f"FROM classifiers {of_model}", values).to_dicts()
    if not rows:
        return {}
    row = rows[0]
    epochs = store.sql(f"FROM training_epochs {of_model}", values)
    numbers = ("val_loss", "val_sensitivity", "val_specificity", "val_auc", "val_mcc")
    return {
        **{name: round(float(row[name]), 4) for name in numbers},
        "best_epoch": row["best_epoch"],
        "n_epochs": row["n_epochs"],
        "n_training": row["n_training"],
        "n_validation": row["n_validation"],
        "newly_trained": any(
            (model.bone, model.strategy) == (bone, strategy) for model in report.trained
        ),
        "checkpoint": row["path"],
        "initialized_from": row["initialized_from"] or "random weights",
        "notes": row["notes"],
        "training_curves": figure(training_curves(epochs, dpi=110), f"{task} {bone} {strategy}"),
    }


@dg.asset(
    deps=IMAGES,
    partitions_def=MODEL_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["classifiers"],
    metadata={"dagster/column_schema": registry_schema(TABLES["classifiers"])},
)
def oa_classifiers(
    context: dg.AssetExecutionContext,
    config: ClassifierConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Networks that tell osteoarthritis (KL 2 and more), which the pain models begin with.

    No participant of the pain models' test split is trained on. Does nothing without a preset.
    """
    return _train(context, "oa", config, lake, cluster, progress)


@dg.asset(
    deps=[oa_classifiers, *IMAGES],
    partitions_def=MODEL_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["classifiers"],
    metadata={"dagster/column_schema": registry_schema(TABLES["classifiers"])},
)
def pain_classifiers(
    context: dg.AssetExecutionContext,
    config: ClassifierConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """The paper's 18 models of chronic pain, each begun with its own of `oa_classifiers`.

    Chosen by validation only; the test split is not looked at. Does nothing without a preset.
    """
    return _train(context, "chronic_pain", config, lake, cluster, progress)


@dg.asset(
    deps=[oa_classifiers, *IMAGES],
    partitions_def=MODEL_PARTITIONS,
    backfill_policy=dg.BackfillPolicy.single_run(),
    group_name=GROUP,
    kinds={"python", "pytorch"},
    owners=OWNERS,
    pool=LAKE_WRITER,
    code_version=CODE_VERSION["sweep"],
    metadata={"dagster/column_schema": registry_schema(TABLES["sweep_runs"])},
)
def sweep_runs(
    context: dg.AssetExecutionContext,
    config: SweepConfig,
    lake: LakeResource,
    cluster: ClusterResource,
    progress: dg.ResourceParam[ProgressResource],
) -> dg.MaterializeResult:
    """Every legal trial of the search for rate, network, initialisation and freezing, per model.

    An interrupted search goes on where it was. Does nothing without a preset.
    """
    import dataclasses

    from models.classifier import NetworkConfig
    from pipeline.sweep import grid_of, sweep_classifiers

    settings = lake.settings()
    if config.device:
        settings = dataclasses.replace(settings, device=config.device)
    preset = config.preset or settings.sweep_preset or "off"
    if preset == "off":
        return _idle("off", "give a preset, demo or paper, to search")
    if not _has_images(lake.snapshot(), "chronic_pain"):
        return _idle("waiting", "there are no images of knee-visits with a pain label")
    grid, base = grid_of(preset)
    if config.max_epochs is not None:
        base = base.changed(max_epochs=config.max_epochs)
    if config.width is not None:
        base = base.changed(network=NetworkConfig(base.network.architecture, config.width))
    chosen = _chosen(context)
    report = sweep_classifiers(
        lake.open(),
        settings,
        grid,
        base,
        models=list(chosen.values()),
        cluster=cluster.open(settings),
        progress=progress.to(context.log),
    )
    if report.failed:
        problems = "; ".join(f"{model.name}: {problem}" for model, problem in report.failed)
        raise dg.Failure(f"{len(report.failed)} of {len(chosen)} models: {problems}")
    store = lake.snapshot()
    for key, (bone, strategy) in chosen.items():
        runs = store.sql(
            "SELECT trial_id, status, val_auc, val_sensitivity, val_specificity, val_loss, "
            "auc_variation_percent, reason FROM sweep_runs "
            "WHERE bone = $bone AND strategy = $strategy ORDER BY val_loss NULLS LAST, trial_id",
            {"bone": bone, "strategy": strategy},
        )
        context.add_asset_metadata({"runs": preview(runs, rows=len(runs))}, partition_key=key)
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("sweep_runs")),
        metadata={
            "n_grid": report.n_full,
            "n_legal": report.n_legal,
            "n_run": report.n_run,
            "n_unchanged": report.n_unchanged,
            "n_skipped": report.n_skipped,
            "n_failed": report.n_failed,
            "seconds": round(report.seconds, 1),
        },
    )


@dg.asset(
    deps=[dg.AssetDep("sweep_runs", partition_mapping=dg.AllPartitionMapping())],
    group_name=GROUP,
    kinds={"python", "matplotlib"},
    owners=OWNERS,
    # Raised by hand when the drawing changes.
    code_version="1",
)
def sweep_figure(config: SweepFigureConfig, lake: LakeResource) -> dg.MaterializeResult:
    """Figure S4: the best run of each initialisation, ours beside the authors' published ones."""
    from pipeline.learning_figures import sweep_figure as draw
    from pipeline.sweep import read_published_sweep

    settings, store = lake.settings(), lake.snapshot()
    ours = store.sql("FROM sweep_best WHERE rule = $rule", {"rule": config.rule})
    file = Path(config.published) if config.published else settings.inbox / PUBLISHED_SWEEP
    published = read_published_sweep(file) if config.published or file.is_file() else None
    if ours.is_empty() and published is None:
        return _idle("waiting", f"there are no runs, and no {PUBLISHED_SWEEP} in the inbox")
    drawn = draw(ours, published)
    folder = settings.lake_root / FIGURES_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "figure_s4.png"
    path.write_bytes(draw(ours, published, dpi=150))
    best = ours.filter("is_best").drop("task", "rule", "is_best")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(store.data_version("sweep_runs")),
        metadata={
            "figure_s4": figure(drawn, "Figure S4"),
            "file": dg.MetadataValue.path(str(path)),
            "best_runs": preview(best, rows=len(best)),
            "n_published": 0 if published is None else len(published),
        },
    )
