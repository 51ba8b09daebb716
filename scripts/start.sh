#!/usr/bin/env bash
# Installs what is missing, builds, tries the demo's model on a digit, and serves the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh start
# The demo needs no rare operators.
node scripts/build.mjs --variants simd,relaxed
exec node scripts/serve.mjs "$@"
