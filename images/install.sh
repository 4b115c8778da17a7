#!/bin/sh
# Installs the packages of a lock file below a folder that the image's last stage copies: install.sh LOCK OUT
#
# It runs in a stage that is thrown away, so whatever the host passes in (its CA bundle, proxies and package indexes,
# as shell assignments in host/env beside this file) is in no layer of the image.
set -eu
lock=$1
out=$2
here=$(dirname "$0")
if [ -f "$here/host/env" ]; then
    . "$here/host/env"
fi
python=${PYTHON:-$(command -v python3 || command -v python)}

export PIP_BREAK_SYSTEM_PACKAGES=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
mkdir -p "$out"
"$python" -m pip install --require-hashes --no-compile --prefer-binary --root "$out" -r "$lock"

# Packages' own test suites are a quarter of their size and of no use in a kernel.
find "$out" -type d -name tests -path '*-packages/*' -prune -exec rm -rf {} +
"$python" "$here/precompile.py" "$out"
command -v python > /dev/null || { mkdir -p "$out/usr/local/bin" && ln -s "$python" "$out/usr/local/bin/python"; }
