"""Tissue maps of other people's models: names such as 'Femoral Cartilage' or 'med_men'."""

import re
from collections.abc import Mapping

from imaging.errors import BadInputError, Reason
from imaging.labels import Scheme, Tissue

BACKGROUND = frozenset({"background", "bg", "unlabeled", "air"})

_NAMES: Mapping[str, Tissue] = {
    **{str(tissue): tissue for tissue in Tissue},
    "femur_bone": Tissue.FEMUR,
    "tibia_bone": Tissue.TIBIA,
    "patella_bone": Tissue.PATELLA,
    "femur_cartilage": Tissue.FEMORAL_CARTILAGE,
    "fem_cart": Tissue.FEMORAL_CARTILAGE,
    "fc": Tissue.FEMORAL_CARTILAGE,
    "tibia_cartilage": Tissue.TIBIAL_CARTILAGE,
    "tib_cart": Tissue.TIBIAL_CARTILAGE,
    "tc": Tissue.TIBIAL_CARTILAGE,
    "med_tib_cart": Tissue.MEDIAL_TIBIAL_CARTILAGE,
    "tibial_cartilage_medial": Tissue.MEDIAL_TIBIAL_CARTILAGE,
    "lat_tib_cart": Tissue.LATERAL_TIBIAL_CARTILAGE,
    "tibial_cartilage_lateral": Tissue.LATERAL_TIBIAL_CARTILAGE,
    "patella_cartilage": Tissue.PATELLAR_CARTILAGE,
    "pat_cart": Tissue.PATELLAR_CARTILAGE,
    "pc": Tissue.PATELLAR_CARTILAGE,
    "menisci": Tissue.MENISCUS,
    "men": Tissue.MENISCUS,
    "med_men": Tissue.MEDIAL_MENISCUS,
    "meniscus_medial": Tissue.MEDIAL_MENISCUS,
    "lat_men": Tissue.LATERAL_MENISCUS,
    "meniscus_lateral": Tissue.LATERAL_MENISCUS,
}


def scheme_of_names(name: str, values: Mapping[int, str], file: str) -> Scheme:
    """A scheme from value -> name.

    Args:
        name: of the scheme.
        values: label value and the model's own name of it.
        file: for messages.

    Raises:
        BadInputError: UNKNOWN_SCHEME for names that are no tissue, or where none is named.
    """
    tissues: dict[int, Tissue] = {}
    ignored: set[int] = {0}
    unknown: list[str] = []
    for value, own in sorted(values.items()):
        word = re.sub(r"[^a-z0-9]+", "_", own.lower()).strip("_")
        if word in BACKGROUND or (value == 0 and not word):
            ignored.add(value)
        elif word in _NAMES:
            tissues[value] = _NAMES[word]
        else:
            unknown.append(f"{value} = {own!r}")
    if unknown or not tissues or ignored & set(tissues) or 0 in tissues:
        what = f"labels that are no known tissue: {', '.join(unknown)}" if unknown else "no tissue"
        raise BadInputError(
            Reason.UNKNOWN_SCHEME,
            file,
            f"names {what}",
            "Name them in a scheme.toml with [tissues] or `ignored` and give its path; the "
            "tissues are " + ", ".join(Tissue),
        )
    return Scheme(name, tissues, frozenset(ignored))
