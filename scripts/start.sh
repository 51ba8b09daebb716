#!/usr/bin/env bash
# Installs what is missing, builds, tries the demo's model on a digit, and serves the demo.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh build
node scripts/build.mjs
exec node scripts/serve.mjs "$@"
