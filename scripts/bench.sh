#!/usr/bin/env bash
# Measures modelet beside onnxruntime-web and LiteRT.js in headless Chromium: benches/models.mjs says which options there are.
# `npx modelet bench --help` is for single models.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
node scripts/build.mjs
exec node benches/models.mjs "$@"
