#!/usr/bin/env bash
# The recipe of docs/search-quality.md beside what is found without a search, on two CPU cores:
#
#   bash docs/results/search-quality.sh DATA TABLE [OUT] [more options of ablate.py nas]
#
# DATA is folder:PATH with the images of CIFAR-10 as files, TABLE the benchmark's accuracies as CSV or CSV.gz.
# Seeds 0 to 3 are those that the recipe was tuned on. Finished searches are kept and killed ones go on.
set -euo pipefail
data=$1 table=$2 out=${3:-runs/search-quality}
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python}" ablate.py nas --space nasbench201 --dataset "$data" --table "$table" --out "$out" \
  --methods reinmax --first-seed 4 --seeds 8 --jobs 2 --zero-cost synflow \
  --search "--preset nasbench201-halving --precision bfloat16" "${@:4}"
