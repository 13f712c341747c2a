"""The registry's tables of statistical parametric mapping; see `statistics_tables`."""

from lake.registry import BATCH_ID, Column, Table, count, number, text, whole

_ANALYSIS = text("analysis", "The analysis: the asset, or the name given on the command line.")
_MAP = text("map", "The map.")


def _result(
    name: str, description: str, columns: tuple[Column, ...], grain: tuple[str, ...]
) -> Table:
    return Table(
        name,
        description,
        (_ANALYSIS, _MAP, *columns, BATCH_ID),
        partitioned=False,
        step="statistics",
        key=("analysis",),
        grain=("analysis", "map", *grain),
    )


def _value(name: str, description: str, unit: str = "") -> Column:
    return number(name, description, unit, None, None, nullable=True)


def _area(name: str, description: str) -> Column:
    return number(name, description, "mm2", 0.0, None, nullable=True)


def _p(name: str, description: str) -> Column:
    return number(name, description, "p-value", 0.0, 1.0, nullable=True)


_OF_MAP = "the map's"

SPM_TABLES = (
    _result(
        "spm_points",
        "Point-by-point ANCOVA of maps on group and covariates: one row per map and vertex. "
        "Differences are group 1 minus group 0.",
        (
            whole("vertex", "The vertex.", "", 0, nullable=False),
            count("n", "Cases with a value there."),
            count("n_group0", "Of them, in group 0."),
            count("n_group1", "Of them, in group 1."),
            whole("df", "Residual degrees of freedom.", "", None),
            _value("estimate", "Adjusted difference between the groups.", _OF_MAP),
            _value("se", "Its standard error.", _OF_MAP),
            _value("ci_low", "Its 95 % confidence limit.", _OF_MAP),
            _value("ci_high", "Its upper limit.", _OF_MAP),
            _value("t", "estimate / se."),
            _value("f", "t squared, 1 and df degrees of freedom."),
            _p("p", "Two-sided p-value, not corrected for the number of vertices."),
            _value("ln_p", "Its natural logarithm, at any size."),
            _p("q_bh", "Benjamini-Hochberg over the map's vertices."),
            _p("q_by", "Benjamini-Yekutieli over the map's vertices."),
            _p("p_bonferroni", "Bonferroni over the map's vertices."),
            _p("q_bh_family", "Benjamini-Hochberg over the vertices of all maps tested."),
            _value("partial_eta2", "Share of the residual variance the group explains.", "1"),
            _value("hedges_g", "Adjusted difference over the residual standard deviation.", "SD"),
            _value("hedges_g_low", "Its 95 % confidence limit.", "SD"),
            _value("hedges_g_high", "Its upper limit.", "SD"),
            _value("mean_group0", "Mean of group 0.", _OF_MAP),
            _value("mean_group1", "Mean of group 1.", _OF_MAP),
            _value("adjusted_mean_group0", "Mean of group 0 at the mean covariates.", _OF_MAP),
            _value("adjusted_mean_group1", "Mean of group 1 at the mean covariates.", _OF_MAP),
            text("reason", "Why the vertex was not tested; NULL where it was.", nullable=True),
            whole("cluster", "Its cluster; NULL in none.", "", 1),
            _p("p_permutation", "By permutation, not corrected; NULL where not searched."),
            _p("p_fwe_max_t", "Family-wise over the map's vertices, largest |t|."),
            _p("p_fwe_max_t_family", "Family-wise over the vertices of all maps tested."),
            _value("tfce", "Threshold-free cluster enhancement of t."),
            _p("p_fwe_tfce", "Family-wise over the map's vertices, largest |TFCE|."),
            _p("p_fwe_tfce_family", "Family-wise over the vertices of all maps tested."),
        ),
        ("vertex",),
    ),
    _result(
        "spm_clusters",
        "Connected vertices beyond the cluster-forming threshold: one row per map and cluster.",
        (
            whole("cluster", "The cluster, 1 the largest.", "", 1, nullable=False),
            whole("sign", "1: group 1 is higher; -1: lower.", "", -1, 1, nullable=False),
            count("n_vertices", "Its vertices."),
            _area("area_mm2", "Its area."),
            whole("peak_vertex", "The vertex of the largest |t|.", "", 0),
            _value("peak_t", "t there."),
            _value("peak_estimate", "Adjusted difference there.", _OF_MAP),
            *(_value(f"peak_{axis}_mm", f"Its place along {axis}.", "mm") for axis in "xyz"),
            _value("mean_estimate", "Adjusted difference, weighted by area.", _OF_MAP),
            text("compartments", "Compartments it lies in with their share of its area.", (), True),
            _p("p_fwe_area", "Family-wise over the map, largest cluster area."),
            _p("p_fwe_area_family", "Family-wise over all maps tested."),
        ),
        ("cluster",),
    ),
    _result(
        "spm_compartments",
        "Maps summarised by compartment, weighted by area: one row per map and compartment.",
        (
            text("compartment", "The compartment, or 'all'."),
            count("n_vertices", "Its vertices."),
            _area("area_mm2", "Its area."),
            _area("tested_area_mm2", "Area of the vertices tested."),
            _value("mean_group0", "Mean of group 0.", _OF_MAP),
            _value("mean_group1", "Mean of group 1.", _OF_MAP),
            _value("estimate", "Adjusted difference.", _OF_MAP),
            _value("mean_hedges_g", "Mean of Hedges' g.", "SD"),
            _area("area_p05_mm2", "Area with uncorrected p < 0.05."),
            _value("share_p05", "Its share of the tested area.", "1"),
            _area("area_fwe_mm2", "Area with family-wise p < 0.05 (largest |t|)."),
            _value("share_fwe", "Its share of the tested area.", "1"),
        ),
        ("compartment",),
    ),
)
