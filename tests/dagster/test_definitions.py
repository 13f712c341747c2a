"""The asset graph, spelled out: a change to it should be a decision."""

import dataclasses
import subprocess
import sys

import dagster as dg
import pytest

import sql
from assets.imaging import TABLE_ASSETS, MapConfig
from assets.metadata import registry_schema
from assets.sql_sources import relations_read, tables_read
from dagster_project.definitions import build_defs
from imaging.knee import MapParameters
from imaging.relaxometry import FitOptions
from lake.keys import TIMEPOINTS
from lake.tables import TABLES

IMAGING = {
    "scan_inventory": set(),
    "network_segmentations": {"scan_inventory", "segmentation_networks"},
    "segmentations": {"scan_inventory", "network_segmentations"},
    "spherical_maps": {"scan_inventory", "segmentations"},
    "knee_biomarkers": {"scan_inventory", "segmentations"},
}
IMAGES = {
    "map_ranges": {"spherical_maps", "model_cases"},
    "training_images": {"map_ranges", "spherical_maps"},
}
BIOMARKERS = {
    "biomarkers_long": {"knee_biomarkers"},
    "biomarkers_wide": {"biomarkers_long"},
    "longitudinal_change": {"biomarkers_long"},
    "map_agreement_summary": {"knee_biomarkers"},
    "thickness_methods": {"knee_biomarkers"},
}


@pytest.fixture(scope="module")
def defs() -> dg.Definitions:
    return build_defs()


def test_definitions_load(defs: dg.Definitions) -> None:
    dg.Definitions.validate_loadable(defs)


def test_definitions_load_without_heavy_packages() -> None:
    code = (
        "import sys, dagster_project.definitions\n"
        "heavy = {'torch', 'monai', 'pyvista', 'matplotlib', 'SimpleITK', 'vtkmodules', 'xarray'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_graph(defs: dg.Definitions) -> None:
    graph = defs.resolve_asset_graph()
    keys = {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}
    parents = {
        name: {parent.to_user_string() for parent in node.parent_keys}
        for name, node in keys.items()
    }
    assert {name: parents[name] for name in IMAGING} == IMAGING
    assert {name: parents[name] for name in IMAGES} == IMAGES
    # A view may join the graph by being added to sql/biomarkers; these must be there.
    assert {name: parents[name] for name in BIOMARKERS} == BIOMARKERS
    views = {
        name
        for name, node in keys.items()
        if node.group_name == "biomarkers" and node.partitions_def is None
    }
    assert views == {file.name for file in sql.load_all().values() if file.group == "biomarkers"}
    for name in IMAGING:
        assert keys[name].group_name == "imaging"
        assert tuple(keys[name].partitions_def.get_partition_keys()) == TIMEPOINTS


def test_assets_explain_themselves(defs: dg.Definitions) -> None:
    for key in defs.resolve_asset_graph().get_all_asset_keys():
        node = defs.resolve_asset_graph().get(key)
        assert node.description, key
        assert node.owners, key
        assert node.kinds, key
        assert node.code_version or key.to_user_string() == "scan_inventory", key


def test_writers_share_a_pool_of_one(defs: dg.Definitions) -> None:
    job = defs.resolve_job_def("update_timepoint")
    pools = {node.name: node.definition.pool for node in job.nodes}
    for step in ("scan_inventory", "network_segmentations", "segmentations", "maps_and_biomarkers"):
        assert pools[step] == "lake_writer"


def test_sensors_run_by_default(defs: dg.Definitions) -> None:
    sensors = {sensor.name: sensor.default_status for sensor in defs.sensors}
    assert sensors == {
        "inbox_sensor": dg.DefaultSensorStatus.RUNNING,
        "automation": dg.DefaultSensorStatus.RUNNING,
    }


def test_an_unknown_override_is_refused() -> None:
    with pytest.raises(TypeError, match="lakes: not a resource; use lake, cluster, progress"):
        build_defs(lakes=None)


def test_every_map_parameter_can_be_edited_in_the_launchpad() -> None:
    odd = MapParameters(
        thickness_method="normal",
        hit_rule="nearest",
        cylinder_radius_mm=1.0,
        t2=FitOptions(
            model="two_parameter",
            first_echo="drop",
            t2_bounds_ms=(2.0, 200.0),
            offset="non_negative",
            tolerance=1e-6,
        ),
        between_slices="nearest",
        align_t2=False,
    )
    # The test itself must not forget a parameter that is added later.
    default = MapParameters()
    for field in dataclasses.fields(MapParameters):
        assert getattr(odd, field.name) != getattr(default, field.name), field.name
    for field in dataclasses.fields(FitOptions):
        assert getattr(odd.t2, field.name) != getattr(default.t2, field.name), field.name
    assert MapConfig.of(odd).parameters() == odd
    assert MapConfig().parameters() == default


def test_column_schema_shows_units_and_limits() -> None:
    columns = {column.name: column for column in registry_schema(TABLES["tissue_volumes"]).columns}
    assert columns["volume_mm3"].type == "DOUBLE"
    assert "mm3" in columns["volume_mm3"].description
    assert columns["volume_mm3"].constraints.other == ["0 to 2e+06"]
    assert not columns["volume_mm3"].constraints.nullable


def test_every_written_table_has_its_asset() -> None:
    # Results of an analysis are written by the asset of that analysis, whichever it is.
    written = {name for name, table in TABLES.items() if table.step not in ("", "statistics")}
    assert set(TABLE_ASSETS) == written


@pytest.mark.parametrize(
    ("query", "read"),
    [
        ("SELECT * FROM a JOIN b USING (k)", ("a", "b")),
        ("WITH a AS (SELECT * FROM c) SELECT * FROM a", ("c",)),
        ("SELECT * FROM a WHERE x IN (SELECT y FROM b)", ("a", "b")),
        ("SELECT (SELECT max(x) FROM b) FROM a -- not FROM d", ("a", "b")),
        ("SELECT * FROM a UNION ALL SELECT 'FROM e' FROM b", ("a", "b")),
        ("PIVOT a ON k IN ('x') USING sum(v)", ("a",)),
        ("SELECT 1", ()),
    ],
)
def test_relations_a_query_reads(query: str, read: tuple[str, ...]) -> None:
    assert relations_read(query) == read


def test_views_are_followed_to_their_tables() -> None:
    assert "biomarkers" in tables_read("SELECT * FROM biomarkers_wide")


def test_what_is_no_query_is_refused() -> None:
    with pytest.raises(ValueError, match="not one SQL query"):
        relations_read("DELETE FROM a")
