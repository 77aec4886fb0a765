# What a reader does with more than one terminal: servers and endless streams run beside the next command. Sourced by bash; everything
# that was started ends with the shell. Any other command has to succeed, and to end by itself.
set -euo pipefail
started=()
streams=0
trap '((${#started[@]} == 0)) || kill "${started[@]}" 2>/dev/null || true; wait' EXIT

# until_ COMMAND…: waits until the command succeeds; a minute at most.
until_() {
  local deadline=$((SECONDS + 60))
  until "$@"; do
    ((SECONDS < deadline)) || { echo "not in time: $*" >&2; tail -n 5 -- *.log >&2; exit 1; }
    sleep 0.02
  done
}

# server READY COMMAND…: starts a server, and waits until its output has a line with READY.
server() {
  local ready=$1 log
  shift
  log=server-${#started[@]}.log
  command "$@" >"$log" 2>&1 &
  started+=($!)
  until_ grep -q "$ready" "$log"
}

# stream COMMAND…: starts a command that prints events until it is ended. Only once it has printed something does the script go on,
# so that it receives what is published next.
stream() {
  streams=$((streams + 1))
  command "$@" >"stream-$streams.log" 2>&1 &
  started+=($!)
  until_ test -s "stream-$streams.log"
}

# Each stream has received an event.
check_streams() {
  local n
  for ((n = 1; n <= streams; n++)); do until_ grep -q '"topic":' "stream-$n.log"; done
}

curl() {
  case " $* " in
    *" -N "*) stream curl --no-progress-meter "$@" ;;
    *) command curl --no-progress-meter --fail-with-body --max-time 60 "$@" && echo ;;
  esac
}

switchback() {
  case " $* " in
    " subscribe "*" --count "*) command switchback "$@" ;;
    " subscribe "*) stream switchback "$@" ;;
    "  " | " -"* | " serve "*) server 'listens on' switchback "$@" ;;
    *) command switchback "$@" ;;
  esac
}

nats-server() { server 'Server is ready' nats-server "$@"; }

# `cargo run --release -- ARGUMENT…` is the program.
cargo() {
  [ "$1 $2" = 'run --release' ] || { echo "cargo $*: not run here" >&2; return 1; }
  shift 2
  [ "${1:-}" != -- ] || shift
  switchback "$@"
}
