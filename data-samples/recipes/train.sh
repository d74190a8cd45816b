#!/usr/bin/env bash
# Trains the models of the data samples from scratch and stores them in half precision:
# all of them, or those named. Takes about five minutes each on two cores.
#
#   data-samples/recipes/train.sh [pivot|wide|market|atlas|sql ...]
set -euo pipefail
cd "$(dirname "$0")/../.."

models=("$@")
[ ${#models[@]} -gt 0 ] || models=(pivot wide market atlas sql)
cargo run --release --example make_data_samples -- --pretrain data-samples/pretrain
for model in "${models[@]}"; do
  folder=data-samples/models/$model
  # Without weights in its folder a model starts from random ones.
  rm -f "$folder/model.safetensors"
  rm -rf "runs/samples-$model"
  cargo run --release -- run "data-samples/recipes/$model.yml"
  config=runs/samples-$model/half.yml
  printf 'merge_method: passthrough\nmodels: [ { model: runs/samples-%s/checkpoints/clm } ]\ndtype: float16\n' \
    "$model" > "$config"
  cargo run --release -- merge "$config" "runs/samples-$model/half" --force
  cp "runs/samples-$model/half/model.safetensors" "$folder/"
done
