#!/usr/bin/env bash
# Which methods end in skip connections, in the spaces S1 to S4 of RobustDARTS, on digits and two CPU cores
# (docs/methods.md):
#
#   bash docs/results/collapse.sh [OUT] [more options of ablate.py nas]
#
# Every method has the same sizes, epochs and learning rates; each found cell and eight random ones are trained from
# scratch alike. Finished searches are kept and killed ones go on.
set -euo pipefail
out=${1:-runs/collapse}
cd "$(dirname "$0")/../.."
for space in s2 s4 s1 s3; do
  any=,max_skips=None
  free=(reinmax$any)
  if [ "$space" = s4 ]; then any= free=(); fi  # its cells have no skip connections, but noise
  dense=softmax,warmup_epochs=0$any
  "${PYTHON:-python}" ablate.py nas --space "$space" --dataset digits --evaluate retrain --out "$out/$space" \
    --methods reinmax "${free[@]}" "$dense" "st_gumbel,warmup_epochs=0$any" "dirichlet,warmup_epochs=0$any" \
    "$dense,terms=beta_decay:weight=0:50" "$dense,policy=perturbed" "$dense,auxiliary_skip=1:0" \
    --first-seed 4 --seeds 4 --measure 0 --random-cells 8 \
    --search "--channels 4 --cells 3 --epochs 10 --curvature-every 2" \
    --final "--channels 4 --cells 3 --epochs 6" "${@:2}"
done
