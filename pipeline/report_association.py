"""Chronic pain and biomarkers: regressions and maps, the report's third chapter.

Here: Tables 2 and 3, forest plots, suppression, controls, SPM, Table 3 refitted. Not here: any
estimate (`association`, `spm_results`) or the layout of the tables (`regression_tables`).
"""

from collections.abc import Mapping, Sequence

from pipeline.association import Run, published_files
from pipeline.cohort_regressions import COMPARTMENTS, DL_GUIDED, NESTED, RADIOGRAPHIC
from pipeline.comparison_files import FIGURES, made_of
from pipeline.config import FIGURES_FOLDER
from pipeline.figures import drawn_before
from pipeline.leakage_tables import leakage_panels, leakage_table
from pipeline.published_regressions import ANALYSIS as PUBLISHED
from pipeline.regression_figures import forest_plot, panels
from pipeline.regression_tables import (
    caution_notes,
    differences,
    table_2,
    table_3,
)
from pipeline.report_blocks import (
    Block,
    FigureBlock,
    Layout,
    Source,
    TableBlock,
    TextBlock,
    fixed,
    laid_out,
    percent,
    small_p,
)
from pipeline.report_reading import Reading

LEAKAGE = "leakage_controls"
SPM_ANALYSES: Mapping[str, str] = {
    "spm_cam_pain": "Grad-CAM, evidence for pain",
    "spm_cam_predicted": "Grad-CAM, evidence for the predicted class (the authors' code)",
    "spm_biomarkers": "Biomarkers",
}
REGRESSION_TABLES = (
    "regression_models",
    "regression_terms",
    "regression_tests",
    "regression_performance",
)
SCREEN_PX = 1080
"""Width of Fig. 1 on the page: 183 mm at 150 dpi."""
READ_TOGETHER = (
    "Coefficients not to be read alone (the test of the pair of models stands; "
    "pipeline/regression_cautions.py has the rules):"
)
_INPUTS = {
    NESTED: ("regression_cases",),
    RADIOGRAPHIC: ("radiographic_cases",),
    PUBLISHED: ("published_cases",),
}


def _of(analysis: str, *more: str) -> Source:
    return Source(analysis, (*REGRESSION_TABLES, *_INPUTS.get(analysis, ()), *more), analysis)


def _before(reading: Reading, analysis: str) -> list[Block]:
    stale = reading.newer_input(analysis, _INPUTS[analysis])
    return [TextBlock((stale,), "warning")] if stale else []


def _forest(
    name: str, run: Run, title: str, names: Mapping[str, Mapping[str, str]], only: Sequence[str]
) -> list[Block]:
    shown = panels(run.tables, names, only)
    if not shown:
        return []
    return [
        FigureBlock(
            name,
            f"{title}: odds ratios",
            f"Forest plot of {len(shown)} models; estimates and intervals are in the table above.",
            lambda: forest_plot(shown, title, "png"),
            _of(run.analysis),
        )
    ]


def radiographs(reading: Reading) -> Sequence[Block]:
    """Table 2."""
    run = reading.run(RADIOGRAPHIC)
    if run is None:
        return ()
    title = "Table 2. Chronic pain and radiographic features"
    return (
        *_before(reading, RADIOGRAPHIC),
        TableBlock("table_2", title, table_2(run.tables), _of(RADIOGRAPHIC), run.notes),
        *_forest("forest_radiographic", run, title, {}, ()),
    )


def averages(reading: Reading) -> Sequence[Block]:
    """Table 3 on the cohort."""
    run = reading.run(NESTED)
    if run is None or run.tables["regression_models"].is_empty():
        return ()
    title = "Table 3. What compartment and DL-guided averages add"
    warned = caution_notes(run.tables)
    return (
        *_before(reading, NESTED),
        TableBlock("table_3", title, table_3(run.tables), _of(NESTED), run.notes),
        *_forest("forest_nested", run, title, {}, (*COMPARTMENTS, DL_GUIDED)),
        *(
            [
                TextBlock((READ_TOGETHER,)),
                TextBlock(tuple(warned), "list", _of(NESTED)),
            ]
            if warned
            else []
        ),
    )


def controls(reading: Reading) -> Sequence[Block]:
    """The leakage controls: the same models with averages of control networks."""
    run = reading.run(LEAKAGE)
    if run is None:
        return ()
    title = "Leakage controls of the DL-guided average"
    source = _of(LEAKAGE, "leakage_control_cases", "control_biomarkers")
    shown = leakage_panels(run.tables)
    blocks: list[Block] = [
        TableBlock("leakage_controls", title, leakage_table(run.tables), source, run.notes)
    ]
    if shown:
        blocks.append(
            FigureBlock(
                "forest_leakage",
                f"{title}: odds ratios",
                f"Forest plot of the average's odds ratio under each control, {len(shown)} panels; "
                "the table above has the numbers.",
                lambda: forest_plot(shown, title, "png"),
                source,
            )
        )
    return blocks


def published(reading: Reading) -> Sequence[Block]:
    """Table 3 refitted from the authors' files."""
    run = reading.run(PUBLISHED)
    if run is None or not run.n_rows:
        return ()
    title = "Table 3 refitted from the published files"
    names = _compartments(reading)
    return (
        *_before(reading, PUBLISHED),
        TableBlock(
            "table_3_published", title, table_3(run.tables, names), _of(PUBLISHED), run.notes
        ),
        TableBlock(
            "table_3_differences",
            "Where the printed Table 3 differs from the published files",
            differences(run.tables["printed_comparisons"]),
            Source(PUBLISHED, ("printed_comparisons",), PUBLISHED),
        ),
        FigureBlock(
            "forest_published",
            f"{title}: odds ratios",
            "Forest plot of the models refitted; estimates are in the table above.",
            lambda: published_files(reading.lake, run)["forest_published.png"],
            _of(PUBLISHED),
        ),
    )


def _compartments(reading: Reading) -> dict[str, dict[str, str]]:
    rows = reading.read("SELECT DISTINCT bone, compartment_1, compartment_2 FROM published_cases")
    return {
        row["bone"]: {
            f"compartment_{place}_mm": f"{row[f'compartment_{place}']} thickness, mm"
            for place in (1, 2)
        }
        for row in rows.to_dicts()
    }


def spm_cam_pain(reading: Reading) -> Sequence[Block]:
    """Fig. 1's tables: Grad-CAM of one class, true positives against true negatives."""
    return _spm(reading, "spm_cam_pain")


def spm_cam_predicted(reading: Reading) -> Sequence[Block]:
    """The same with each knee's predicted class, as in the authors' code."""
    return _spm(reading, "spm_cam_predicted")


def spm_biomarkers(reading: Reading) -> Sequence[Block]:
    """The biomarkers themselves."""
    return _spm(reading, "spm_biomarkers")


def _spm(reading: Reading, analysis: str) -> Sequence[Block]:
    compartments, clusters = (
        reading.read(
            f"SELECT * FROM {name} WHERE analysis = $analysis ORDER BY map, {second}",  # noqa: S608 - registry names
            analysis=analysis,
        )
        for name, second in (("spm_compartments", "compartment"), ("spm_clusters", "cluster"))
    )
    if compartments.is_empty():
        return ()
    title = f"SPM of {SPM_ANALYSES[analysis]}"
    figure = _figure_1(reading, analysis, title)
    notes = reading.read("SELECT notes FROM analyses WHERE analysis = $name", name=analysis)
    return (
        *figure,
        TableBlock(
            f"{analysis}_compartments",
            f"{title}: by compartment",
            laid_out(
                compartments,
                {
                    "map": Layout("Map", _words),
                    "compartment": "Compartment",
                    "tested_area_mm2": Layout("Tested, mm²", fixed(0)),
                    "mean_group0": "Mean, group 0",
                    "mean_group1": "Mean, group 1",
                    "estimate": "Adjusted difference",
                    "mean_hedges_g": Layout("Hedges' g", fixed(2)),
                    "share_p05": Layout("p < 0.05 uncorrected, % of surface", percent),
                    "share_fwe": Layout("Family-wise, % of surface", percent),
                },
            ),
            Source(analysis, ("spm_compartments", "spm_points"), analysis),
            tuple(notes["notes"][0].splitlines()) if notes.height else (),
        ),
        TableBlock(
            f"{analysis}_clusters",
            f"{title}: clusters",
            laid_out(
                clusters,
                {
                    "map": Layout("Map", _words),
                    "cluster": "Cluster",
                    "sign": Layout("Higher in", lambda sign: "group 1" if sign > 0 else "group 0"),
                    "area_mm2": Layout("Area, mm²", fixed(0)),
                    "peak_t": Layout("Peak t", fixed(2)),
                    "mean_estimate": "Mean difference",
                    "compartments": "Lies in",
                    "p_fwe_area": Layout("Family-wise, p", small_p),
                    "p_fwe_area_family": Layout("Over all maps, p", small_p),
                },
            ),
            Source(analysis, ("spm_clusters",), analysis),
            ("A cluster says that some of it differs, not where in it.",),
        ),
    )


def _figure_1(reading: Reading, analysis: str, title: str) -> list[Block]:
    """Mean maps and p-values on the atlas; none where the lake has no vertices or no atlas."""
    n = reading.read("SELECT count(*) FROM spm_points WHERE analysis = $name", name=analysis).item()
    if not n or not reading.count("atlas_vertices"):
        return []

    def draw() -> bytes:
        # A page is read on a screen: half the resolution of print.
        file = reading.lake.root / FIGURES_FOLDER / f"{FIGURES[analysis]}.png"
        kept = drawn_before(file, made_of(reading.lake, analysis), SCREEN_PX)
        if kept is not None:
            return kept
        from pipeline.atlas_figures import figure_1
        from pipeline.atlas_view import atlas_meshes, group_maps

        meshes, maps = atlas_meshes(reading.lake), group_maps(reading.lake, analysis)
        return figure_1(meshes, maps, dpi=150, picture_px=280)

    return [
        FigureBlock(
            f"{analysis}_figure",
            f"Figure 1. {title}",
            "Bone by bone and biomarker by biomarker: the two groups' mean maps on the atlas, and "
            "the p-values of their difference. The tables below give it by compartment and "
            "cluster.",
            draw,
            Source(analysis, ("spm_points", "atlas_vertices", "atlas_triangles"), analysis),
        )
    ]


def _words(name: str) -> str:
    return name.replace("_", " ")
