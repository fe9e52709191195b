"""The words that networks are written in: layers, and the residual branches made of them. Nothing here needs torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from spikesearch.space.architecture import Architecture, BlockSpec, StageSpec, StemSpec

if TYPE_CHECKING:
    from torch import Tensor, nn

    from spikesearch.nn.layers import Layers
    from spikesearch.nn.modules import Branch

Spec = StemSpec | StageSpec | BlockSpec
"""The genes of a stem, of the way into a stage, or of a block."""

Share = float | str
"""A width over that of the stage: a number, or the name of the gene that holds it."""


class Channels(str):
    """Name of a gene that holds a number of channels; 0 stands for the width of the stage."""


@dataclass(frozen=True)
class Layer:
    """A weight layer of a stem or of a residual branch.

    Args:
        name: Of its unit in the stem or branch.
        inputs: Width of its input; ``None`` for the channels of the images.
        outputs: Width of its output, of one group.
        op: A convolution or a linear layer.
        size: Height and width of the convolution, odd.
        stride: Of the convolution.
        depthwise: Whether every channel is convolved by itself.
        groups: Independent sets of outputs behind one another (3 for q, k and v in one product).
        reads_stream: Whether it is fed by the residual stream (through neurons where that carries currents).
        ends_branch: Whether its output is added to the stream, so that it has neurons only if spikes are added.
    """

    name: str
    inputs: Share | None
    outputs: Share
    op: Literal["conv", "linear"] = "linear"
    size: int = 3
    stride: int = 1
    depthwise: bool = False
    groups: int = 1
    reads_stream: bool = False
    ends_branch: bool = False

    @property
    def kernel(self) -> int:
        """Weights per pair of channels."""
        return self.size**2 if self.op == "conv" else 1

    def width(self, share: Share, width: int, spec: Spec) -> int:
        """Return a width in channels, in a stage of this width; the space guarantees that it is a whole number."""
        if isinstance(share, Channels):
            return int(getattr(spec, share)) or width
        return round(width * _share(share, spec))

    def dense_share(self, spec: Spec, width: int) -> float:
        """Return its multiplications per position over ``width ** 2``; not of a layer that sees the images."""
        assert self.inputs is not None
        inputs = 1 / width if self.depthwise else _share(self.inputs, spec)
        return inputs * _share(self.outputs, spec) * self.groups * self.kernel


def _share(share: Share, spec: Spec) -> float:
    return getattr(spec, share) if isinstance(share, str) else share


class BranchPlan:
    """A residual branch of a block: its layers, and the function that runs them.

    Attributes:
        kind: Which branch of a block it is; a row of the table of genes says which one reads a gene first.
        module: Name of its module in a block.
        layers: Its layers, in the order in which they are built.
        fixed_neurons: Names of LIF neurons whose threshold and tau are no genes; see :meth:`extras`.
    """

    kind: ClassVar[Literal["mixer", "mlp"]]
    module: ClassVar[str]
    layers: ClassVar[tuple[Layer, ...]]
    fixed_neurons: ClassVar[tuple[str, ...]] = ()

    def extras(self, layers: Layers) -> Mapping[str, nn.Module]:
        """Return further modules of the branch, by name; :attr:`fixed_neurons` must be among them."""
        return {}

    @property
    def chain(self) -> bool:
        """Whether the branch is its layers one behind the other, and nothing else."""
        return type(self).forward is BranchPlan.forward

    def forward(self, branch: Branch, x_seq: Tensor, arch: Architecture, spec: BlockSpec) -> Tensor:
        """Return what the branch adds to the stream; by default, of its layers one behind the other.

        Args:
            branch: Holds the units, under the names of the layers, and the extras.
            x_seq: Tokens ``[T, N, L, D]`` as the first layer gets them: spikes, or sums of spikes. Convolution
                units take and give maps; see :func:`~spikesearch.nn.functional.to_maps`.
            arch: The architecture that is run.
            spec: The genes of the block.
        """
        return branch.run_layers(x_seq, arch, spec)
