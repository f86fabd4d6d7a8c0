#!/bin/sh
# Builds the module's part in Rust: rust.sh OBJECT FOLDER, with cargo's files in the folder.
#
# Code that the module loader takes: fixed addresses in the upper 2 GiB and no table of offsets,
# which is why the standard library's core is built anew. Options that are not stable yet are
# switched on for this build alone. Frame pointers are for the kernel's backtraces; what must not
# happen, a panic, is an invalid instruction at its place, of which the kernel prints one.
set -e
cd "$(dirname "$0")"
RUSTC_BOOTSTRAP=1
RUSTFLAGS="-Crelocation-model=static -Crelro-level=off -Zplt=yes -Ccode-model=kernel \
-Zfunction-sections=no -Cjump-tables=no -Cforce-unwind-tables=no -Cforce-frame-pointers=yes \
-Zunstable-options -Cpanic=immediate-abort -Zlocation-detail=none"
export RUSTC_BOOTSTRAP RUSTFLAGS
exec cargo rustc --quiet --lib --crate-type staticlib --profile module-small \
	-Zbuild-std=core,alloc --target x86_64-unknown-none --target-dir "$2" -- --emit=obj="$1"
