#!/usr/bin/env bash
# Has a checkpoint moved? A step for a pipeline: it inspects two checkpoints on the same texts, compares them, names the
# layers in which BatchNorm's statistics are further apart than LIMIT, and fails with exit code 3 if there are any.
#
# Run: bash examples/gate.sh BEFORE AFTER FILE [LIMIT]
# BEFORE is a model, or a report of an earlier run: if it ends in .json and is not there yet, AFTER's is saved as it.
set -euo pipefail
before=$1 after=$2 file=$3 limit=${4:-0.05}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

normscope inspect "$after" -f "$file" --json -o "$folder/after.json" -q
case $before in
  *.json) [ -e "$before" ] || cp "$folder/after.json" "$before" ;;
  *) normscope inspect "$before" -f "$file" --json -o "$folder/before.json" -q && before=$folder/before.json ;;
esac

drift() { normscope compare "$before" "$folder/after.json" -q "$@"; }
code=0
drift --fail-above "bn_drift.mean=$limit" --fail-above "bn_drift.variance=$limit" || code=$?
[ "$code" -eq 0 ] || [ "$code" -eq 3 ] || exit "$code"

# All numbers are JSON, so that jq can ask anything of them.
command -v jq > /dev/null || exit "$code"
echo
drift --json -o "$folder/drift.json"
# Was every layer understood: does our formula give what the layer gave?
jq -r '"not understood: \([.layers[] | select(.own_error > 1e-3)] | length) layers"' "$folder/after.json"
# Which layer moved most, and by how much?
jq -r '.layers | max_by(.bn_drift.mean) | "moved most: \(.name) by \(.bn_drift.mean)"' "$folder/drift.json"
# How many agree with BatchNorm less than they did?
jq -r '"agree less: \([.layers[] | select(.agreement_change < -0.01)] | length) layers"' "$folder/drift.json"
exit "$code"
