from pathlib import Path

import numpy as np
import pytest

from imaging.errors import BadInputError, Reason
from imaging.labels import LabelVolume, Tissue, load_scheme

SHIPPED = {
    "mskt": {5: "femur", 6: "tibia", 7: "patella", 3: "lateral_tibial_cartilage", 8: "fibula"},
    "nnunet-knee": {1: "patellar_cartilage", 5: "medial_meniscus", 7: "femur", 9: "patella"},
    "oai-zib": {1: "femur", 2: "femoral_cartilage", 3: "tibia", 4: "tibial_cartilage"},
    "oaizib-cm": {3: "tibia", 4: "medial_tibial_cartilage", 5: "lateral_tibial_cartilage"},
    "ski10": {1: "femur", 2: "femoral_cartilage", 3: "tibia", 4: "tibial_cartilage"},
    "ucsf": {},
}
COUNTS = {"mskt": 10, "nnunet-knee": 9, "oai-zib": 4, "oaizib-cm": 5, "ski10": 6, "ucsf": 7}


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_schemes_have_the_published_values(name: str):
    scheme = load_scheme(name)
    assert scheme.name == name
    assert len(scheme.tissues) == COUNTS[name]
    assert {value: scheme.tissues[value].value for value in SHIPPED[name]} == SHIPPED[name]


def test_bones_a_scheme_has_and_needs():
    assert load_scheme("oai-zib").bones == ("femur", "tibia")
    assert load_scheme("mskt").required_bones == ("femur", "tibia", "patella")
    assert load_scheme("ski10").bones == ("femur", "tibia", "patella")
    assert load_scheme("ski10").required_bones == ("femur", "tibia")


def test_masks_join_what_a_scheme_splits_and_are_empty_for_what_it_lacks():
    array = np.arange(11, dtype=np.uint8).reshape(1, 1, 11)
    labels = LabelVolume(array, np.eye(4), load_scheme("mskt"))
    assert np.flatnonzero(labels.cartilage("tibia")).tolist() == [2, 3]
    assert np.flatnonzero(labels.bone("femur")).tolist() == [5]
    assert not labels.mask(Tissue.MENISCUS).any()


def test_a_users_own_scheme(tmp_path: Path):
    file = tmp_path / "mine.toml"
    file.write_text('ignored = [9]\noptional = ["patella"]\n[tissues]\nfemur = [1, 4]\npatella = 2')
    scheme = load_scheme(str(file))
    assert scheme.name == "mine"
    assert scheme.values([Tissue.FEMUR]) == [1, 4]
    assert scheme.ignored == {0, 9}
    assert scheme.required_bones == ("femur",)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[tissues]",
        "tissues = 3",
        "[tissues]\nbrain = 1",
        "[tissues]\nfemur = 1\ntibia = 1",
        "[tissues]\nfemur = 0",
        "[tissues]\nfemur = -1",
        "[tissues]\nfemur = 1.5",
        "[tissues]\nfemur = true",
        "[tissues]\nfemur = 'one'",
        "ignored = [1]\n[tissues]\nfemur = 1",
        "ignored = 3\n[tissues]\nfemur = 1",
        "ignore = [3]\n[tissues]\nfemur = 1",
        "[tissues\nfemur = 1",
        b"\xff\xfe",
    ],
)
def test_a_wrong_scheme_file_is_refused(tmp_path: Path, text: str | bytes):
    file = tmp_path / "mine.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(BadInputError) as caught:
        load_scheme(str(file))
    assert caught.value.reason is Reason.UNKNOWN_SCHEME
    assert "mine.toml" in str(caught.value)


def test_unknown_scheme_names_the_shipped_ones():
    with pytest.raises(BadInputError, match="nnunet-knee, oai-zib") as caught:
        load_scheme("nosuch")
    assert caught.value.reason is Reason.UNKNOWN_SCHEME
