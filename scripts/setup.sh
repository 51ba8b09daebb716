#!/usr/bin/env bash
# Installs what is missing and says what it does.
#
#   scripts/setup.sh start    what `npm start` needs
#   scripts/setup.sh build    that, and what `npm run build` needs
#   scripts/setup.sh test     that, and what `npm test` needs (the default)
#
# Safe to run again: each step first looks whether its result is there. Tools go to ~/.cache/modelet (or
# $XDG_CACHE_HOME/modelet, or $MODELET_CACHE), so that a second clone finds them. What was found is written to
# .cache/toolchain.env, which the other scripts read. MODELET_WASM_STD=debian takes the distribution's compiler for
# wasm32 even where rustup has the target.
set -euo pipefail
cd "$(dirname "$0")/.."

mode=${1:-test}
cache=${MODELET_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/modelet}
tools=$cache/tools
mkdir -p "$tools" .cache
export PATH="$HOME/.cargo/bin:$PATH"
unset RUSTFLAGS CARGO_ENCODED_RUSTFLAGS RUSTC_WRAPPER 2>/dev/null || true

say() { printf 'setup: %s\n' "$*"; }
have() { command -v "$1" >/dev/null 2>&1; }
stop() {
  printf 'setup: %s\n' "$@" >&2
  exit 1
}

# Runs a long command quietly: one line with its duration, its output only when it fails.
quietly() {
  local what=$1 log status=0 began=$SECONDS
  shift
  log=$(mktemp)
  say "$what ..."
  "$@" >"$log" 2>&1 </dev/null || status=$?
  if [ $status -ne 0 ]; then
    tail -n 40 "$log" >&2
    rm -f "$log"
    printf 'setup: failed after %s s: %s\n' "$((SECONDS - began))" "$what" >&2
    return $status
  fi
  rm -f "$log"
  say "$what: done in $((SECONDS - began)) s"
}

# ---- Debian packages ------------------------------------------------------------------------------------------------

as_root=""
if [ -e /etc/debian_version ] && have apt-get; then
  if [ "$(id -u)" = 0 ]; then
    as_root=env
  elif have sudo && sudo -n true 2>/dev/null; then
    as_root="sudo env"
  fi
fi

apt_updated=""
# Installs Debian packages; fails quietly where this is not Debian or root is out of reach.
apt_install() {
  [ -n "$as_root" ] || return 1
  if [ -z "$apt_updated" ]; then
    quietly "apt-get update" $as_root apt-get update -q || return 1
    apt_updated=yes
  fi
  quietly "apt-get install $*" $as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$@"
}

# ---- what must be there ---------------------------------------------------------------------------------------------

have cargo || stop "Rust is missing. Install it with rustup (https://rustup.rs), then run this again."
have node && have npm || stop "Node.js 20 or later with npm is missing (https://nodejs.org)."
[ "$(node -p 'process.versions.node.split(".")[0] >= 20')" = true ] || stop "Node.js $(node --version) is too old: 20 or later is needed."
wanted_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
rust=$(rustc --version | cut -d' ' -f2)
[ "$(printf '%s\n%s\n' "$wanted_rust" "${rust%%-*}" | sort -V | head -n1)" = "$wanted_rust" ] ||
  stop "Rust $rust is too old: $wanted_rust or later is needed. Run: rustup update stable"
have cc || apt_install gcc libc6-dev || stop "A C compiler (cc) is missing: Rust links with it. Install gcc or clang."

# ---- npm packages ---------------------------------------------------------------------------------------------------

stamp="$(node -p 'process.versions.modules') $(cksum <package-lock.json)"
if [ "$(cat node_modules/.modelet-stamp 2>/dev/null)" = "$stamp" ]; then
  say "npm packages: there"
else
  quietly "npm ci" npm ci --ignore-scripts --no-audit --no-fund
  printf '%s\n' "$stamp" >node_modules/.modelet-stamp
fi

# ---- the wasm32 target ----------------------------------------------------------------------------------------------

has_wasm_std() { command -v "$1" >/dev/null && ls "$("$1" --print target-libdir --target wasm32-unknown-unknown)"/libstd-*.rlib >/dev/null 2>&1; }

wasm_bin=""    # a folder put before PATH for wasm builds only
wasm_linker="" # the linker of that folder's compiler

# Builds the standard library for wasm32 from its sources and copies it to a folder:
#   build_std CARGO RUSTC LINKER FOLDER AS_ROOT CRATES RUSTFLAG...
build_std() {
  local with_cargo=$1 with_rustc=$2 linker=$3 folder=$4 root=$5 crates=$6 crate
  shift 6
  crate=$(mktemp -d)
  mkdir "$crate/src"
  : >"$crate/src/lib.rs"
  printf '[package]\nname = "empty"\nversion = "0.0.0"\nedition = "2021"\n' >"$crate/Cargo.toml"
  (
    cd "$crate"
    export RUSTC=$with_rustc RUSTFLAGS="-Cembed-bitcode=yes $*" RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$crate/target"
    [ -z "$linker" ] || export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker"
    quietly "building std for wasm32 $* with $("$with_rustc" --version | cut -d' ' -f1,2)" \
      "$with_cargo" build --release --target wasm32-unknown-unknown "-Zbuild-std=$crates"
  ) || return 1
  rm "$crate"/target/wasm32-unknown-unknown/release/deps/libempty-*.rlib
  $root mkdir -p "$folder"
  $root cp "$crate"/target/wasm32-unknown-unknown/release/deps/*.rlib "$folder/"
  rm -rf "$crate"
}

# The distribution's compiler can target wasm32 but has no std for it: build it once, and put it where an installed
# target would lie.
debian_wasm_std() {
  local lld libdir
  lld=$(ls /usr/bin/wasm-ld-* 2>/dev/null | sort -V | tail -n1 || true)
  if ! [ -x /usr/bin/rustc ] || ! [ -x /usr/bin/cargo ] || [ -z "$lld" ] || ! [ -d /usr/lib/rustlib/src/rust/library ] && ! has_wasm_std /usr/bin/rustc; then
    [ -n "$as_root" ] || return 1
    apt_install rustc-web cargo-web rust-web-src lld-22 || apt_install rustc-web cargo-web rust-web-src lld-19 || return 1
    lld=$(ls /usr/bin/wasm-ld-* | sort -V | tail -n1)
  fi
  if [ "$mode" = test ] && ! [ -x /usr/bin/cargo-clippy ]; then
    apt_install rust-web-clippy || say "no clippy for the distribution's compiler: the wasm target is not linted"
  fi
  if ! has_wasm_std /usr/bin/rustc; then
    libdir=$(/usr/bin/rustc --print target-libdir --target wasm32-unknown-unknown)
    build_std /usr/bin/cargo /usr/bin/rustc "$lld" "$libdir" "$as_root" std,panic_abort,test || return 1
  fi
  wasm_bin=$tools/debian-rust/bin
  wasm_linker=$lld
  mkdir -p "$wasm_bin"
  for tool in rustc cargo rustdoc cargo-clippy clippy-driver; do
    rm -f "$wasm_bin/$tool"
    [ ! -x "/usr/bin/$tool" ] || ln -s "/usr/bin/$tool" "$wasm_bin/$tool"
  done
}

if [ "${MODELET_WASM_STD:-}" != debian ] && has_wasm_std rustc; then
  say "wasm32 target: there"
elif [ "${MODELET_WASM_STD:-}" != debian ] && have rustup && quietly "rustup target add wasm32-unknown-unknown" rustup target add wasm32-unknown-unknown && has_wasm_std rustc; then
  :
elif debian_wasm_std; then
  say "wasm32 target: $(/usr/bin/rustc --version | cut -d' ' -f1,2) of the distribution"
else
  stop "The wasm32 target is missing. Run: rustup target add wasm32-unknown-unknown" \
    "(or, on Debian as root: apt-get install rustc-web cargo-web rust-web-src lld-22, then run this again)."
fi

# ---- std with atomics, for the builds with threads ------------------------------------------------------------------

# Installed targets come without atomics, so their std is built once into a folder that the compiler takes as its
# sysroot. The sources are a component of rustup's toolchains and a package of Debian.
threads_bin="" threads_linker="" threads_sysroot=""

# threads_std RUSTC CARGO LINKER: sets threads_sysroot to the std of that compiler, building it when it is not there.
threads_std() {
  local sysroot
  sysroot=$tools/wasm-threads-$("$1" -vV | cksum | cut -d' ' -f1)
  if ! ls "$sysroot"/lib/rustlib/wasm32-unknown-unknown/lib/libstd-*.rlib >/dev/null 2>&1; then
    rm -rf "$sysroot" "$sysroot.part"
    build_std "$2" "$1" "$3" "$sysroot.part/lib/rustlib/wasm32-unknown-unknown/lib" "" std,panic_abort \
      -Ctarget-feature=+atomics,+bulk-memory,+mutable-globals,+simd128 || return 1
    mv "$sysroot.part" "$sysroot"
  fi
  threads_sysroot=$sysroot
}
has_rust_src() { [ -d "$("$1" --print sysroot)/lib/rustlib/src/rust/library/std" ]; }

rustup_threads_std() {
  [ -z "$wasm_bin" ] || return 1
  has_rust_src rustc || { have rustup && quietly "rustup component add rust-src" rustup component add rust-src && has_rust_src rustc; } || return 1
  threads_std rustc cargo ""
}
debian_threads_std() {
  local plain=("$wasm_bin" "$wasm_linker")
  debian_wasm_std && { has_rust_src /usr/bin/rustc || apt_install rust-web-src; } || return 1
  threads_bin=$wasm_bin threads_linker=$wasm_linker
  wasm_bin=${plain[0]} wasm_linker=${plain[1]}
  threads_std /usr/bin/rustc /usr/bin/cargo "$threads_linker"
}
if [ "$mode" = start ]; then
  say "std with atomics: not needed to start"
elif ! rustup_threads_std && ! debian_threads_std; then
  say "no std with atomics: the builds with threads are left out (rustup component add rust-src would do)"
fi
[ -z "$threads_sysroot" ] || say "std with atomics: there"

# ---- wasm-bindgen ---------------------------------------------------------------------------------------------------

bindgen=$(sed -n 's/^wasm-bindgen = "=\(.*\)"/\1/p' Cargo.toml | head -n1)
[ -n "$bindgen" ] || stop "Cargo.toml does not pin wasm-bindgen to one exact version."
grep -q "wasm-bindgen-cli = { version = \"=$bindgen\"" scripts/wasm-tools/Cargo.toml ||
  stop "scripts/wasm-tools/Cargo.toml must name wasm-bindgen-cli =$bindgen, as Cargo.toml does."
bindgen_bin=$tools/wasm-bindgen-$bindgen/bin
if "$bindgen_bin/wasm-bindgen" --version >/dev/null 2>&1 && [ -x "$bindgen_bin/wasm-bindgen-test-runner" ]; then
  say "wasm-bindgen $bindgen: there"
else
  quietly "building wasm-bindgen $bindgen" \
    cargo build --release --locked --manifest-path scripts/wasm-tools/Cargo.toml --target-dir "$cache/build"
  mkdir -p "$bindgen_bin"
  cp "$cache"/build/release/wasm-bindgen "$cache"/build/release/wasm-bindgen-test-runner "$bindgen_bin/"
  rm -rf "$cache/build"
fi

chromium="" chromedriver="" wasm_pack_bin="" python=""
if [ "$mode" = test ]; then
  # ---- rustfmt and clippy -------------------------------------------------------------------------------------------
  for component in rustfmt clippy; do
    cargo "${component/rust/}" --version >/dev/null 2>&1 || { have rustup && quietly "rustup component add $component" rustup component add $component; } ||
      stop "$component is missing. Run: rustup component add $component"
  done

  # ---- Chromium, its driver, and a Vulkan driver that needs no GPU ----------------------------------------------------
  find_first() {
    local name
    for name in "$@"; do
      if have "$name"; then
        command -v "$name"
        return
      fi
    done
  }
  find_browser() {
    chromium=${CHROMIUM:-$(find_first chromium chromium-browser google-chrome google-chrome-stable)}
    chromedriver=${CHROMEDRIVER:-$(find_first chromedriver chromium.chromedriver)}
    local mac="/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"
    if [ -z "$chromium" ] && [ -x "$mac" ]; then chromium=$mac; fi
  }
  find_browser
  if [ -z "$chromium" ] || [ -z "$chromedriver" ]; then
    apt_install chromium chromium-driver fonts-dejavu-core ||
      stop "The browser tests need Chromium (or Chrome) and a chromedriver of the same version." \
        "Install both, or name them in the variables CHROMIUM and CHROMEDRIVER, and run this again."
    find_browser
  fi
  say "browser: $chromium"
  # How wasm-bindgen's test runner, and so wasm-pack, starts the browser.
  cat >webdriver.json <<END
{
  "goog:chromeOptions": {
    "binary": "$chromium",
    "args": ["--headless=new", "--no-sandbox", "--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"]
  }
}
END
  if [ -n "$(find /usr/share/vulkan/icd.d /etc/vulkan/icd.d -name '*.json' 2>/dev/null)" ]; then
    say "Vulkan driver: there"
  else
    apt_install mesa-vulkan-drivers libvulkan1 ||
      say "no Vulkan driver found: the native GPU tests will be skipped (Debian: apt-get install mesa-vulkan-drivers)"
  fi

  # ---- wasm-pack, only for `wasm-pack test` --------------------------------------------------------------------------
  wasm_pack=0.15.1
  wasm_pack_bin=$tools/wasm-pack-$wasm_pack/bin
  if [ -x "$wasm_pack_bin/wasm-pack" ]; then
    say "wasm-pack $wasm_pack: there"
  else
    # Compile time matters more than run time for this tool.
    CARGO_PROFILE_RELEASE_OPT_LEVEL=0 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
      quietly "building wasm-pack $wasm_pack" \
      cargo install --locked --version "=$wasm_pack" --root "${wasm_pack_bin%/bin}" --target-dir "$cache/build" wasm-pack
    rm -rf "$cache/build"
  fi

  # ---- Python, only to fetch real models and to compute their reference outputs with ONNX Runtime --------------------
  requirements="onnx==1.23.2 onnxruntime==1.31.1 numpy"
  python=$cache/venv/bin/python
  if [ "$(cat "$cache/venv/.modelet-stamp" 2>/dev/null)" = "$requirements" ] && "$python" -c 'import onnx, onnxruntime' 2>/dev/null; then
    say "Python environment: there"
  else
    python3 -c 'import venv, ensurepip' 2>/dev/null || apt_install python3 python3-venv python3-pip || true
    if python3 -c 'import venv, ensurepip' 2>/dev/null; then
      rm -rf "$cache/venv"
      if quietly "Python environment with $requirements" sh -c "python3 -m venv '$cache/venv' && '$python' -m pip install -q --disable-pip-version-check $requirements"; then
        printf '%s' "$requirements" >"$cache/venv/.modelet-stamp"
      else
        python=""
      fi
    else
      python=""
    fi
    [ -n "$python" ] || say "no Python 3 with venv and $requirements: the tests on real models will be skipped"
  fi
fi

# ---- write down what was found --------------------------------------------------------------------------------------

# A later `setup.sh start` or `build` keeps what an earlier `setup.sh test` found.
if [ "$mode" != test ] && [ -e .cache/toolchain.env ]; then
  . ./.cache/toolchain.env
  [ "$mode" = build ] || { threads_bin=${MODELET_THREADS_RUST_BIN:-} threads_linker=${MODELET_THREADS_LINKER:-} threads_sysroot=${MODELET_THREADS_SYSROOT:-}; }
  chromium=$CHROMIUM chromedriver=$CHROMEDRIVER wasm_pack_bin=$MODELET_WASM_PACK_BIN python=$MODELET_PYTHON
fi
cat >.cache/toolchain.env <<END
# Written by scripts/setup.sh.
MODELET_CACHE='$cache'
MODELET_BINDGEN_BIN='$bindgen_bin'
MODELET_WASM_PACK_BIN='$wasm_pack_bin'
MODELET_WASM_RUST_BIN='$wasm_bin'
MODELET_WASM_LINKER='$wasm_linker'
MODELET_THREADS_RUST_BIN='$threads_bin'
MODELET_THREADS_LINKER='$threads_linker'
MODELET_THREADS_SYSROOT='$threads_sysroot'
MODELET_PYTHON='$python'
CHROMIUM='$chromium'
CHROMEDRIVER='$chromedriver'
END
say "ready ($mode) after $SECONDS s"
