#!/usr/bin/env bash
# Starts a test cluster by a program that makes one, and gets over a trap of its first run on a fresh machine.
#
#   . "$(ci/cluster.sh PROGRAM [ARGUMENT…])"
#
# PROGRAM prints a file to source as its last line; so does this script. The trap: mmdebstrap takes the format of its output from
# the file's name, so "node-base.tar.new" becomes a directory, and `docker import` then refuses "node-base.tar". Where that has
# happened the directory is packed in its place and PROGRAM runs once more.
set -euo pipefail
[ $# -gt 0 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
cache=${TRIALNET_CLUSTER_CACHE:-$HOME/.cache/trialnet-cluster}
base=$cache/node-base.tar

if told=$("$@"); then
  printf '%s\n' "$told"
  exit 0
fi

# The lock that PROGRAM holds while it works: nobody else may be in the middle of it.
exec 9>"$cache/lock"
flock 9
if [ ! -e "$base" ] && [ -d "$base.new" ]; then
  # A run that was cut off; mmdebstrap does not write into a folder that is not empty.
  rm -rf --one-file-system "$base.new"
elif [ -d "$base" ]; then
  echo "cluster.sh: packing $base, which is a directory" >&2
  tar --one-file-system --exclude='./dev/*' --exclude='./proc/*' --exclude='./sys/*' -C "$base" -cf "$base.packed" .
  rm -rf --one-file-system "$base"
  mv "$base.packed" "$base"
else
  exit 1
fi
exec 9>&-
exec "$@"
