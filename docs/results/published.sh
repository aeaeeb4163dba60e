#!/usr/bin/env bash
# Published methods side by side, each as a choice of parts (docs/methods.md):
#
#   bash docs/results/published.sh digits [OUT] [more options of ablate.py nas]
#   DATA=folder:PATH TABLE=FILE bash docs/results/published.sh cifar10 [OUT] [more options of ablate.py nas]
#   DATA=folder:PATH TABLE=FILE bash docs/results/published.sh gpu [OUT] [more options of ablate.py nas]
#   bash docs/results/published.sh table [OUT]
#
# digits: all of them at equal sizes, epochs and learning rates in nasbench201 on digits, looked up in the table that
# comes along; two CPU cores. cifar10: the same on images of CIFAR-10, made small, for few epochs. gpu: the authors'
# recipes for nasbench201 on CIFAR-10, four seeds each, one recipe after the other on one card; killed searches go on.
# table: what the recipes that have ended reached, beside what was published.
set -euo pipefail
part=${1:?which part: digits, cifar10, gpu or table}
cd "$(dirname "$0")/../.."
python=${PYTHON:-python} out=${2:-runs/published-$part}
presets=(darts drnas drnas-progressive beta-darts sdarts-rs sdarts-adv lambda-darts darts-minus darts-pt is-darts te-nas zero-cost-pt spos
  fairnas gdas)

dense=softmax,warmup_epochs=0
methods=(
  reinmax "$dense" st_gumbel,warmup_epochs=0 dirichlet,warmup_epochs=0
  "$dense,terms=beta_decay:weight=0:50" "$dense,policy=perturbed" "$dense,policy=adversarial:steps=2"
  "$dense,terms=alignment" "$dense,auxiliary_skip=1:0" "$dense,partial_channels=2,edge_normalisation=true"
  "$dense,derive=perturbation:1" "$dense,terms=oles" "$dense,shrink=shapley" reinmax,shrink=probability
  reinmax,policy=uniform,derive=evolution:EVALUATIONS reinmax,policy=fair,derive=evolution:EVALUATIONS
  sigmoid,warmup_epochs=0,terms=zero_one
)
long=("$dense,policy=dense,shrink=information")  # takes eight epochs at least

case $part in
  digits)
    exec "$python" ablate.py nas --space nasbench201 --out "$out" --first-seed 4 --seeds 4 --measure 0 \
      --methods "${methods[@]/EVALUATIONS/100}" "${long[@]}" "${@:3}" ;;
  cifar10)
    exec "$python" ablate.py nas --space nasbench201 --dataset "${DATA:?folder:PATH of the images, or cifar10}" \
      --table "${TABLE:?the accuracies of the benchmark}" --out "$out" --first-seed 4 --seeds "${SEEDS:-2}" --measure 0 \
      --zero-cost synflow --methods "${methods[@]/EVALUATIONS/20}" \
      --search "--image-size 16 --channels 8 --cells 1 --epochs 3 --warmup-epochs 1 --batch-size 128" "${@:3}" ;;
  gpu)
    for preset in "${presets[@]}"; do
      estimator=$("$python" -c "from recipes import presets; print(presets.SEARCH['nasbench201-$preset'].get('estimator', 'reinmax'))")
      "$python" ablate.py nas --space nasbench201 --dataset "${DATA:?folder:PATH of the images, or cifar10}" \
        --table "${TABLE:?the accuracies of the benchmark}" --methods "$estimator" --seeds 4 --jobs 1 --measure 0 --zero-cost \
        --search "--preset nasbench201-$preset --device cuda" --out "$out/nasbench201-$preset" "${@:3}"
    done ;;
  table) exec "$python" -m studies.published "$out" ;;
  *) echo "unknown part '$part'" >&2; exit 2 ;;
esac
