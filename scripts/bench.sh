#!/usr/bin/env bash
# Measures modelet beside onnxruntime-web in headless Chromium, on the models that every release must run.
#
#   npm run bench                          those models on the CPU
#   npm run bench -- OPTIONS MODEL...      what `modelet bench --help` says
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
node scripts/build.mjs
. ./.cache/toolchain.env
export CHROME_PATH=$CHROMIUM
if [ $# -gt 0 ]; then
  exec node pkg/cli.js bench "$@"
fi
mapfile -t cases < <(node tests/fixtures/make_cases.mjs && node tests/models/prepare.mjs)
exec node pkg/cli.js bench --browser --device cpu --vs onnxruntime-web "${cases[@]}"
