"""Named recipes: what differs from the defaults, which are the recipe `quick`. `nas presets` lists them."""

from __future__ import annotations

from typing import Any

from recipes.options import FinalOptions, RunOptions, SearchOptions

_QUICK: dict[str, Any] = {}

_DARTS_SEARCH: dict[str, Any] = {
    "space": "darts",
    "estimator": "softmax",
    "epochs": 50,
    "warmup_epochs": 0,
    "batch_size": 64,
    "channels": 16,
    "cells": 8,
    "lr": 0.025,
    "lr_min": 0.001,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 3e-4,
    "arch_lr": 3e-4,
    "arch_weight_decay": 1e-3,
    "arch_clip": 0.0,
    "max_skips": None,
}

# What the code of DrNAS, beta-DARTS and DARTS-PT has in common in NAS-Bench-201.
_DENSE_201: dict[str, Any] = _DARTS_SEARCH | {"space": "nasbench201", "epochs": 100, "cells": 5}
# Single paths in the comparison of PA&DA (Lu et al., 2023, arXiv 2302.14772), by its code.
_PATHS_201: dict[str, Any] = {
    "space": "nasbench201",
    "epochs": 250,
    "warmup_epochs": 250,
    "batch_size": 256,
    "channels": 16,
    "cells": 5,
    "lr": 0.05,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 2.5e-4,
    "evaluate_every": 10,
}

SEARCH: dict[str, dict[str, Any]] = {
    "quick": _QUICK,
    "nasbench201-darts": _DENSE_201 | {"epochs": 50, "weight_decay": 5e-4, "nesterov": True},
    "nasbench201-drnas": _DENSE_201 | {"estimator": "dirichlet"},
    "nasbench201-drnas-progressive": _DENSE_201
    | {
        "estimator": "dirichlet",
        "partial_channels": 2,
        "grow": "partial_channels=4",
        "shrink": "stages:keep=3,freeze=10",
    },
    "nasbench201-beta-darts": _DENSE_201 | {"terms": ("beta_decay:weight=0:50",)},
    "nasbench201-darts-pt": _DENSE_201 | {"derive": "perturbation:5"},
    "nasbench201-sdarts-rs": _DENSE_201 | {"policy": "perturbed:epsilon=0.03:0.3"},
    "nasbench201-darts-minus": _DENSE_201 | {"auxiliary_skip": "1:0"},
    "nasbench201-is-darts": _DENSE_201
    | {
        "epochs": 30,
        "nesterov": True,
        "val_fraction": 0.01,
        "policy": "dense",
        "shrink": "information:every=2",
    },
    "nasbench201-te-nas": _DENSE_201 | {"epochs": 1, "shrink": "te_nas:images=72,repeats=3"},
    "nasbench201-zero-cost-pt": _DENSE_201
    | {
        "epochs": 1,
        "batch_size": 256,
        "shrink": "zero_cost:by=naswot:images=256,proposals=10,batches=100",
    },
    "nasbench201-sdarts-adv": _DENSE_201 | {"policy": "adversarial:epsilon=0.03:0.3,steps=7"},
    "nasbench201-lambda-darts": _DENSE_201
    | {"arch_lr": 1e-4, "terms": ("alignment:weight=0:0.25,epsilon=0.0001",), "alignment_every": 1},
    "nasbench201-spos": _PATHS_201 | {"policy": "uniform", "derive": "evolution:1000"},
    "nasbench201-fairnas": _PATHS_201 | {"policy": "fair", "derive": "evolution:1000"},
    "nasbench201-gdas": {
        "space": "nasbench201",
        "estimator": "st_gumbel",
        "epochs": 250,
        "warmup_epochs": 0,
        "batch_size": 64,
        "channels": 16,
        "cells": 5,
        "lr": 0.025,
        "lr_min": 0.001,
        "momentum": 0.9,
        "weight_decay": 5e-4,
        "arch_lr": 3e-4,
        "arch_weight_decay": 1e-3,
        "arch_clip": 0.0,
        "evaluate_every": 5,
    },
    "nasbench201-halving": {
        "space": "nasbench201",
        "image_size": 16,
        "epochs": 2,
        "warmup_epochs": 1,
        "batch_size": 128,
        "channels": 8,
        "cells": 5,
        "lr": 0.1,
        "val_fraction": 0.2,
        "prior": 2.5,
        "derive": "halving:6,draws=200,by=synflow,epochs=1",
    },
    "darts-first-order": _DARTS_SEARCH,
    "darts-second-order": _DARTS_SEARCH | {"order": 2},
    "darts-darts-minus": _DARTS_SEARCH | {"auxiliary_skip": "1:0"},
    "darts-fairdarts": _DARTS_SEARCH
    | {
        "estimator": "sigmoid",
        "terms": ("zero_one:weight=10",),
        "batch_size": 128,
        "lr": 0.005,
        "arch_lr": 3e-3,
    },
    "darts-shapley": _DARTS_SEARCH
    | {
        "warmup_epochs": 25,
        "batch_size": 256,
        "lr": 0.1,
        "lr_min": 0.0,
        "partial_channels": 4,
        "shrink": "shapley:permutations=10,images=1024,keep_none=false",
    },
    "darts-pc-darts": _DARTS_SEARCH
    | {
        "warmup_epochs": 15,
        "batch_size": 256,
        "lr": 0.1,
        "arch_lr": 6e-4,
        "partial_channels": 4,
        "edge_normalisation": True,
    },
    "darts-p-darts": _DARTS_SEARCH
    | {
        "epochs": 75,
        "batch_size": 96,
        "cells": 17,
        "grow": "cells=5:11",
        "shrink": "stages:keep=5:3,freeze=10,restart=true",
        "skip_dropout": "0.1:0,0.4:0,0.7:0",
        "max_skips": 2,
        "lr_min": 0.0,
        "arch_lr": 6e-4,
        "arch_clip": 5.0,
    },
    "darts-drnas": _DARTS_SEARCH
    | {
        "estimator": "dirichlet",
        "channels": 36,
        "cells": 20,
        "partial_channels": 4,
        "grow": "partial_channels=6",
        "shrink": "stages:keep=4,freeze=10,keep_none=false",
        "lr": 0.1,
        "lr_min": 0.0,
        "arch_lr": 6e-4,
    },
    "darts-oles": _DARTS_SEARCH | {"terms": ("oles:threshold=0.4,comparisons=20",)},
    "s1-darts-es": _DARTS_SEARCH | {"space": "s1", "order": 2, "curvature_every": 2, "stop_curvature": 1.3},
}

FINAL: dict[str, dict[str, Any]] = {
    "quick": _QUICK,
    "nasbench201-200": {
        "space": "nasbench201",
        "epochs": 200,
        "batch_size": 256,
        "channels": 16,
        "cells": 5,
        "optimizer": "sgd",
        "lr": 0.1,
        "lr_min": 0.0,
        "weight_decay": 5e-4,
        "clip": 0.0,
        "evaluate_every": 10,
    },
    "darts-600": {
        "space": "darts",
        "epochs": 600,
        "batch_size": 96,
        "channels": 36,
        "cells": 20,
        "optimizer": "momentum",
        "lr": 0.025,
        "lr_min": 0.0,
        "weight_decay": 3e-4,
        "cutout": 16,
        "drop_path": 0.2,
        "auxiliary_weight": 0.4,
        "evaluate_every": 10,
    },
}

ABOUT = {
    "nasbench201-darts": "Dong & Yang, 2020, arXiv 2001.00326: first-order DARTS in NAS-Bench-201",
    "nasbench201-drnas": "Chen et al., 2021, arXiv 2006.10355: DrNAS, not progressive",
    "nasbench201-drnas-progressive": "the same with partial channels, in two stages",
    "nasbench201-beta-darts": "Ye et al., 2022, arXiv 2203.01665: beta-DARTS",
    "nasbench201-darts-pt": "Wang et al., 2021, arXiv 2108.04392: DARTS-PT",
    "nasbench201-sdarts-rs": "Chen & Hsieh, 2020, arXiv 2002.05283: SDARTS with random perturbations",
    "nasbench201-darts-minus": "Chu et al., 2021, arXiv 2009.01027: DARTS-, with the recipe of the others in "
    "this space: its authors' code has the spaces of DARTS only",
    "nasbench201-is-darts": "He et al., 2024, arXiv 2312.12648: IS-DARTS",
    "nasbench201-te-nas": "Chen et al., 2021, arXiv 2102.11535: TE-NAS, all before the first step",
    "nasbench201-zero-cost-pt": "Xiang et al., 2023, arXiv 2106.06799: Zero-Cost-PT, all before the first "
    "step",
    "nasbench201-sdarts-adv": "Chen & Hsieh, 2020, arXiv 2002.05283: SDARTS with adversarial perturbations",
    "nasbench201-lambda-darts": "Movahedi et al., 2023, arXiv 2210.07998: Lambda-DARTS",
    "nasbench201-spos": "Guo et al., 2020, arXiv 1904.00420: single uniform paths, then evolution",
    "nasbench201-fairnas": "Chu et al., 2021, arXiv 1907.01845: strictly fair paths, then evolution",
    "quick": "the defaults: a small network, trained or searched on a laptop in about a minute",
    "nasbench201-gdas": "Dong & Yang, 2020, arXiv 2001.00326: GDAS in NAS-Bench-201, with the exact "
    "gradient; --edge-gradient surrogate makes it theirs, --estimator reinmax makes it ReinMax",
    "nasbench201-halving": "ours, docs/search-quality.md: a short search for two CPU cores that selects by "
    "short trainings; it makes the images of folder:PATH small",
    "darts-first-order": "Liu et al., 2019, arXiv 1806.09055, appendix A.1: the search of DARTS",
    "darts-second-order": "the same with one unrolled weight step",
    "darts-darts-minus": "Chu et al., 2021, arXiv 2009.01027: DARTS-, by its authors' code, which also has "
    "--space s1 to s4",
    "darts-fairdarts": "Chu et al., 2020, arXiv 1911.12126: FairDARTS, by its authors' code",
    "darts-shapley": "Xiao et al., 2022, arXiv 2206.09811: Shapley-NAS, by its authors' code",
    "darts-pc-darts": "Xu et al., 2020, arXiv 1907.05737: PC-DARTS, by the authors' code",
    "darts-p-darts": "Chen et al., 2019, arXiv 1904.12760: P-DARTS, by the README of its authors' code",
    "darts-drnas": "Chen et al., 2021, arXiv 2006.10355: DrNAS, progressive, by the authors' code",
    "darts-oles": "Jiang et al., 2023, NeurIPS: operation-level early stopping, by the code of PasaLab/oles",
    "s1-darts-es": "Zela et al., 2020, arXiv 1909.09656: DARTS, stopped by the curvature (RobustDARTS)",
    "nasbench201-200": "Dong & Yang, 2020, arXiv 2001.00326: the benchmark's training for 200 epochs",
    "darts-600": "Liu et al., 2019, arXiv 1806.09055, appendix A.2: the training of DARTS on CIFAR-10",
}

# What the method of a preset is reported to reach: accuracy (%) on CIFAR-10, after 200 epochs unless it says
# otherwise, and where.
PUBLISHED = {
    "nasbench201-darts": ("54.30 ± 0.00", "3 seeds, NAS-Bench-201, as the authors of DrNAS quote it"),
    "nasbench201-gdas": ("93.61 ± 0.09", "3 seeds, NAS-Bench-201, as TE-NAS, arXiv 2102.11535, quotes it"),
    "nasbench201-drnas": ("94.36 ± 0.00", "4 seeds, README of xiangning-chen/DrNAS"),
    "nasbench201-beta-darts": ("94.36 ± 0.00", "as later papers quote it"),
    "darts-fairdarts": ("97.46 ± 0.05", "7 searches, 600 epochs each, README of xiaomi-automl/FairDARTS"),
    "nasbench201-is-darts": ("94.36", "as hyper.ai lists it with arXiv 2312.12648"),
    "nasbench201-te-nas": ("93.90 ± 0.47", "4 seeds, arXiv 2102.11535"),
    "nasbench201-lambda-darts": ("94.36 ± 0.00", "as later papers quote it"),
    "nasbench201-darts-pt": ("88.2", "2 seeds, the author in issue 6 of ruocwang/darts-pt"),
    "darts-shapley": ("97.57", "the best of its cells, as Papers with Code lists it with arXiv 2206.09811"),
    "darts-p-darts": ("97.50", "the best of its cells, as TE-NAS, arXiv 2102.11535, quotes it"),
    "darts-drnas": ("97.54 ± 0.03", "README of xiangning-chen/DrNAS"),
    "darts-pc-darts": ("97.43", "its cell after 600 epochs, README of yuhuixu1993/PC-DARTS"),
}

# Of the networks whose accuracies the tables in nas/tables hold: few images and few channels, so that cells
# differ by more than their seeds, with most images left to measure the difference. Without augmentation this
# converges in 84 steps.
TABLES: dict[str, Any] = {
    "dataset": "digits",
    "test_fraction": 0.6,
    "crop_padding": 0,
    "epochs": 6,
    "batch_size": 48,
    "channels": 4,
    "cells": 1,
    "lr": 0.1,
    "clip": 0.0,
}
# Searches on the images that those networks were trained on, and in their size.
TABLES_SEARCH: dict[str, Any] = {
    **{key: TABLES[key] for key in ("test_fraction", "crop_padding", "channels", "cells")},
    "batch_size": 32,
    "epochs": 40,
}


def published(name: str) -> str:
    """What PUBLISHED says of a preset, in words."""
    accuracy, source = PUBLISHED[name]
    return f"{accuracy} % on CIFAR-10 ({source})"


def of(kind: type[RunOptions]) -> dict[str, dict[str, Any]]:
    """The recipes of a kind of run, by name."""
    return {SearchOptions: SEARCH, FinalOptions: FINAL}[kind]
