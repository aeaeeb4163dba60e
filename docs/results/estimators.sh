#!/usr/bin/env bash
# The estimators compared in full, in parts; a grid goes on where it was interrupted:
#
#   bash docs/results/estimators.sh PART [OUT] [more options of the part's command]
#
#   gradients     level 1: single gradients on problems that can be enumerated, over temperature and cost
#   inside        bias, spread and cosine inside searches of micro: each learning estimator in searches of its own
#   searches      what searches find at equal cost, in micro and in nasbench201 on digits
#   cifar10       short searches on CIFAR-10 that decide, looked up in the published table:
#                 DATA=folder:PATH TABLE=FILE bash ... cifar10
#   tasks         level 2: polynomials, ListOps and auto-encoders of MNIST: MNIST=FOLDER bash ... tasks
#   pictures      those of docs/estimators.md
#
# Methods of equal cost: four draws without a gradient cost about as much as one with it (`python -m
# benchmarks.price`). SEEDS and JOBS change how many searches there are of each, and how many at a time; in cifar10
# FIRST, METHODS and MEASURE change the first seed, what is compared, and how often the gradients are measured.
set -euo pipefail
part=${1:?which part: gradients, inside, searches, cifar10, tasks or pictures}
cd "$(dirname "$0")/../.."
out=${2:-runs/estimators-$part}
python=${PYTHON:-python} seeds=${SEEDS:-8} jobs=${JOBS:-2}

# One exact gradient, four or two draws without one, and the error in place of the loss.
methods=(
  reinmax st gumbel_rao reinmax_beta redge reindge reinmax,draws=4,coupling=systematic
  reinforce_loo reinforce_critic reinforce_critic,draws=2 reinforce_critic,memory=1000 double_cv
  reinforce_loo,architecture_loss=error reinforce_critic,architecture_loss=error
)

case $part in
  gradients) exec "$python" ablate.py gradient --threads 1 --out "$out" "${@:3}" ;;
  inside)
    exec "$python" ablate.py nas --methods reinmax reinforce_critic reinforce_critic,draws=2 \
      reinforce_critic,memory=1000 double_cv --seeds "$seeds" --jobs "$jobs" --measure 4 --out "$out" "${@:3}" ;;
  searches)
    for space in micro nasbench201; do
      "$python" ablate.py nas --space "$space" --methods "${methods[@]}" --seeds "$seeds" --jobs "$jobs" \
        --measure 0 --out "$out/$space" "${@:3}"
    done ;;
  cifar10)
    exec "$python" ablate.py nas --space nasbench201 --dataset "${DATA:?folder:PATH of the images}" \
      --table "${TABLE:?the accuracies of the benchmark}" --first-seed "${FIRST:-4}" \
      --seeds "$seeds" --jobs "$jobs" --methods ${METHODS:-reinmax st st_gumbel gumbel_rao reinforce_loo
        st_gumbel,edge_gradient=surrogate redge reinforce_critic} \
      --measure "${MEASURE:-0}" --zero-cost synflow --out "$out" \
      --search "--image-size 16 --cells 1 --channels 16 --batch-size 64 --lr 0.05 --epochs 8 --warmup-epochs 3
        --evaluate-every 8 --precision float32" "${@:3}" ;;
  tasks)
    exec "$python" ablate.py tasks --data "${MNIST:?folder that holds MNIST/raw}" --seeds "${SEEDS:-5}" --jobs "$jobs" \
      --vae-epochs "${EPOCHS:-20}" --out "$out" "${@:3}" ;;
  pictures) exec "$python" -m studies.estimator_pictures --out "${2:-docs/images/estimators}" "${@:3}" ;;
  *) echo "unknown part '$part'" >&2; exit 2 ;;
esac
