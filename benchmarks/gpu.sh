#!/usr/bin/env bash
# The test suite, the demo in mixed precision, training and operator timings, on a machine that has
# Python, PyTorch with CUDA and torchvision; nothing is downloaded. See benchmarks/README.md.
#
#   benchmarks/gpu.sh [arguments of gpu_train.py, such as --iterations 100]
#
# Environment; paths are relative to the project's root:
#   WHEELS  folder of wheels, installed for the time of this run; skipped where it does not exist
#           (default: .whl)
#   OUT     folder for the table of timings (default: benchmarks/results)
#   SITE    folder the wheels are installed into (default: a temporary one)

# Without -e: a step that fails must not keep the later ones from running.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

if ! python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
    echo 'benchmarks/gpu.sh: python3 has no PyTorch that finds a CUDA device' >&2
    exit 1
fi

WHEELS=${WHEELS:-.whl}
export OUT=${OUT:-benchmarks/results}
export PYTHONPATH=$PWD
failed=0
summary=

# step NAME COMMAND...: run the command and note the outcome for the summary.
step() {
    local name=$1 start=$SECONDS status
    shift
    printf '\n== %s\n' "$name"
    "$@"
    status=$?
    summary+=$(printf '%-24s %-12s %6d s' "$name" \
        "$([ $status = 0 ] && echo passed || echo "failed ($status)")" $((SECONDS - start)))$'\n'
    [ $status = 0 ] || failed=1
}

if [ -d "$WHEELS" ]; then
    if [ -z "${SITE:-}" ]; then
        SITE=$(mktemp -d)
        trap 'rm -rf "$SITE"' EXIT
    fi
    PYTHONPATH=$SITE:$PWD
    # --no-deps: what the machine has already, PyTorch above all, is not among the wheels.
    step 'install wheels' \
        python3 -m pip install -q --no-index --no-deps --target "$SITE" "$WHEELS"/*.whl
fi
# Tables of this run alone.
rm -f "$OUT"/{gpu_train,selective_scan,gated_cnn}.csv "$OUT"/speed_*/speed.csv
rm -rf "$OUT"/comparison_{bf16,fp32,mambas,vim}

# All of it, not only what is marked cuda: runs in the tests take the GPU where there is one.
step 'test suite' python3 -m pytest -p no:cacheprovider
step 'demo, mixed precision' python3 tools/train.py \
    configs/detection/maskrcnn_mambaout_t.py --demo --amp --work-dir "$OUT/demo"
# A process for each, so that memory and a CUDA error of one do not reach the other.
step 'train detection' python3 benchmarks/gpu_train.py --task detection "$@"
step 'train segmentation' python3 benchmarks/gpu_train.py --task segmentation "$@"
step 'selective scan' python3 benchmarks/selective_scan.py --device cuda --rounds 30
step 'Gated CNN branch' python3 benchmarks/gated_cnn.py --device cuda --rounds 30
step 'memory of training' python3 benchmarks/training_memory.py --device cuda
# All forms, compiled and as CUDA graphs too; the sizes and batches of the targets.
forms=(ours timm 'timm channels_last' 'timm compiled' 'ours compiled' 'ours graph' 'timm graph')
for arch in tiny small base; do
    step "speed, $arch, 800x1280" python3 tools/benchmark.py --device cuda --arch $arch \
        --sizes 800x1280 --batch 2 --dtypes bf16 --forms "${forms[@]}" --rounds 20 \
        --out "$OUT/speed_${arch}_800x1280"
    step "speed, $arch, 512x512" python3 tools/benchmark.py --device cuda --arch $arch \
        --sizes 512 --batch 16 --dtypes bf16 --forms "${forms[@]}" --rounds 20 \
        --out "$OUT/speed_${arch}_512x512"
    step "speed, $arch, batch 1" python3 tools/benchmark.py --device cuda --arch $arch \
        --sizes 800x1280 512x2048 --dtypes bf16 --what inference --forms "${forms[@]}" \
        --rounds 30 --out "$OUT/speed_${arch}_batch1"
done
step 'speed, sweep' python3 tools/benchmark.py --device cuda --dtypes bf16 fp32 --rounds 10 \
    --sizes 224 512 800x1280 512x2048 1024 1536 2048 --out "$OUT/speed_sweep"
step 'speed, whole models' python3 tools/benchmark.py --device cuda --dtypes bf16 --batch 2 \
    --models maskrcnn upernet --sizes 800x1280 512 --what forward+backward step \
    --forms ours 'ours channels_last' timm 'timm channels_last' --out "$OUT/speed_whole"
for dtype in bf16 fp32; do
    step "comparison, $dtype" python3 tools/compare.py --device cuda --dtype $dtype --train \
        --budget 240 --out "$OUT/comparison_$dtype"
done
step 'comparison of the visual Mambas' python3 tools/compare.py --device cuda --dtype bf16 \
    --preset mambas --train --budget 240 --out "$OUT/comparison_mambas"
step 'Vim beside DeiT' python3 tools/compare.py --device cuda --dtype bf16 --preset vim --train \
    --sizes 512 640 738 1024 1248 --only growth --budget 240 --out "$OUT/comparison_vim"

printf '\n== summary\n%s' "$summary"
for table in "$OUT"/*.csv "$OUT"/speed_*/speed.csv; do
    [ ! -f "$table" ] || cat "$table"
done
exit $failed
