"""What test_distributed.py does in several processes, `python tests/ranks.py CHECK RANK` for each rank."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

import nas  # noqa: F401
from nas import distributed
from nas.bilevel.search import Search
from nas.bilevel.steps import Bilevel
from nas.confusion import Confusion
from nas.distributed import SyncBatchNorm2d, synchronise
from nas.seeding import generator
from nas.training.final import Training
from recipes import FinalOptions, InputError, SearchOptions

SEARCH = SearchOptions(
    space="micro", channels=4, train_limit=160, batch_size=16, epochs=2, warmup_epochs=0,
    momentum=0.0, lr=0.1, sync_batch_norm=True,
)  # fmt: skip
SEARCHES = {
    "reinmax": {},
    "three draws": {"draws": 3, "estimator": "st"},
    "nasbench201": {"space": "nasbench201", "estimator": "st_gumbel"},
    "dense": {"edge_gradient": "dense"},
    "softmax": {"estimator": "softmax"},
    "darts": {"space": "darts", "estimator": "gst", "batch_size": 8, "train_limit": 40},
    "second order": {"order": 2},
    "second order, exact": {"order": 2, "edge_gradient": "dense"},
    "an architecture for each image": {"draw_per": "image"},
    "reinforce": {"estimator": "reinforce", "draws": 2},
    "terms": {"terms": ("entropy:weight=1:2", "uniform_decay:weight=0.5"), "draws": 2},
    "policy and task": {"policy": "uniform", "class_weights": "balanced", "label_smoothing": 0.1},
    "s3": {"space": "s3", "batch_size": 8, "train_limit": 40, "estimator": "st"},
    "critic": {"estimator": "reinforce_critic"},
    "critic of the error": {"estimator": "reinforce_critic", "architecture_loss": "error"},
    "critic for each image": {"estimator": "reinforce_critic", "draw_per": "image"},
    "double control variates": {"estimator": "double_cv"},
    "systematic": {"coupling": "systematic", "draws": 3, "estimator": "st_gumbel"},
    "adversary": {"estimator": "softmax", "policy": "adversarial:epsilon=0.2:0.2,steps=2"},
    "aligned cells": {"estimator": "softmax", "terms": ("alignment:weight=0.2:0.2,epsilon=0.1",)},
    "operations stopped": {"estimator": "softmax", "terms": ("oles:threshold=0.6,comparisons=1",)},
    "reinforce for each image": {"estimator": "reinforce_loo", "draw_per": "image"},
    "partial channels": {"partial_channels": 2, "edge_normalisation": True, "channels": 8, "draws": 2},
    "weights of edges": {"edge_normalisation": True, "estimator": "reinforce_loo", "draw_per": "image"},
}
FINAL = FinalOptions(
    genotype="|nor_conv_3x3~0|+|nor_conv_1x1~0|skip_connect~1|+|none~0|avg_pool_3x3~1|nor_conv_3x3~2|",
    channels=4, train_limit=160, batch_size=16, epochs=2, cutout=3, flip=True, ema_decay=0.9,
    sync_batch_norm=True,
)  # fmt: skip
STEPS = 4


def searched(options: SearchOptions) -> tuple[torch.Tensor, float]:
    """The logits after some steps, those of the edges too, and the validation loss that the ranks saw."""
    search = Search.of(options)
    for step, _ in enumerate(search.epoch(0, 0), 1):
        if step == STEPS:
            break
    loss, _ = search.valid_mean.read()
    distributed.require_agreement(search.state(), "states")
    return learned(search), float(loss)


def learned(search: Search) -> torch.Tensor:
    return torch.cat([leaf.detach().flatten() for leaf in search.architecture.leaves])


def trained(options: FinalOptions) -> tuple[list[torch.Tensor], tuple[float, float]]:
    """Weights and running statistics after some steps, and the test result."""
    training = Training.of(options)
    for step, _ in enumerate(training.epoch(0, 0), 1):
        if step == STEPS:
            break
    tested = training.test_now()
    distributed.require_agreement(training.state(), "states")
    return [t.detach().clone() for t in training.model.state_dict().values() if t.is_floating_point()], tested


def check_equal_runs() -> None:
    """Several ranks find what one process finds with the same batches, to float tolerance."""
    cases = {name: replace(SEARCH, **changes) for name, changes in SEARCHES.items()}
    alone = {name: searched(options) for name, options in cases.items()}
    network, tested = trained(FINAL)
    with distributed.group():
        for name, options in cases.items():
            logits, loss = searched(options)
            moved = (alone[name][0] - searched_start(options)).abs().max()
            assert moved > 0.005, (name, moved)
            assert (logits - alone[name][0]).abs().max() < 2e-3 * moved, (name, logits - alone[name][0])
            assert abs(loss - alone[name][1]) < 1e-4, (name, loss, alone[name][1])
        together, tested_together = trained(FINAL)
        for a, b in zip(network, together, strict=True):
            assert torch.allclose(a, b, rtol=1e-3, atol=1e-4)
        assert abs(tested[0] - tested_together[0]) < 1e-3
        trained(replace(FINAL, sync_batch_norm=False))  # statistics are those of slices, and agree
        trained(replace(FINAL, sync_batch_norm=False, mixup=0.2, auto_augment="rand-m5", clip=0.0))
        searched(replace(SEARCH, sync_batch_norm=False))


def searched_start(options: SearchOptions) -> torch.Tensor:
    return learned(Search.of(options))


def check_own_draws() -> None:
    """With --draw-per rank the estimate is the mean of those that every rank would make by itself."""
    options = replace(SEARCH, sync_batch_norm=False, draw_per="rank", arch_clip=0.0, clip=0.0)
    rank = int(sys.argv[2])
    for estimator in ("st", "reinforce", "reinforce_critic", "double_cv"):
        mine = gradients_alone(replace(options, estimator=estimator), rank)
        with distributed.group():
            search = Search.of(replace(options, estimator=estimator))
            next(iter(search.epoch(0, 0)))
            if estimator == "st":  # the others have one baseline for all
                found = search.architecture.logits.grad
                assert torch.allclose(found, mine[0], atol=1e-7), (found, mine[0])
            touched = [p.grad for p in search.supernet.parameters()]
            assert [g is None for g in touched] == [g is None for g in mine[1]]
            for a, b in zip(touched, mine[1], strict=True):
                assert a is None or torch.allclose(a, b, atol=1e-5)
            assert any(g is None for g in touched)
            distributed.require_agreement(search.state(), "states")
            for _ in search.epoch(0, 1):
                pass
            distributed.require_agreement(search.state(), "states")


def gradients_alone(options: SearchOptions, rank: int) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Means, over two ranks, of what each finds with its own draw on its own slice, in one process."""
    found = []
    for r in range(2):
        search = Search.of(options)
        half = slice(8 * r, 8 * r + 8)
        train, valid = (
            tuple(t[half] for t in next(b)) for b in (search.train.epoch(0), search.valid.endless(0))
        )
        position = (0, r) if r else (0,)
        bilevel: Bilevel = search.bilevel
        before = search.architecture.logits.detach().clone()
        bilevel.architecture_step(valid, train, generator(0, "architecture draw", *position))
        gradient = search.architecture.logits.grad.clone()
        with torch.no_grad():  # all ranks draw the weight step from the logits that all have moved
            search.architecture.logits.copy_(before)
        found.append([gradient, search, train, position])
    search = found[0][1]
    search.architecture.logits.grad = sum(f[0] for f in found) / 2
    search.bilevel.architecture_optimizer = torch.optim.Adam(
        [search.architecture.logits], 0.02, (0.5, 0.999), weight_decay=1e-3
    )
    search.bilevel.architecture_optimizer.step()
    weights = []
    for _, other, train, position in found:
        with torch.no_grad():
            other.architecture.logits.copy_(search.architecture.logits)
        other.bilevel.weight_step(train, generator(0, "weight draw", *position))
        weights.append([p.grad for p in other.supernet.parameters()])
    mean = []
    for a, b in zip(*weights, strict=True):
        known = [g for g in (a, b) if g is not None]
        mean.append(sum(known) / 2 if known else None)
    return found[0][0] / 2 + found[1][0] / 2, mean


def check_operations() -> None:
    """Collective operations, and the normalisation over all ranks."""
    rank = int(sys.argv[2])
    with distributed.group():
        a, b = torch.full((2, 3), float(rank)), torch.tensor(4.0 * rank, dtype=torch.float64)
        distributed.average([a, b])
        assert a.tolist() == [[0.5] * 3] * 2
        assert float(b) == 2.0
        assert distributed.gather(torch.tensor([rank, 7])).tolist() == [0, 7, 1, 7]
        assert distributed.any_of(rank == 1, False, rank == 0) == [True, False, True]
        with distributed.group():  # a group inside a group is the same one, and does not end it
            assert distributed.world() == 2
        assert distributed.gather_texts("ä" * rank) == ["", "ä"]
        assert distributed.broadcast(({"x": [rank, None, "t"]}, True))[0]["x"] == [0, None, "t"]
        assert torch.equal(distributed.broadcast(torch.arange(3) + rank), torch.arange(3))
        confusion = Confusion(3)  # rank 0 has three images, rank 1 none
        confusion.add(*torch.tensor([[0, 1, 1], [2, 1, 1]])[:, : 3 - 3 * rank])
        confusion.sum_over_ranks()
        assert [x.tolist() for x in confusion.counted()] == [[0, 1], [2, 1], [1, 2]]
        parameters = [nn.Parameter(torch.ones(2)) for _ in range(3)]
        parameters[rank].grad = torch.ones(2)
        found = distributed.gradients(parameters, union=True)
        assert [g.tolist() for g in found] == ([[1, 1], [0, 0]] if rank == 0 else [[0, 0], [1, 1]])
        distributed.require_agreement({"a": torch.ones(2), "b": [1, "x"]}, "things")
        for wrong in (torch.ones(2) + 1e-7 * rank, [1, rank], {"a": torch.ones(2 - rank)}):
            with pytest.raises(SystemExit if rank else InputError):
                distributed.require_agreement(wrong, "things")
        with pytest.raises(SystemExit if rank else InputError, match="2" if rank else "on rank 1: no file"):
            fail_on_rank_1(rank)
        for affine, tracked in ((True, True), (False, False)):
            check_normalisation(rank, affine, tracked)


def fail_on_rank_1(rank: int) -> None:
    with distributed.together():
        if rank:
            raise InputError("no file")


def check_normalisation(rank: int, affine: bool, tracked: bool) -> None:
    torch.manual_seed(0)
    whole = nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked).double()
    if affine:
        nn.init.normal_(whole.weight)
        nn.init.normal_(whole.bias)
    shared = nn.Sequential(nn.BatchNorm2d(3, affine=affine, track_running_stats=tracked)).double()
    shared[0].load_state_dict(whole.state_dict())
    synchronise(shared)
    assert type(shared[0]) is SyncBatchNorm2d
    x = (100 + torch.randn(6, 3, 4, 5)).double()
    target = torch.randn(6, 3, 4, 5).double()
    half = slice(3 * rank, 3 * rank + 3)
    results = []
    for module, part in ((whole, slice(0, 6)), (shared, half)):
        z = x[part].clone().requires_grad_()
        y = module(z)
        loss = (y.sin() * target[part]).sum()
        (first,) = torch.autograd.grad(loss, z, create_graph=True)
        (second,) = torch.autograd.grad((first * target[part]).sum(), z, retain_graph=True)
        loss.backward()
        weights = [p.grad for p in module.parameters()]
        results.append((y[half] if part != half else y, first[half] if part != half else first,
                        second[half] if part != half else second, weights))  # fmt: skip
    for a, b in zip(results[0][:3], results[1][:3], strict=True):
        assert torch.allclose(a, b, atol=1e-10), (a - b).abs().max()
    for a, b in zip(results[0][3], results[1][3], strict=True):
        distributed.average([b])
        assert torch.allclose(a / 2, b, atol=1e-10)
    for name, buffer in whole.named_buffers():
        assert torch.allclose(buffer, shared[0].get_buffer(name), atol=1e-10), name
    whole.eval(), shared.eval()
    assert torch.allclose(whole(x), shared(x), atol=1e-10)


if __name__ == "__main__":
    globals()[f"check_{sys.argv[1]}"]()
