"""A warning before a run whose network does not reduce its images enough, with what it will cost."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from nas.seeding import kept_generators
from search_spaces import SearchSpace
from search_spaces.cell import candidate_parameters
from search_spaces.mixed_edge import Choice
from search_spaces.skeleton import Skeleton

LARGE_MAP = 16  # pixels of the last feature map; those of published networks have 4 to 8


def warn_of_large_images(
    space: SearchSpace, network: Skeleton, shape: Sequence[int], batch_size: int
) -> list[str]:
    """One line where images (C, H, W) are larger than the network is made for, else none."""
    if max(shape[1:]) <= 2 * LARGE_MAP:
        return []
    choice = largest_choice(space, network) if network.is_supernet else None
    network = copy.deepcopy(network).to("meta")
    with kept_generators():
        height, width = last_map(network, shape, choice)
        if max(height, width) <= LARGE_MAP:
            return []
        macs, memory = forward_cost(network, shape, batch_size, choice)
    most = "up to" if network.is_supernet else "about"
    return [
        f"this network of the space '{space.name}' does not reduce large images: of {shape[1]} x {shape[2]} "
        f"pixels {height} x {width} are left in its last feature map. The forward pass of {batch_size} "
        f"images takes {most} {macs / 1e9:,.3g} G multiply-adds and keeps {most} {memory / 1e9:,.2g} GB in "
        "float32. Lower `image_size` or `batch_size`, or choose the space mobile"
    ]


def largest_choice(space: SearchSpace, supernet: Skeleton) -> list[int]:
    """The candidate with most parameters, in every slot."""
    sizes = candidate_parameters(supernet, space.num_slots, space.width)
    return [int(index) for index in sizes.argmax(-1)]


def last_map(network: Skeleton, shape: Sequence[int], choice: list[int] | None) -> tuple[int, int]:
    """Height and width of the last feature map of a network on the meta device.

    Args:
        shape: of an image (C, H, W).
        choice: the candidates of a supernet's slots; None for a derived network.
    """
    with torch.no_grad():
        read = None if choice is None else Choice(None, choice)
        found = network.features(torch.zeros(2, *shape, device="meta"), read)[0]
    return found.shape[-2], found.shape[-1]


def forward_cost(
    network: Skeleton, shape: Sequence[int], images: int, choice: list[int] | None
) -> tuple[int, int]:
    """Multiply-adds of convolutions and linear layers for so many images, and the bytes kept for backward.

    Args:
        network: on the meta device, where nothing is computed.
        shape, choice: see `last_map`.
    """
    kept: dict[int, int] = {}
    weights = {tensor.untyped_storage()._cdata for tensor in network.state_dict().values()}
    alive = []  # so that no two tensors share a storage

    def keep(tensor: Tensor) -> Tensor:
        alive.append(tensor)
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with hooks, FlopCounterMode(display=False) as counter:
        images_of_two = torch.zeros(2, *shape, device="meta")  # a normalisation needs more than one value
        network.train()(images_of_two, *([] if choice is None else [choice]))
    memory = sum(size for storage, size in kept.items() if storage not in weights)
    return int(counter.get_total_flops()) // 4 * images, memory * images // 2
