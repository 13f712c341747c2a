"""The segmentation ensembles: what each network segments, and how it is built.

The paper's bones come from five 3-D V-Nets, each with a distance-weighted loss of its own, and its
cartilages and menisci from three 2-D and three 3-D V-Nets (Morales 2021, "Bone and cartilage
segmentation"; Milletari 2016, doi:10.1109/3DV.2016.79). The supplement names neither losses nor
patches of the members, so they are configuration here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from imaging.labels import LabelVolume, Tissue

if TYPE_CHECKING:
    from torch import nn

Architecture = Literal["vnet", "reduced"]
Loss = Literal["cross_entropy", "dice", "focal", "boundary_dice", "hausdorff_dice"]
TaskName = Literal["bone", "cartilage"]
Dimensions = Literal[2, 3]

SIZE_MULTIPLE = 16
"""Every network halves its input four times, so each spatial size is a multiple of this."""


@dataclass(frozen=True)
class Task:
    """What one ensemble segments; class 0 is background, class k the k-th entry.

    Attributes:
        name: 'bone' or 'cartilage'.
        tissues: the tissue each class is stored as.
        parts: the tissues of a delivered label that count as each class.
    """

    name: TaskName
    tissues: tuple[Tissue, ...]
    parts: tuple[tuple[Tissue, ...], ...]

    @property
    def n_class(self) -> int:
        """Classes with background."""
        return len(self.tissues) + 1

    def targets(self, labels: LabelVolume) -> NDArray[np.uint8]:
        """The class of each voxel of a label volume, same shape."""
        classes = np.zeros(labels.array.shape, np.uint8)
        for number, parts in enumerate(self.parts, 1):
            classes[labels.mask(*parts)] = number
        return classes


TASKS: Mapping[TaskName, Task] = {
    "bone": Task(
        "bone",
        (Tissue.FEMUR, Tissue.TIBIA, Tissue.PATELLA),
        ((Tissue.FEMUR,), (Tissue.TIBIA,), (Tissue.PATELLA,)),
    ),
    "cartilage": Task(
        "cartilage",
        (
            Tissue.FEMORAL_CARTILAGE,
            Tissue.TIBIAL_CARTILAGE,
            Tissue.PATELLAR_CARTILAGE,
            Tissue.MENISCUS,
        ),
        (
            (Tissue.FEMORAL_CARTILAGE,),
            (
                Tissue.TIBIAL_CARTILAGE,
                Tissue.MEDIAL_TIBIAL_CARTILAGE,
                Tissue.LATERAL_TIBIAL_CARTILAGE,
            ),
            (Tissue.PATELLAR_CARTILAGE,),
            (Tissue.MENISCUS, Tissue.MEDIAL_MENISCUS, Tissue.LATERAL_MENISCUS),
        ),
    ),
}


@dataclass(frozen=True)
class Member:
    """One network of an ensemble.

    Attributes:
        task: what it segments.
        dimensions: 3 for volumes, 2 for sagittal slices.
        loss: what it is trained with; see `segmentation_losses`.
        architecture: 'vnet' (45.6 million parameters in 3-D, 9.4 in 2-D), or 'reduced', a U-Net of
            a hundredth of the work for trials on a processor.
    """

    task: TaskName
    dimensions: Dimensions
    loss: Loss
    architecture: Architecture = "vnet"

    @property
    def name(self) -> str:
        """Unique within an ensemble."""
        return f"{self.task}-{self.architecture}-{self.dimensions}d-{self.loss}"


_BONE_LOSSES: tuple[Loss, ...] = (
    "cross_entropy",
    "dice",
    "focal",
    "boundary_dice",
    "hausdorff_dice",
)
_CARTILAGE_LOSSES: tuple[Loss, ...] = ("cross_entropy", "dice", "focal")


def paper_members(architecture: Architecture = "vnet") -> tuple[Member, ...]:
    """The paper's eleven networks: five for bones, three 2-D and three 3-D for cartilages."""
    return (
        *(Member("bone", 3, loss, architecture) for loss in _BONE_LOSSES),
        *(Member("cartilage", 2, loss, architecture) for loss in _CARTILAGE_LOSSES),
        *(Member("cartilage", 3, loss, architecture) for loss in _CARTILAGE_LOSSES),
    )


def build_network(member: Member) -> "nn.Module":
    """A network with fresh weights: (batch, 1, *spatial) images to (batch, n_class, *spatial).

    Spatial sizes have to be multiples of `SIZE_MULTIPLE`. The output is logits.
    """
    from monai.networks.nets import UNet, VNet

    n_class = TASKS[member.task].n_class
    if member.architecture == "vnet":
        return VNet(spatial_dims=member.dimensions, in_channels=1, out_channels=n_class)
    return UNet(
        spatial_dims=member.dimensions,
        in_channels=1,
        out_channels=n_class,
        channels=(8, 16, 32, 64, 96),
        strides=(2, 2, 2, 2),
        num_res_units=1,
        norm="batch",
    )
