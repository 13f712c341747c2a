"""The paper's search for hyperparameters, as data, and its execution trial by trial.

Paper: two rates x three networks x three initialisations x four freezings, "612 combinations" for
18 models. What is legal of the full grid is enumerated here, and counted, not forced to 34 a model:
frozen random weights cannot learn, and osteoarthritis weights exist for one network.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from models.classifier import ARCHITECTURES, TRAINED, Architecture, NetworkConfig, Trained
from models.errors import CheckpointError, TrainingError
from models.initialization import INITIALIZATIONS, Initialization, InitializationKind
from models.metrics import Metrics
from models.training import FeatureCache, TrainingData, train
from models.training_config import SelectionRule, TrainingConfig
from models.training_loop import is_better

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Trial:
    """One point of the grid.

    Attributes:
        initialization, architecture, trained, learning_rate: see `TrainingConfig`.
    """

    initialization: InitializationKind
    architecture: Architecture
    trained: Trained
    learning_rate: float

    @property
    def trial_id(self) -> str:
        """Its name, the same in every sweep, such as `oa-resnet50-from_layer2-lr1e-05`."""
        return f"{self.initialization}-{self.architecture}-{self.trained}-lr{self.learning_rate:g}"

    def config(self, base: TrainingConfig) -> TrainingConfig:
        """The training of this trial; what the grid does not vary is the base's."""
        return base.changed(
            network=NetworkConfig(self.architecture, base.network.width),
            initialization=self.initialization,
            trained=self.trained,
            learning_rate=self.learning_rate,
        )


@dataclass(frozen=True)
class SweepGrid:
    """What is tried; the paper's by default.

    Attributes:
        learning_rates, architectures, initializations, trained: values of each choice.
        oa_architectures: networks pretrained on osteoarthritis; the authors' code has one.
    """

    learning_rates: tuple[float, ...] = (1e-4, 1e-5)
    architectures: tuple[Architecture, ...] = ARCHITECTURES
    initializations: tuple[InitializationKind, ...] = INITIALIZATIONS
    trained: tuple[Trained, ...] = TRAINED
    oa_architectures: tuple[Architecture, ...] = ("resnet50",)

    @property
    def n_full(self) -> int:
        """Points of the full grid, legal or not."""
        return (
            len(self.learning_rates)
            * len(self.architectures)
            * len(self.initializations)
            * len(self.trained)
        )

    def exclusion(self, trial: Trial) -> str | None:
        """Why a point is not tried; None where it is."""
        if trial.initialization == "random" and trial.trained != "all":
            return "frozen random weights cannot learn"
        if trial.initialization == "oa" and trial.architecture not in self.oa_architectures:
            return f"osteoarthritis weights are of {', '.join(self.oa_architectures)} only"
        return None

    def trials(self) -> tuple[Trial, ...]:
        """The legal points: 38 of 72 for the paper's grid.

        Those that share a frozen network are next to each other.
        """
        full = [
            Trial(initialization, architecture, trained, rate)
            for initialization in self.initializations
            for architecture in self.architectures
            for trained in self.trained
            for rate in self.learning_rates
        ]
        return tuple(trial for trial in full if self.exclusion(trial) is None)


@dataclass(frozen=True)
class TrialResult:
    """How a trial ended.

    Attributes:
        trial: which.
        config: its whole training.
        status: 'done', 'skipped' (its initial weights are absent) or 'failed'.
        reason: why it is not done; '' where it is.
        best_epoch, n_epochs: 0 where it is not done.
        metrics: of the best epoch on the validation split; None where it is not done.
        auc_variation_percent: of the validation AUC over the epochs.
        seconds: it took.
    """

    trial: Trial
    config: TrainingConfig
    status: Status
    reason: str = ""
    best_epoch: int = 0
    n_epochs: int = 0
    metrics: Metrics | None = None
    auc_variation_percent: float = 0.0
    seconds: float = 0.0


def run_sweep(
    data: TrainingData,
    base: TrainingConfig,
    trials: Sequence[Trial],
    weights: Callable[[Trial], Initialization],
    *,
    done: Collection[str] = (),
    device: str = "cpu",
) -> Iterator[TrialResult]:
    """Train every trial, one after the other on the same resident images.

    Each stops by patience as any training does. What a frozen trunk makes of the images is
    computed once for all rates of its head. A trial that fails is told as such and stops no other.

    Args:
        data: images, labels and splits; the test split is not part of them.
        base: what the grid does not vary.
        trials: in order.
        weights: where a trial's initial weights lie.
        done: trial ids to leave out.
        device: 'cpu' or 'cuda'.
    """
    features: FeatureCache = {}
    last: tuple[str, str] | None = None
    for trial in trials:
        if trial.trial_id in done:
            continue
        if (trial.initialization, trial.architecture) != last:
            # Features of a network that no trial uses any more only fill the device.
            features.clear()
            last = (trial.initialization, trial.architecture)
        yield _run_trial(data, trial, trial.config(base), weights(trial), features, device)


def _run_trial(
    data: TrainingData,
    trial: Trial,
    config: TrainingConfig,
    initialization: Initialization,
    features: FeatureCache,
    device: str,
) -> TrialResult:
    if initialization.kind != "random" and initialization.file is None:
        reason = f"there are no {initialization.kind} weights of {trial.architecture}"
        return TrialResult(trial, config, "skipped", reason)
    try:
        result = train(
            data, config, initialization=initialization, device=device, features=features
        )
    except (TrainingError, CheckpointError) as error:
        return TrialResult(trial, config, "failed", str(error))
    return TrialResult(
        trial,
        config,
        "done",
        "",
        result.best_epoch,
        len(result.epochs),
        result.best.validation,
        result.auc_variation_percent,
        sum(row.seconds for row in result.epochs),
    )


def select(results: Sequence[TrialResult], rule: SelectionRule) -> TrialResult | None:
    """The best trial by validation; None where none qualifies. The first of equals."""
    best: TrialResult | None = None
    for result in results:
        if result.metrics is not None and is_better(
            rule, result.metrics, best.metrics if best else None
        ):
            best = result
    return best
