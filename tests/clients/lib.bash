# shellcheck shell=bash
# Functions of all scripts in this folder: counted checks, servers on free ports that end with the
# script, comparisons of images.
set -euo pipefail

# shellcheck disable=SC2154 # the sourcing script sets it: the project's folder
cd "$project"
PATH=$project/.tools/clients/bin:$PATH:/usr/sbin:/sbin
say() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; }
die() { say "error: $*"; exit 1; }

work=$(mktemp -d)
chmod 711 "$work" # mmdebstrap and rootless podman use the folder under other user ids
# shellcheck disable=SC2034 # the sourcing scripts use it
images=${EYOT_TEST_IMAGES:-$project/target/test-images}
# The clients keep credentials and settings in the work folder instead of the user's home.
export REGISTRY_AUTH_FILE=$work/auth.json DOCKER_CONFIG=$work/docker TMPDIR=$work
mkdir "$DOCKER_CONFIG"
echo "{}" >"$REGISTRY_AUTH_FILE"

on_exit=() # commands without quotes; the last command runs first
cleanup() {
  trap '' INT TERM
  local i
  for ((i = ${#on_exit[@]} - 1; i >= 0; i--)); do ${on_exit[i]} || true; done
  rm -rf --one-file-system "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- checks

passed=0 failed=0 skipped=0
server_log=/dev/null
# Runs COMMAND in a subshell, which ends at the first failure. Prints ok or FAIL.
check() { # NAME COMMAND...
  local name=$1 status=0 from=$SECONDS
  shift
  set +e
  (set -e; "$@") >"$work/check.log" 2>&1
  status=$?
  set -e
  if [ "$status" = 0 ]; then
    printf 'ok %s (%s s)\n' "$name" $((SECONDS - from))
    passed=$((passed + 1))
  else
    printf 'FAIL %s (status %s)\n' "$name" "$status"
    sed 's/^/    /' <(tail -n 30 "$work/check.log")
    sed 's/^/    server: /' <(tail -n 10 "$server_log")
    failed=$((failed + 1))
  fi
}
skip() { # NAME REASON
  printf 'skipped %s: %s\n' "$1" "$2"
  skipped=$((skipped + 1))
}
# Prints the last line in the form of test reports. The status is 0 if all checks passed.
summary() {
  local tail=''
  [ "$skipped" = 0 ] || tail=", $skipped skipped"
  printf '%s passed, %s failed%s\n' "$passed" "$failed" "$tail"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}
equal() { # NAME EXPECTED ACTUAL
  [ "$2" = "$3" ] || { printf '%s: expected %s, got %s\n' "$1" "$2" "$3"; return 1; }
}

# --- servers

server_settings=(auth_mode=none) # the settings that start gives to the server

listens() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; } # PORT
# The ports are below those that systems use for outgoing connections.
free_port() {
  local port
  while port=$((20000 + RANDOM % 12000)); do listens "$port" || { printf '%s' "$port"; return; }; done
}

# Starts an S3 server (SeaweedFS) with an empty bucket for all hosts of a script; s3 is the URL.
s3='' s3_server='' s3_bucket=eyot s3_key=testkey s3_secret=testsecret
start_s3() {
  [ -z "$s3_server" ] || return 0
  local weed=$project/.tools/s3/bin/weed port i deadline=$((SECONDS + 60)) command=()
  [ -x "$weed" ] || die "$weed is missing: run scripts/install/s3-servers"
  # The server needs four ports in a row, and for each of them the port that is higher by 10000.
  while port=$((20000 + RANDOM % 2700)); do
    for i in 0 1 2 3 10000 10001 10002 10003; do ! listens $((port + i)) || continue 2; done
    break
  done
  # With setpriv the server ends also when this script gets SIGKILL.
  [[ $(setpriv --help 2>/dev/null) != *pdeathsig* ]] || command=(setpriv --pdeathsig KILL --)
  command+=("$weed" -logtostderr=true mini "-dir=$work/s3" "-bucket=$s3_bucket" -s3.autoCreateBucket=false
    -ip=127.0.0.1 -ip.bind=127.0.0.1 "-s3.port=$port" "-master.port=$((port + 1))"
    "-volume.port=$((port + 2))" "-filer.port=$((port + 3))"
    -webdav=false -admin.ui=false -s3.port.iceberg=0 -s3.port.lance=0)
  mkdir "$work/s3"
  AWS_ACCESS_KEY_ID=$s3_key AWS_SECRET_ACCESS_KEY=$s3_secret "${command[@]}" >"$work/s3.log" 2>&1 &
  s3_server=$! s3=http://127.0.0.1:$port
  until curl --silent --fail --output /dev/null --max-time 5 --user "$s3_key:$s3_secret" \
    --aws-sigv4 aws:amz:us-east-1:s3 "$s3/$s3_bucket?list-type=2"; do
    kill -0 "$s3_server" 2>/dev/null || { tail "$work/s3.log" >&2; die "the S3 server did not start"; }
    [ "$SECONDS" -lt "$deadline" ] || { tail "$work/s3.log" >&2; die "the S3 server shows no bucket"; }
    sleep 0.1
  done
}
stop_s3() {
  [ -n "$s3_server" ] || return 0
  kill -s KILL "$s3_server" 2>/dev/null || true
  wait "$s3_server" 2>/dev/null || true
  s3_server=''
}
on_exit+=(stop_s3)

# Starts a host and waits for it; sets registry (ADDRESS:PORT) and server (a process id). Settings go
# by the environment, because other users of the machine can read command lines.
# HOST-s3 keeps nothing in DATA: all data is in the bucket, under the folder's name.
start() { # HOST|HOST-s3 DATA [PORT]
  local host=${1%-s3} data=$2 port=${3:-$(free_port)} setting name prefix='' settings=() sets=() environment=()
  if [[ $1 = *-s3 ]]; then
    start_s3
    # The log shows which layers went through the host.
    settings=(keys=s3 blobs=s3 "s3_endpoint=$s3" "s3_bucket=$s3_bucket" "s3_prefix=$(basename "$data")/"
      "s3_access_key_id=$s3_key" "s3_secret_access_key=$s3_secret" log=info)
  fi
  case $host in
    spin-host) prefix=SPIN_VARIABLE_ settings+=(blobs=files) ;; # as `scripts/up --host spin`
    spin-host-packed) prefix=SPIN_VARIABLE_ settings+=(blobs=packed) ;; # as a plain `spin up`
    # scripts/test has built the program in this way, which is quicker than a release.
    native) environment=(CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
      CARGO_PROFILE_RELEASE_OPT_LEVEL=1) ;;
  esac
  for setting in ${settings[@]+"${settings[@]}"} "${server_settings[@]}"; do
    name=${setting%%=*}
    sets+=(--set "$name") environment+=("$prefix${name^^}=${setting#*=}")
  done
  registry=127.0.0.1:$port
  server_log=$work/server-$1.log
  mkdir -p "$data"
  (
    export "${environment[@]}"
    if [[ $host = spin-host* ]]; then
      exec "${EYOT_SPIN_HOST:-tests/spin_host/target/debug/spin-host}" --component target/eyot-spin.wasm \
        --compiled target/eyot-spin.compiled --manifest "${spin_manifest:-spin.toml}" --state "$data/spin" \
        --listen "$registry" --mount "$data::/data"
    fi
    exec scripts/up --host "$host" --port "$port" --data "$data" "${sets[@]}"
  ) >>"$server_log" 2>&1 &
  server=$!
  started=$1
  local deadline=$((SECONDS + 900)) # scripts/up may build first
  until curl --silent --output /dev/null --max-time 5 "http://$registry/v2/"; do
    kill -0 "$server" 2>/dev/null || { cat "$server_log" >&2; die "$1 did not start"; }
    [ "$SECONDS" -lt "$deadline" ] || die "$1 does not answer on $registry"
    sleep 0.2
  done
}
# Ends the server that start started. KILL goes to the host itself, which cannot clean up.
stop() { # TERM|KILL
  [ -n "${server:-}" ] || return 0
  local host_process=
  if [ "$1" = KILL ] && [[ $started != spin-host* ]]; then
    read -r host_process _ <"/proc/$server/task/$server/children" || true
    kill -s KILL -- "-${host_process:?scripts/up has no server}"
  else
    kill -s "$1" "$server" 2>/dev/null || true
  fi
  wait "$server" 2>/dev/null || true
  server=''
  ! listens "${registry#*:}" || die "$started still listens on $registry"
}
on_exit+=('stop TERM')

# --- images

# The digest of the image v1 in an OCI layout.
layout_digest() { jq -r '.manifests[] | select(.annotations["org.opencontainers.image.ref.name"] == "v1").digest' "$1/index.json"; }

# Checks that every blob of a layout has the digest in its name, and that no blob of WANTED is missing.
same_blobs() { # WANTED-LAYOUT GOT-LAYOUT
  (cd "$2/blobs/sha256" && for blob in *; do echo "$blob  $blob"; done | sha256sum --check --quiet)
  local blob
  for blob in "$1"/blobs/sha256/*; do cmp "$blob" "$2/blobs/sha256/${blob##*/}"; done
}

# Prints the digests of an image's layers before compression. A client that compresses the layers
# again keeps these digests.
diff_ids() { # REFERENCE
  crane config "$1" | jq -c .rootfs.diff_ids
}
layout_diff_ids() { # LAYOUT
  local blobs=$1/blobs/sha256 manifest
  manifest=$(layout_digest "$1")
  jq -c .rootfs.diff_ids "$blobs/$(jq -r .config.digest "$blobs/${manifest#sha256:}" | cut -d: -f2)"
}
skopeo() { command skopeo --insecure-policy "$@"; }
