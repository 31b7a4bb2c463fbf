#!/usr/bin/env bash
# Has the model moved since the baseline was taken? A step for a pipeline: it fails with exit code 3, and names the
# layers, where BatchNorm's statistics of any layer are further than LIMIT from what they were.
#
# Run: bash examples/drift_gate.sh MODEL FILE BASELINE.json [LIMIT]   (the first run writes the baseline)
set -euo pipefail
model=$1 file=$2 baseline=$3 limit=${4:-0.05}

if [ ! -e "$baseline" ]; then
  normscope inspect "$model" -f "$file" --json -o "$baseline" -q
fi
normscope inspect "$model" -f "$file" --json -q |
  normscope compare "$baseline" /dev/stdin --fail-above "bn_drift.mean=$limit" --fail-above "bn_drift.variance=$limit"
