#!/usr/bin/env bash
# Checks that the program compiles for macOS on Apple's chips, Windows and Linux on ARM, without warnings, and runs the
# CPU's operations and the decoders on ARM in an emulator.
#
#   tests/platforms.sh [TARGET ...]       # all three without
#
# Needs rustup and, for the parts in C, what it says if it is missing; on Debian
#   apt install gcc-mingw-w64-x86-64 gcc-aarch64-linux-gnu qemu-user python3-venv
# and zig's C compiler for macOS, which it gets from PyPI. Some ten minutes on two cores the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
arm=aarch64-unknown-linux-gnu
targets=("$@")
[ $# -gt 0 ] || targets=(aarch64-apple-darwin x86_64-pc-windows-gnu $arm)
export CARGO_TARGET_DIR=$PWD/target/platforms
mkdir -p "$CARGO_TARGET_DIR"

need() { # program, what it is in
  command -v "$1" >/dev/null || { echo "$1 is missing: install $2" >&2; exit 2; }
}

zig() { # a C compiler for macOS
  local folder=$CARGO_TARGET_DIR/zig
  [ -x "$folder/bin/python" ] || python3 -m venv "$folder"
  "$folder/bin/python" -c 'import ziglang' 2>/dev/null || "$folder/bin/pip" install -q ziglang
  for tool in cc ar; do
    printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$folder/bin/python" \
      "$([ $tool = cc ] && echo 'cc -target aarch64-macos' || echo ar)" >"$folder/$tool"
    chmod +x "$folder/$tool"
  done
  # Options of the crate `cc` that zig does not know: it has its own words for the target.
  sed -i 's|"\$@"|$(for a in "$@"; do case $a in --target=*\|-arch\|arm64\|-mmacosx-version-min=*) ;; *) printf "%s " "$a";; esac; done)|' "$folder/cc"
  export CC_aarch64_apple_darwin=$folder/cc AR_aarch64_apple_darwin=$folder/ar
}

for target in "${targets[@]}"; do
  rustup target list --installed | grep -qx "$target" || rustup target add "$target"
  case $target in
    aarch64-apple-darwin) zig ;;
    x86_64-pc-windows-gnu) need x86_64-w64-mingw32-gcc gcc-mingw-w64-x86-64 ;;
    "$arm") need aarch64-linux-gnu-gcc gcc-aarch64-linux-gnu ;;
  esac
  echo "checking $target"
  RUSTFLAGS="-D warnings" cargo check --target "$target" --lib --bins --examples
done

case " ${targets[*]} " in *" $arm "*)
  need qemu-aarch64 qemu-user
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
  export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L /usr/aarch64-linux-gnu"
  export CLIP_DISTILL_TENANTS=cpu PROPTEST_CASES=8
  for suite in ops convolutions losses images pictures; do
    cargo test --target $arm --test $suite
  done
  ;;
esac
echo "all targets pass: ${targets[*]}"
