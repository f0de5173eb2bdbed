#!/bin/bash
# rates_bayes.yaml without a server. A loop cannot learn from its runs: the same settings, drawn at random.
#
#     bash rates_bayes.sh                                   # 40 runs, in runs/rates
#     RUNS=4 bash rates_bayes.sh --model.model ./my-gpt2    # options for all runs
set -eu

draw='function between(low, high) { return low * exp(log(high / low) * rand()) }
BEGIN {
    srand(seed); rand()
    printf "%.4f %.5f %.4f %.4f\n", between(0.02, 1), between(0.0005, 0.01), between(0.05, 0.5), between(0.02, 0.5)
}'
for run in $(seq "${RUNS:-40}"); do
    read -r lr low high temperature <<< "$(awk -v seed="$run" "$draw")"
    lightning-circuits fit --config=ioi_gpt2.yaml --config=with/sweep.yaml \
        --trainer.logger.name=rates --trainer.logger.version="$run-lr-$lr-sizes-$low-$high-temperature-$temperature" \
        --model.lr="$lr" --model.gate.sizes.low="$low" --model.gate.sizes.high="$high" \
        --model.gate.final_temperature="$temperature" "$@"
done
lightning-circuits compare runs/rates/* --pareto
