#!/usr/bin/env bash
# NAS-Bench-Macro under a budget of 86 million multiply-adds, on two CPU cores (docs/devices.md):
#
#   bash docs/results/macro.sh DATA OUT SEED...
#
# DATA is folder:PATH with the images of CIFAR-10 as files. Seed 0 is the one that the recipe was tried on.
# Finished searches are kept and killed ones go on.
set -euo pipefail
data=${1:?folder:PATH of the images} out=${2:?folder of the runs}
: "${3:?which seeds}"
cd "$(dirname "$0")/../.."
for seed in "${@:3}"; do
  folder="$out/seed-$seed"
  [ -f "$folder/result.json" ] && continue
  if [ -d "$folder" ]; then
    "${PYTHON:-python}" -m nas search --resume --out "$folder"
    continue
  fi
  "${PYTHON:-python}" -m nas search --space nasbench_macro --dataset "$data" --image-size 16 --train-limit 20000 \
    --val-fraction 0.2 --budget macs=86M --budget-channels 32 --budget-image-size 32 --channels 8 --batch-size 128 \
    --lr 0.1 --epochs 2 --warmup-epochs 1 --prior 1 --precision bfloat16 --threads 1 --no-tensorboard \
    --derive halving:1,draws=400,by=naswot --seed "$seed" --out "$folder"
done
