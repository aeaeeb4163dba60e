"""Networks of chains in timm's own notation, which timm builds by itself: an EfficientNet with other blocks.

    model = nas.load("runs/mine/model.safetensors")
    arch = arch_of(model.description)
    network = timm_model(arch)
    network.load_state_dict(timm_weights(model, arch))

`timm_code(arch)` is a program that does the last two lines without this package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from timm.layers import get_act_layer
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet
from torch import Tensor, nn

import search_spaces
from recipes import InputError
from search_spaces import Genotype
from search_spaces.chain import ChainSpace
from search_spaces.inverted_residual import BLOCKS, SQUEEZE

TIMM_WEIGHTS = "timm.safetensors"  # beside the program of `timm_code`


@dataclass(frozen=True)
class TimmArch:
    """All that timm needs to build a network; JSON-ready.

    Attributes:
        arch_def: stages of blocks, e.g. [["ds_r1_k3_s1_c16"], ["ir_r1_k5_s2_e3_c24", "ir_r1_k3_s1_e6_c24"]].
        stem_size, stem_stride: channels and stride of the first convolution.
        num_features: channels of the last one.
        act_layer: name of the activation.
        blocks: our name of every block (`blocks.0.2`, or the place in the stem), stage by stage.
    """

    arch_def: list[list[str]]
    stem_size: int
    stem_stride: int
    num_features: int
    act_layer: str
    in_chans: int
    num_classes: int
    blocks: list[list[str]]


def timm_arch(
    genotype: Genotype,
    *,
    channels: int | None = None,
    planned_size: int = 32,
    num_classes: int = 10,
    in_chans: int = 3,
) -> TimmArch:
    """The derived network of a genotype in timm's notation; the arguments are those of its network.

    Raises:
        InputError: timm has no such blocks: the space is none of chains, an identity changes the shape, or
            channels are not a multiple of 8.
    """
    space = search_spaces.get(genotype.space)
    if not isinstance(space, ChainSpace):
        able = [n for n in search_spaces.names() if isinstance(search_spaces.get(n), ChainSpace)]
        raise InputError(
            f"timm has no blocks for networks of the space '{space.name}': give a genotype of "
            f"{' or '.join(able)}"
        )
    layout = space.layout(channels or space.channels, planned_size)
    arch_def, blocks = [], []
    if layout.separable:
        arch_def.append([f"ds_r1_k3_s1_c{layout.stem}"])
        blocks.append(["stem.3.branch"])
    before = layout.stem
    for number, (cell, (width, stride)) in enumerate(
        zip(space.validate(genotype).cells, layout.stages, strict=True)
    ):
        strings, names = [], []
        for i, edge in enumerate(cell.edges):
            shape = (before if i == 0 else width, width, stride if i == 0 else 1)
            if (string := _block(edge.operation, *shape)) is not None:
                strings.append(string)
                residual = shape == (width, width, 1)
                names.append(f"blocks.{number}.{i}{'.branch' * residual}")
        arch_def.append(strings)
        blocks.append(names)
        before = width
    return TimmArch(
        arch_def,
        layout.stem,
        layout.stem_stride,
        layout.features,
        layout.activation,
        in_chans,
        num_classes,
        blocks,
    )


def arch_of(description: Mapping[str, Any]) -> TimmArch:
    """`timm_arch` of a saved network, from its `description`. Raises InputError."""
    size = {name: description[name] for name in ("channels", "num_classes", "in_chans")}
    planned_size = description.get("planned_size", 32)
    return timm_arch(Genotype.from_json(description["genotype"]), planned_size=planned_size, **size)


def _block(operation: str, channels_in: int, channels_out: int, stride: int) -> str | None:
    """timm's string of a block; None for no block."""
    if operation == "identity":
        if (channels_in, stride) != (channels_out, 1):
            raise InputError(
                "timm has no block for an identity that changes the shape, a 1x1 convolution without an "
                "activation: choose another operation for the first block of its stage in `genotype`"
            )
        return None
    block = BLOCKS[operation]
    if channels_in % 8 or channels_out % 8:
        raise InputError(
            f"timm has no block from {channels_in} to {channels_out} channels: choose `channels` such that "
            "all are multiples of 8"
        )
    squeeze = f"_se{SQUEEZE}" if block.squeeze else ""
    return f"ir_r1_k{block.kernel}_s{stride}_e{block.expansion}_c{channels_out}{squeeze}"


def timm_model(arch: TimmArch) -> EfficientNet:
    """The network as timm builds it, with new weights, in evaluation mode."""
    model = EfficientNet(
        decode_arch_def(arch.arch_def),
        num_classes=arch.num_classes,
        num_features=arch.num_features,
        in_chans=arch.in_chans,
        stem_size=arch.stem_size,
        fix_stem=True,
        act_layer=get_act_layer(arch.act_layer),
    )
    if arch.stem_stride == 1:  # timm's is 2
        model.conv_stem.stride = (1, 1)
        for info in model.feature_info:
            info["reduction"] //= 2
    return model.eval()


def timm_code(arch: TimmArch) -> str:
    """A program that builds the network and loads TIMM_WEIGHTS beside it, those of `timm_weights`;
    it needs timm and safetensors only."""
    stages = "\n".join(f"    {json.dumps(stage)}," for stage in arch.arch_def)
    lines = f"""\
from pathlib import Path

from safetensors.torch import load_file
from timm.layers import get_act_layer
from timm.models._efficientnet_builder import decode_arch_def
from timm.models.efficientnet import EfficientNet

ARCH = [
{stages}
]
model = EfficientNet(
    decode_arch_def(ARCH),
    num_classes={arch.num_classes},
    num_features={arch.num_features},
    in_chans={arch.in_chans},
    stem_size={arch.stem_size},
    fix_stem=True,
    act_layer=get_act_layer("{arch.act_layer}"),
)
"""
    if arch.stem_stride == 1:
        lines += """\
model.conv_stem.stride = (1, 1)
for info in model.feature_info:
    info["reduction"] //= 2
"""
    file = f'Path(__file__).parent / "{TIMM_WEIGHTS}"'
    return lines + f"model.load_state_dict(load_file({file}))\nmodel.eval()\n"


def timm_names(arch: TimmArch) -> dict[str, str]:
    """timm's name of every layer with weights, by ours."""
    names = {"stem.0": "conv_stem", "stem.1": "bn1", "last.0": "conv_head", "last.1": "bn2"}
    names["classifier"] = "classifier"
    for s, (strings, ours) in enumerate(zip(arch.arch_def, arch.blocks, strict=True)):
        for i, (string, block) in enumerate(zip(strings, ours, strict=True)):
            for layer, name in enumerate(_layers(string)):
                for inner, renamed in _INNER.get(name, {"": ""}).items():
                    names[f"{block}.{layer}{inner}"] = f"blocks.{s}.{i}.{name}{renamed}"
    return names


_INNER = {"se": {".reduce": ".conv_reduce", ".expand": ".conv_expand"}}
_ACTIVATION = ""  # has no weights


def _layers(string: str) -> list[str]:
    """timm's names of the layers of a block, in our order."""
    if string.startswith("ds"):
        return ["conv_dw", "bn1", _ACTIVATION, "conv_pw", "bn2"]
    squeeze = ["se"] if "_se" in string else []
    return ["conv_pw", "bn1", _ACTIVATION, "conv_dw", "bn2", _ACTIVATION, *squeeze, "conv_pwl", "bn3"]


def timm_weights(network: nn.Module, arch: TimmArch) -> dict[str, Tensor]:
    """The weights and statistics of a derived network, by the names that they have in `timm_model(arch)`."""
    names, found = timm_names(arch), {}
    for key, tensor in network.state_dict().items():
        layer, _, kind = key.rpartition(".")
        found[f"{names[layer]}.{kind}"] = tensor
    return found
