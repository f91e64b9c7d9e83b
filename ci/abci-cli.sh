#!/usr/bin/env bash
# Builds CometBFT's own example of an application, which scenarios/mintnet/app-and-core.toml runs beside the chain.
#
#   ci/abci-cli.sh FOLDER       leaves abci-cli-0.38.17 in FOLDER, unless it is there
set -euo pipefail
# The folder of a program that was not found is ".", which is meant by nobody.
[ $# -eq 1 ] && [ -n "$1" ] && [ "$1" != . ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2; exit 2; }
version=0.38.17
[ ! -x "$1/abci-cli-$version" ] || exit 0
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
PATH=$PATH:/usr/local/go/bin GOBIN=$folder CGO_ENABLED=0 go install -trimpath -ldflags "-s -w" \
  "github.com/cometbft/cometbft/abci/cmd/abci-cli@v$version"
mv "$folder/abci-cli" "$1/abci-cli-$version"
