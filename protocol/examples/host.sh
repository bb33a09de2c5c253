#!/usr/bin/env bash
# A host in bash and jq: bash host.sh FOLDER [COMMAND …]
set -euo pipefail
folder=$1
shift
[ $# -gt 0 ] || set -- locara-sidecar serve
coproc SIDECAR { exec "$@"; }
pid=$SIDECAR_PID # bash forgets it when the sidecar ends
exec 3<&"${SIDECAR[0]}" 4>&"${SIDECAR[1]}"

manifest='{"schema": "locara/v1", "name": "example", "publisher": "example", "version": "1.0.0",
  "modalities": ["text-to-image"], "capabilities": {"models": ["pocket"], "fs": {"user-folder": "write"}}}'
prompt="a large yellow star in the center of a blue background"

# send ID METHOD PARAMS: with an empty ID it is a notification
send() {
  jq -nc --arg id "$1" --arg method "$2" --argjson params "$3" \
    '{jsonrpc: "2.0"} + (if $id == "" then {} else {id: ($id | tonumber)} end) + {method: $method, params: $params}' >&4
}
# generate ID CHANNEL OPTIONS
generate() {
  send "$1" image.generate "$(jq -nc --arg p "$prompt" --argjson c "$2" --argjson o "$3" \
    '{prompt: $p, channel: $c, options: $o}')"
}

send 1 initialize "$(jq -nc --argjson manifest "$manifest" --arg folder "$folder" \
  '{protocolVersion: 1, clientInfo: {name: "example", version: "1.0.0"}, $manifest, grants: {"user-folder": $folder}}')"

while IFS= read -r line <&3; do
  # its kind, and the values to show, as words
  said=$(jq -r 'if .params.message then .params as {$channel, $message} | $message |
      select(.phase == "denoising" and .step > 0) | "step \($channel) \(.step) \(.steps) \(.preview.data // "")"
    elif .id then "answer \(.id) \(.result.images[0].path? // "") \(.error.data.kind // "") \(.error.data.path // "")"
    else empty end' <<<"$line")
  read -r what number rest <<<"$said"
  read -r step steps preview <<<"$rest"
  case "$what $number" in
    "step 1") echo "step $step of $steps, preview of $(base64 -d <<<"$preview" | wc -c | tr -d ' ') bytes" ;;
    "step 2") [ "$step" != 1 ] || send "" '$/cancelRequest' '{"id": 3}' ;;
    "answer 1") generate 2 1 '{"steps": 4, "output": {"path": "star.png"}}' ;;
    "answer 2") echo "saved $rest" && generate 3 2 '{"steps": 200}' ;;
    "answer 3") echo "cancelled: $rest" && generate 4 null '{"steps": 0}' ;;
    "answer 4") echo "error: ${rest/ / at }" && break ;;
  esac
done
exec 4>&- # the end of its stdin ends the sidecar
eval "exec ${SIDECAR[1]}>&-"
wait "$pid"
