#!/usr/bin/env bash
# Make the headline table of docs/results.md: data, trainings, measurements, table. What is there already is not made again, and an
# interrupted training goes on. On 2 CPU cores about an hour for each seed.
#
#   recipes/reproduce_results.sh                     all seeds
#   SEEDS=42 recipes/reproduce_results.sh            one seed
#   WRITE=docs/results.md recipes/reproduce_results.sh    also write the table into the page
set -euo pipefail
cd "$(dirname "$0")/.."
SEEDS=${SEEDS:-42 1 2}
PY=${PY:-.venv/bin/python}
ARGS="--dataset_path data --device cpu"
RUNS=output/planes-f16
WEIGHTS=weights/tf_efficientnet_lite0.pth

make .venv/.ready $WEIGHTS data/planes-f16/planes.json
[ -e data/pairs-7/pairs.json ] || $PY -m tools.make_planes --pairs 100 --size 128 --seed 7 --name pairs-7 --out data

# The data set without every fourth class, of links: these are the unknown classes.
for split in train val; do
    mkdir -p data/planes-f16-known/$split
    for folder in $(ls data/planes-f16/$split | awk 'NR % 4'); do
        ln -sfn ../../planes-f16/$split/"$folder" data/planes-f16-known/$split/"$folder"
    done
done

train() { # name, data set, recipe and flags
    local name=$1 dataset=$2
    shift 2
    [ -e "output/$dataset/$name/.finished" ] && return
    $PY main.py "$@" $ARGS --dataset_name "$dataset" --output_sub_dir "$name" --resume auto
    touch "output/$dataset/$name/.finished"
}

measure() { # result, tool, run, flags
    local result=$1 tool=$2 run=$3
    shift 3
    [ -e "$run/$result" ] || $PY -m tools."$tool" --resume "$run/checkpoint.pth" $ARGS "$@"
}

for seed in $SEEDS; do
    start="--seed $seed --backbone_weights $WEIGHTS"
    train detr_seed"$seed" planes-f16 @recipes/demo.args $start
    train additive_seed"$seed" planes-f16 @recipes/additive.args $start
    train bce_seed"$seed" planes-f16 @recipes/additive.args $start --loss bce
    train mosaic_seed"$seed" planes-f16 @recipes/additive.args --seed "$seed" --mosaic 0.5 --epochs 2 --finetune $RUNS/additive_seed"$seed"/checkpoint.pth
    train average3_seed"$seed" planes-f16 @recipes/additive.args $start --decoder average --epochs 3
    train parts_seed"$seed" planes-f16 @recipes/additive.args @recipes/parts.args --seed "$seed" --finetune $RUNS/average3_seed"$seed"/checkpoint.pth
    train known_seed"$seed" planes-f16-known @recipes/additive.args $start --loss bce --epochs 3

    measure attribution_val/attribution.json evaluate_attribution $RUNS/parts_seed"$seed" --dataset_name planes-f16 \
        --images 48 --costly_images 48 --methods additive,contrast --metrics planes,native
    for run in detr additive bce mosaic; do
        maps=$([ $run = detr ] && echo attention,contribution || echo additive,additive_softmax)
        measure grid_val/grid.json grid $RUNS/${run}_seed"$seed" --dataset_name planes-f16 --sizes 3 --grids 60 --methods "$maps"
    done
    measure attribution_val/attribution.json evaluate_attribution $RUNS/mosaic_seed"$seed" --dataset_name planes-f16 \
        --images 100 --methods additive,additive_pixels --metrics pairs,native --pairs data/pairs-7/pairs.json
    measure unknown_val_planes-f16/unknown.json evaluate_unknown output/planes-f16-known/known_seed"$seed" --dataset_name planes-f16
done
$PY -m tools.headline output --seeds $SEEDS ${WRITE:+--write "$WRITE"}
