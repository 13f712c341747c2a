"""The paper end to end as one page: which sections, in which order, from which asset.

A section is a line of `SECTIONS`: its chapter, its heading, the asset that makes what it shows, and
a function of what is read to blocks. One that has nothing yet says which asset to materialise.

Here: the order. Not here: what sections hold (`report_*`), or the page (`report_page`).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lake.files import write_whole
from lake.store import Lake
from pipeline import report_association as association
from pipeline import report_cohort as cohort
from pipeline import report_learning as learning
from pipeline import report_methods as methods
from pipeline.config import Settings
from pipeline.report_blocks import Block, Part, TableBlock
from pipeline.report_page import Page, page_html
from pipeline.report_reading import Reading
from pipeline.report_summary import summary

FILE = "report.html"
COHORT, CLASSIFIERS = "Cohort and images", "Classifiers"
RADIOGRAPHS, CAMS = "Chronic pain and radiographs", "Grad-CAM and maps"
PAIN = "Chronic pain and biomarkers"
METHODS = "Methods as run"


@dataclass(frozen=True)
class Section:
    """A section of the report.

    Attributes:
        chapter: it is in.
        title: its heading.
        asset: what to materialise where it has nothing yet.
        make: its blocks; () where there is nothing yet.
    """

    chapter: str
    title: str
    asset: str
    make: Callable[[Reading], Sequence[Block]]


SECTIONS: tuple[Section, ...] = (
    Section("Summary", "What was analysed and found", "cohort", summary),
    Section(COHORT, "Who was included (Fig. 2)", "cohort_figures", cohort.flow),
    Section(COHORT, "Splits (Table 4)", "cohort_figures", cohort.splits),
    Section(
        COHORT,
        "Readings of widespread pain",
        "widespread_pain_variants",
        cohort.widespread_pain,
    ),
    Section(COHORT, "Segmentation (Table S1)", "segmentation_metrics", cohort.segmentation),
    Section(COHORT, "Maps against surfaces (Fig. S3)", "knee_biomarkers", cohort.agreement),
    Section(COHORT, "Maps of one knee (Fig. 3)", "spherical_maps", cohort.maps),
    Section(COHORT, "What the networks see (Fig. 4)", "training_images", cohort.merges),
    Section(CLASSIFIERS, "Trained classifiers", "pain_classifiers", learning.trainings),
    Section(CLASSIFIERS, "Osteoarthritis (Table S2)", "model_evaluation", learning.osteoarthritis),
    Section(CLASSIFIERS, "The sweep (Fig. S4)", "sweep_figure", learning.sweep),
    Section(
        CLASSIFIERS,
        "Chronic pain, first visits (Table 1)",
        "model_evaluation",
        learning.first_visits,
    ),
    Section(
        CLASSIFIERS,
        "Chronic pain, last visits (Table S3)",
        "model_evaluation",
        learning.last_visits,
    ),
    Section(CLASSIFIERS, "Chronic pain, all visits", "model_evaluation", learning.all_visits),
    Section(CLASSIFIERS, "Knees that all models get right", "predictions", learning.understood),
    Section(
        RADIOGRAPHS,
        "Radiographic features (Table 2)",
        "radiographic_regression",
        association.radiographs,
    ),
    Section(CAMS, "Mean Grad-CAM of the groups", "cam_maps", learning.mean_maps),
    Section(CAMS, "From cells to a heat map (Fig. 5)", "cam_maps", learning.one_knee),
    Section(CAMS, "Sanity checks", "cam_sanity", learning.sanity),
    Section(CAMS, "SPM of Grad-CAM for pain (Fig. 1)", "spm_cam_pain", association.spm_cam_pain),
    Section(
        CAMS,
        "SPM of Grad-CAM as in the authors' code",
        "spm_cam_predicted",
        association.spm_cam_predicted,
    ),
    Section(CAMS, "SPM of biomarkers", "spm_biomarkers", association.spm_biomarkers),
    Section(PAIN, "DL-guided averages (Table 3)", "nested_regressions", association.averages),
    Section(PAIN, "Leakage controls", "leakage_controls", association.controls),
    Section(
        PAIN, "Table 3 from the published files", "published_regressions", association.published
    ),
    Section(METHODS, "Choices", "cohort_parameters", methods.parameters),
    Section(METHODS, "Maps and biomarkers", "knee_biomarkers", methods.measuring),
    Section(METHODS, "Trainings", "pain_classifiers", methods.trainings),
    Section(METHODS, "Software", "scan_inventory", methods.software),
    Section(METHODS, "Data", "scan_inventory", methods.data),
    Section(METHODS, "Refused inputs", "scan_inventory", methods.refused),
    Section(METHODS, "How to come to the same numbers", "scan_inventory", methods.commands),
)
"""In the paper's order. What a colleague adds is one line here."""


def parts(reading: Reading) -> Iterator[Part]:
    """Every section with what the lake has for it."""
    for section in SECTIONS:
        blocks = tuple(section.make(reading))
        name = "".join(c if c.isalnum() else "-" for c in section.title.lower()).strip("-")
        yield Part(name, section.title, blocks, "" if blocks else section.asset, section.chapter)


def tables(reading: Reading) -> list[TableBlock]:
    """Every table of the report, for who wants them in other forms."""
    return [
        block for part in parts(reading) for block in part.blocks if isinstance(block, TableBlock)
    ]


def report_html(lake: Lake, settings: Settings, table_assets: Mapping[str, str]) -> str:
    """The page.

    Args:
        lake: a snapshot of the lake, so that all numbers are of one state.
        settings: parameters in use.
        table_assets: which asset writes each table.

    Returns:
        One HTML document that refers to nothing outside itself. The same lake and software give
        the same text.
    """
    reading = Reading(lake, settings, table_assets)
    found = tuple(parts(reading))
    return page_html(Page.of(reading, found))


def write_report(
    lake: Lake, settings: Settings, table_assets: Mapping[str, str], path: Path
) -> Path:
    """Write the page to a file; see `report_html`.

    Raises:
        FileNotFoundError: the file's folder is not there.
    """
    write_whole(path, report_html(lake, settings, table_assets))
    return path
