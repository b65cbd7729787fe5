# shellcheck shell=bash
# Docker Engine, podman and containerd, each with its own storage. If an engine cannot run without
# root, no_docker, no_podman or no_containerd has the reason.
# shellcheck disable=SC2034,SC2154 # the files that source this one share their variables

no_docker='' no_podman='' no_containerd=''
if [ "$(id -u)" = 0 ]; then
  dockerd --data-root "$work/dockerd/data" --exec-root "$work/dockerd/exec" -p "$work/dockerd/pid" \
    -H "unix://$work/docker.sock" --iptables=false --ip6tables=false --bridge=none \
    ${dockerd_options[@]+"${dockerd_options[@]}"} \
    >"$work/dockerd.log" 2>&1 &
  dockerd=$!
  stop_docker() {
    kill "$dockerd" && wait "$dockerd"
    umount "$work/dockerd/exec/netns/default" 2>/dev/null || true # stays where a container had the host's network
  }
  on_exit+=(stop_docker)
  export DOCKER_HOST=unix://$work/docker.sock
  for _ in $(seq 150); do ! docker version >/dev/null 2>&1 || break; sleep 0.2; done
  docker version >/dev/null 2>&1 || { tail -5 "$work/dockerd.log" >&2; die "dockerd did not start"; }
else no_docker="Docker Engine needs root" no_containerd="containerd needs root"
fi

containers=(--root "$work/containers" --runroot "$work/containers-run")
# The driver vfs copies layers whole, for file systems that overlay does not support.
for driver in overlay vfs none; do
  ! command podman "${containers[@]}" --storage-driver "$driver" info >"$work/podman.log" 2>&1 || break
  rm -rf "$work"/containers{,-run}
done
containers+=(--storage-driver "$driver")
if [ "$driver" = none ]; then
  [ -n "$no_docker" ] || { cat "$work/podman.log" >&2; die "podman does not run"; }
  no_podman="podman does not run without root here"
fi
podman() { command podman "${containers[@]}" --cgroup-manager cgroupfs --events-backend none --runtime "$(command -v runc)" "$@"; }
buildah() { command buildah "${containers[@]}" "$@"; }
stop_podman() {
  umount "$work/containers/overlay" 2>/dev/null || true
  # Rootless podman stores the layers under other user ids.
  [ "$(id -u)" = 0 ] || command podman unshare rm -rf "$work/containers"
}
on_exit+=(stop_podman)
limits=(--ulimit nofile=1024:1024 --ulimit nproc=1024:1024) # a container host may give less than the default

# Runs COMMAND beside a new containerd, which ctr reaches. The data of containerd is removed at the end.
with_containerd() { # COMMAND...
  containerd --root "$work/ctr/root" --state "$work/ctr/state" --address "$work/ctr.sock" >"$work/containerd.log" 2>&1 &
  local containerd=$! status=0
  for _ in $(seq 100); do [ ! -S "$work/ctr.sock" ] || break; sleep 0.1; done
  "$@" || status=$?
  kill "$containerd"
  wait "$containerd" || true
  rm -rf "$work/ctr"
  return "$status"
}
ctr() { command ctr --address "$work/ctr.sock" "$@"; }
