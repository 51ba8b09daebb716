#!/usr/bin/env bash
# Fuzzes with coverage guidance: the ONNX importer, starting from the fixtures, that of .ort files,
# or models of one node.
#
#   npm run fuzz                            the importer, 10 minutes
#   npm run fuzz -- SECONDS [TARGET]        onnx_import, ort_import or one_node
#
# Needs a nightly toolchain (rustup toolchain install nightly) and a C++ compiler; installs cargo-fuzz.
set -euo pipefail
cd "$(dirname "$0")/.."
export PATH="$HOME/.cargo/bin:$PATH"
seconds=${1:-600}
target=${2:-onnx_import}
rustc +nightly --version >/dev/null 2>&1 || {
  echo "fuzz: a nightly toolchain is missing. Run: rustup toolchain install nightly" >&2
  exit 1
}
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "fuzz: installing cargo-fuzz ..."
  CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off cargo install --quiet --locked cargo-fuzz
fi
corpus=fuzz/corpus/$target
mkdir -p "$corpus"
[ "$target" != onnx_import ] || for model in $(git ls-files 'tests/fixtures/*.onnx' 'tests/*/*.onnx' | sort -u); do
  cp "$model" "$corpus/seed-$(printf '%s' "$model" | tr '/' '-')"
done
[ "$target" != ort_import ] || for model in $(git ls-files 'tests/data/ort/**/model.ort'); do
  cp "$model" "$corpus/seed-$(printf '%s' "$model" | tr '/' '-')"
done
# The operator tests of the onnx Python package make far better seeds; they are used where it is installed.
if [ -e .cache/toolchain.env ]; then . ./.cache/toolchain.env; fi
python=${MODELET_PYTHON:-python3}
if [ "$target" = onnx_import ] && "$python" -c 'import onnx' >/dev/null 2>&1; then "$python" fuzz/make_seeds.py "$corpus"; fi
# A model may ask for no more memory than its length justifies: 2 GB for inputs of at most 1 MB is generous, and 10 s
# for one input is far more than the importer may take.
exec cargo +nightly fuzz run "$target" "$corpus" -- -max_total_time="$seconds" -max_len=1000000 -timeout=10 \
  -rss_limit_mb=2048 -print_final_stats=1
