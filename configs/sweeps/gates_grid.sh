#!/bin/bash
# gates_grid.yaml without a server: 18 runs one after the other, in runs/gates, compared in the end.
#
#     bash gates_grid.sh
#     bash gates_grid.sh --model.model ./my-gpt2    # options for all runs
set -eu
for gate in TopK HardConcrete; do
    for objective in KL MatchLogitDifference CrossEntropy; do
        for seed in 0 1 2; do
            lightning-circuits fit --config=ioi_gpt2.yaml --config=with/sweep.yaml \
                --trainer.logger.name=gates --trainer.logger.version="$gate-$objective-seed-$seed" \
                --model.gate="$gate" --model.objective="$objective" --model.seed="$seed" "$@"
        done
    done
done
lightning-circuits compare runs/gates/* --pareto
