#!/usr/bin/env bash
# Estimators compared on CIFAR-10 in nasbench201, on a GPU:
#
#   bash docs/results/cifar10.sh DATA TABLE [OUT] [more options of ablate.py nas]
#
# DATA is cifar10 (with torchvision's files in ./data) or folder:PATH, TABLE the benchmark's accuracies as
# CSV or CSV.gz with the columns index, arch, cifar10, cifar100, imagenet16-120. Seven methods with four seeds
# and the 250-epoch recipe; finished searches are kept and killed ones go on, so the same command completes
# the grid in as many sittings as it takes.
set -euo pipefail
data=$1 table=$2 out=${3:-runs/ablation-cifar10}
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" ablate.py nas --space nasbench201 --dataset "$data" --table "$table" --out "$out" \
  --methods reinmax st st_gumbel softmax reinmax,draw_per=image \
  st_gumbel,edge_gradient=surrogate reinmax,edge_gradient=surrogate \
  --seeds 4 --jobs 4 --search "--preset nasbench201-gdas" "${@:4}"
