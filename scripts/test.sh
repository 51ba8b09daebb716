#!/usr/bin/env bash
# Installs what is missing, then runs every check of the project and prints a table of them.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
exec node scripts/test.mjs "$@"
