"""Several processes that do one run: `torchrun train_search.py ...`, `torchrun train_final.py ...`.

Every rank does every step with its slice of the global batch; what it finds is averaged before an optimizer
sees it, so that weights, logits and statistics stay the same on all ranks. In a process that torchrun has not
started, there is one rank, and nothing here does anything.
"""

from __future__ import annotations

from nas.distributed.agreement import agreed, one_first, require_agreement, together
from nas.distributed.collectives import (
    any_of,
    average,
    broadcast,
    gather,
    gather_texts,
    gradients,
    mean_with_graph,
)
from nas.distributed.processes import group, is_loss, is_restarted, job, local_rank, rank, world
from nas.distributed.sync_norm import SyncBatchNorm2d, synchronise

__all__ = [
    "SyncBatchNorm2d", "agreed", "any_of", "average", "broadcast", "gather", "gather_texts", "gradients",
    "group", "is_loss", "is_restarted", "job", "local_rank", "mean_with_graph", "one_first", "rank",
    "require_agreement", "synchronise", "together", "world",
]  # fmt: skip
