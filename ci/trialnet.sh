#!/usr/bin/env bash
# Runs scenarios as a CI job does, and says where the evidence is.
#
#   ci/trialnet.sh [--backend local|kubernetes] [--run-dir DIR] [OPTION OF `trialnet run`…] FILE…
#
# Exit code: that of `trialnet run` (0 passed, 100 failed, 102 inconclusive, 96 infrastructure, 94 invalid file). The last lines name
# every junit.xml, whatever the verdicts. DIR (default: trialnet-run) must not exist or be empty; one folder in it for each file holds
# verdict.json, junit.xml, records and logs. $TRIALNET is the program, if it is not on PATH.
# On kubernetes the cluster is the current context of kubectl, which has to be a local one (kind, minikube).
set -uo pipefail
program=${TRIALNET:-trialnet}
folder=trialnet-run
arguments=()
while [ $# -gt 0 ]; do
  case $1 in
    --run-dir) folder=${2:?"--run-dir takes a folder"}; shift 2 ;;
    --run-dir=*) folder=${1#*=}; shift ;;
    -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
    *) arguments+=("$1"); shift ;;
  esac
done

"$program" run --run-dir "$folder" "${arguments[@]}"
code=$?

reports=$(find "$folder" -name junit.xml 2>/dev/null | sort)
if [ -z "$reports" ]; then
  echo "trialnet.sh: no junit.xml below $folder" >&2
  [ $code -ne 0 ] || code=1
else
  printf 'junit: %s\n' $reports
fi
exit $code
