"""Starting Dagster from the command line.

Here: an instance that is set up once, the UI as a child process, and asset runs in this process.
Not here: parsing arguments or printing tables (`cli`).
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import dagster as dg

from assets.imaging import MapConfig
from assets.partitions import MODEL_PARTITIONS, TIMEPOINT_PARTITIONS
from assets.resources import ClusterResource, LakeResource, ProgressResource
from dagster_project.definitions import build_defs
from dagster_project.recovery import UNDER_WAY, close_lost_runs
from dagster_project.stages import Stage, stages
from lake.files import write_whole
from pipeline.cluster import Engine
from pipeline.config import Settings
from pipeline.map_comparisons import COMPARISONS

if TYPE_CHECKING:
    from pipeline.ingest import Progress

REPOSITORY = Path(__file__).resolve().parents[1]
WORKSPACE = REPOSITORY / "workspace.yaml"
INSTANCE_CONFIG = REPOSITORY / "deploy" / "dagster.yaml"
HOST = "127.0.0.1"
START_SECONDS = 180.0
STOP_SECONDS = 40.0


@dataclass(frozen=True)
class AssetResult:
    """What one run did to one asset.

    Attributes:
        asset: its name.
        timepoint: the visit; None for an asset whose partitions are no visits.
        metadata: plain values only: numbers and text, no figures or tables.
        failed_checks: names of the checks that did not pass in this run.
        model: the classifier, `<bone>|<strategy>`; None for other assets.
    """

    asset: str
    timepoint: str | None
    metadata: dict[str, Any]
    failed_checks: tuple[str, ...]
    model: str | None = None


class RunFailedError(Exception):
    """A run stopped; what it had committed stays.

    Attributes:
        timepoint: its visit; None for other assets.
        step: the asset that failed.
        cause: the error's own message.
    """

    def __init__(self, timepoint: str | None, step: str, cause: str) -> None:
        self.timepoint = timepoint
        self.step = step
        self.cause = cause
        super().__init__(f"{step}{f' at {timepoint}' if timepoint else ''} failed: {cause}")


def prepare_home(home: Path) -> Path:
    """Set a Dagster home up: its configuration and storage once, and no lost run in the way.

    Two processes that first touch a fresh home at the same time would race to create the tables.

    Args:
        home: DAGSTER_HOME; made if missing. A `dagster.yaml` already there is kept.

    Returns:
        the home, absolute.
    """
    home = home.expanduser().absolute()
    home.mkdir(parents=True, exist_ok=True)
    config = home / "dagster.yaml"
    if not config.is_file():
        write_whole(config, INSTANCE_CONFIG.read_text(encoding="utf-8"))
    with _instance(home) as instance:
        # Reading each store creates its tables.
        instance.all_asset_keys()
        instance.all_instigator_state()
        close_lost_runs(instance)
    return home


@contextlib.contextmanager
def _instance(home: Path) -> Iterator[dg.DagsterInstance]:
    # The telemetry setting of dagster.yaml stops events; this also stops the upload thread.
    os.environ.setdefault("DAGSTER_DISABLE_TELEMETRY", "1")
    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance


def environment(home: Path, settings: Settings) -> dict[str, str]:
    """The environment in which Dagster finds this instance and this lake, from any folder."""
    return {
        **os.environ,
        "DAGSTER_HOME": str(home),
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "KNEELAKE_ROOT": str(Path(settings.lake_root).absolute()),
        "KNEELAKE_INBOX": str(Path(settings.inbox).absolute()),
        "KNEELAKE_SCHEME": settings.scheme,
        "KNEELAKE_WORKERS": str(settings.workers),
    }


def serve_ui(
    home: Path,
    port: int,
    settings: Settings,
    *,
    say: Callable[[str], None] | None = None,
) -> int:
    """Run the Dagster UI and daemon on a lake until interrupted.

    Works from any folder. Ctrl-C or SIGTERM stops the servers in order. Their log goes to
    `<home>/ui.log`.

    Args:
        home: DAGSTER_HOME.
        port: of the UI on this machine.
        settings: the lake and inbox to work on; its map parameters are the defaults of the
            launchpad only if they are kneelake's own.
        say: told the URL when ready, and what went wrong; None writes to standard error.

    Returns:
        0 after an orderly stop, else 1.
    """
    tell = say or (lambda text: print(text, file=sys.stderr, flush=True))  # noqa: T201 - default sink of `say`
    home = prepare_home(home)
    if _is_listening(port):
        tell(f"port {port} is in use; stop what listens there or choose another with --port")
        return 1
    log = home / "ui.log"
    with log.open("wb") as sink, _stop_requests() as stop:
        child = subprocess.Popen(  # noqa: S603 - our own interpreter and paths
            [
                *(sys.executable, "-m", "dagster", "dev"),
                *("-w", str(WORKSPACE), "-h", HOST, "-p", str(port)),
            ],
            env=environment(home, settings),
            # Dagster puts its folder on the import path, and the user's own may hold a folder
            # called `lake` or `models`.
            cwd=REPOSITORY,
            stdout=sink,
            stderr=subprocess.STDOUT,
            # A group of its own: Ctrl-C reaches the servers once, in order, through us.
            start_new_session=True,
        )
        try:
            outcome = _watch(child, port, log, tell, stop)
        finally:
            _stop(child)
    with _instance(home) as instance:
        under_way = instance.get_runs_count(dg.RunsFilter(statuses=list(UNDER_WAY)))
    if under_way:
        tell(f"{under_way} run(s) still under way may go on in the background until done")
    return outcome


class _StopFlag:
    """Whether this process was asked to stop."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked = True


@contextlib.contextmanager
def _stop_requests() -> Iterator[_StopFlag]:
    """Note Ctrl-C and SIGTERM instead of dying of them."""
    flag = _StopFlag()
    before = {number: signal.signal(number, flag) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield flag
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_listening(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        return probe.connect_ex((HOST, port)) == 0


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/server_info", timeout=2) as answer:  # noqa: S310 - our own server
            return answer.status == 200
    except (urllib.error.URLError, OSError):
        return False


def _watch(
    child: subprocess.Popen[bytes],
    port: int,
    log: Path,
    tell: Callable[[str], None],
    stop: _StopFlag,
) -> int:
    url = f"http://{HOST}:{port}"
    ready = False
    deadline = time.monotonic() + START_SECONDS
    while not stop.asked:
        if child.poll() is not None:
            last = log.read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
            tell("\n".join([*last, f"Dagster stopped by itself; its whole log is {log}"]))
            return 1
        if not ready and _answers(url):
            ready = True
            tell(f"Dagster UI: {url}  (Ctrl-C stops it)")
        if not ready and time.monotonic() > deadline:
            tell(f"no answer from Dagster in {START_SECONDS:g} s; its log is {log}")
            return 1
        time.sleep(0.2)
    return 0


def _stop(child: subprocess.Popen[bytes]) -> None:
    """Stop the servers in order; the whole group by force if they do not."""
    if child.poll() is None:
        child.send_signal(signal.SIGINT)
        try:
            child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def materialize(
    settings: Settings,
    selection: Sequence[str] | str | None = None,
    partitions: Sequence[str] | None = None,
    progress: "Progress | None" = None,
    *,
    home: Path,
    engine: Engine = "processes",
    on_result: Callable[[AssetResult], None] | None = None,
) -> list[AssetResult]:
    """Materialise assets and run their checks in this process, recorded where the UI shows them.

    What is of a visit runs visit by visit, the classifiers all in one run, the rest once; each
    after what it reads.

    Args:
        settings: the lake and how to work on it.
        selection: asset names or Dagster selection text such as "group:imaging"; None for all.
        partitions: visits; None for all.
        progress: told (done, total, text) within each step.
        home: DAGSTER_HOME of the instance that records the runs; made if missing.
        engine: 'processes' or 'serial'.
        on_result: told each asset's result as its run ends.

    Returns:
        one result per asset and visit, in the order they ran.

    Raises:
        ValueError: an asset, group or visit that does not exist.
        RunFailedError: a run stopped; the visits before it are done.
    """
    visits = list(partitions) if partitions is not None else _all_visits()
    unknown = sorted(set(visits) - set(_all_visits()))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: not a visit; use {', '.join(_all_visits())}")
    defs = build_defs(
        lake=LakeResource(
            lake_root=str(settings.lake_root.absolute()),
            inbox=str(settings.inbox.absolute()),
            scheme=settings.scheme,
        ),
        cluster=ClusterResource(engine=engine, workers=settings.workers),
        progress=ProgressResource(progress),
    )
    selected = _select(defs, selection)
    results: list[AssetResult] = []
    with _instance(prepare_home(home)) as instance:
        for stage in stages(defs, selected):
            for timepoint in visits if stage.kind == "visits" else [None]:
                for result in _run(defs, instance, settings, stage, timepoint):
                    results.append(result)
                    if on_result is not None:
                        on_result(result)
    return results


def _all_visits() -> list[str]:
    return list(TIMEPOINT_PARTITIONS.get_partition_keys())


def _select(defs: dg.Definitions, selection: Sequence[str] | str | None) -> set[dg.AssetKey]:
    """Keys of the selected assets."""
    graph = defs.resolve_asset_graph()
    keys = set(graph.get_all_asset_keys()) if selection is None else set()
    texts = [selection] if isinstance(selection, str) else selection or []
    for text in texts:
        try:
            found = dg.AssetSelection.from_string(text).resolve(graph)
        except dg.DagsterError:
            found = set()
        if not found:
            names = ", ".join(sorted(key.to_user_string() for key in graph.get_all_asset_keys()))
            raise ValueError(f"{text!r} selects no asset; there are {names}")
        keys |= found
    # Steps that compute several assets at once run whole.
    return keys | {other for key in keys for other in graph.get(key).execution_set_asset_keys}


def _run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    settings: Settings,
    stage: Stage,
    timepoint: str | None,
) -> list[AssetResult]:
    tags = {"kneelake/from": "command line"}
    if stage.kind == "models":
        models = MODEL_PARTITIONS.get_partition_keys()
        tags["dagster/asset_partition_range_start"] = models[0]
        tags["dagster/asset_partition_range_end"] = models[-1]
    job = defs.resolve_implicit_global_asset_job_def()
    outcome = job.execute_in_process(
        run_config=_run_config(settings, {key.to_user_string() for key in stage.keys}),
        instance=instance,
        partition_key=timepoint,
        asset_selection=list(stage.keys),
        raise_on_error=False,
        tags=tags,
    )
    if not outcome.success:
        raise _failure(outcome, timepoint)
    failed = {
        key: tuple(
            sorted(
                evaluation.check_name
                for evaluation in outcome.get_asset_check_evaluations()
                if evaluation.asset_key == key and not evaluation.passed
            )
        )
        for key in stage.keys
    }
    return [
        AssetResult(
            asset=materialization.asset_key.to_user_string(),
            timepoint=materialization.partition if stage.kind == "visits" else None,
            metadata=_plain(materialization.metadata),
            failed_checks=failed[materialization.asset_key],
            model=materialization.partition if stage.kind == "models" else None,
        )
        for event in outcome.get_asset_materialization_events()
        for materialization in [event.step_materialization_data.materialization]
    ]


def _run_config(settings: Settings, assets: set[str]) -> dict[str, Any]:
    """What the settings say to each asset; the environment tells the rest."""
    # The console is the caller's; the instance keeps the whole log.
    config: dict[str, Any] = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    ops: dict[str, Any] = {}
    if "spherical_maps" in assets:
        ops["maps_and_biomarkers"] = MapConfig.of(settings.maps).model_dump()
    weights = {name: str(file) for name, file in settings.imagenet_weights.items()}
    for name in sorted({"oa_classifiers", "pain_classifiers"} & assets):
        ops[name] = {
            "preset": settings.classifier_preset,
            "device": settings.device,
            "imagenet_weights": weights,
        }
    for name in sorted(set(COMPARISONS) & assets):
        ops[name] = {
            "n_permutations": settings.n_permutations,
            "min_models_correct": settings.min_models_correct,
        }
    if "report" in assets:
        ops["report"] = {"min_models_correct": settings.min_models_correct}
    if "control_networks" in assets:
        ops["control_networks"] = {
            "preset": settings.classifier_preset,
            "device": settings.device,
        }
    if "sweep_runs" in assets:
        ops["sweep_runs"] = {"preset": settings.sweep_preset, "device": settings.device}
    return config | {"ops": {name: {"config": values} for name, values in ops.items()}}


def _failure(outcome: dg.ExecuteInProcessResult, timepoint: str | None) -> RunFailedError:
    for event in outcome.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            error = event.step_failure_data.error
            while error.cause is not None:
                error = error.cause
            return RunFailedError(timepoint, event.step_key or "", error.message.strip())
    return RunFailedError(timepoint, "run", "see the run's log in the UI")


def _plain(metadata: Any) -> dict[str, Any]:
    return {
        name: value.value
        for name, value in metadata.items()
        if isinstance(value, dg.IntMetadataValue | dg.FloatMetadataValue | dg.TextMetadataValue)
    }
