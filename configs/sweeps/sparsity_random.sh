#!/bin/bash
# sparsity_random.yaml without a server: draws settings, trains one after the other, compares in the end.
#
#     bash sparsity_random.sh                                   # 24 runs, in runs/sparsity
#     RUNS=4 bash sparsity_random.sh --model.model ./my-gpt2    # options for all runs
set -eu

draw='BEGIN {
    split("0.9 0.95 0.97 0.98 0.99 0.995 0.998", targets, " ")
    srand(seed); rand()
    printf "%s %.3f %.4f\n", targets[1 + int(7 * rand())], 0.4 + 0.4 * rand(), 0.05 * 10 ^ rand()
}'
for run in $(seq "${RUNS:-24}"); do
    read -r target warmup lr <<< "$(awk -v seed="$run" "$draw")"
    lightning-circuits fit --config=ioi_gpt2_hard_concrete.yaml --config=with/sweep.yaml \
        --trainer.logger.name=sparsity --trainer.logger.version="$run-target-$target-warmup-$warmup-lr-$lr" \
        --model.gate.sparsity.target="$target" --model.gate.sparsity.warmup="$warmup" --model.lr="$lr" "$@"
done
lightning-circuits compare runs/sparsity/* --pareto
