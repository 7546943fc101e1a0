# Steps with a limit each, for gpu.sh, which sources this file. What a step prints stands in the log as it is printed, and
# one that fails, hangs or is cut costs itself alone. The caller sets: log (a file), scratch (a folder of its own), deadline
# (in $SECONDS: no step runs beyond it).

# Children in groups of their own; without it a step in the background would never see SIGINT.
set -m
# Seconds between SIGINT, at which pytest says what it knows, and SIGKILL.
grace=8
# Bytes of one step in the log, so that one that prints without end leaves room for the others.
most=$((1 << 20))
status=0 rc=0 child="" keeper="" failed=() left_out=()

say() { printf '%s\n' "$*" | tee -a "$log"; }

# What comes in goes to the log at once, up to `most` bytes.
keep() {
  local more
  stdbuf -o0 head -c "$most" >> "$log"
  more=$(wc -c)
  ((more == 0)) || printf '\n-- %s further bytes are left out\n' "$more" >> "$log"
}

# The end of what the step printed; a process that it left behind may hold the pipe, and is not waited for.
settle() {
  local tenth
  for tenth in {1..20}; do
    kill -0 "$keeper" 2> /dev/null || return 0
    sleep 0.1
  done
  kill -KILL -- "-$keeper" 2> /dev/null || true
}

# step NAME LIMIT LINES COMMAND [WORD ...]: at most LIMIT seconds; here, the last LINES lines. Leaves the exit status in rc.
step() {
  local name=$1 limit=$2 lines=$3 begin=$SECONDS at room
  shift 3
  rc=0
  room=$((deadline - SECONDS - grace))
  if ((room < 1)); then
    left_out+=("$name") status=1 rc=125
    say "== $name: left out, the time is up"
    return 0
  fi
  ((limit <= room)) || limit=$room
  say "== $name (at most $limit s)"
  at=$(wc -c < "$log")
  [[ -p $scratch/pipe ]] || mkfifo "$scratch/pipe"
  keep < "$scratch/pipe" &
  keeper=$!
  timeout -s INT --kill-after="$grace" "$limit" "$@" > "$scratch/pipe" 2>&1 < /dev/null &
  child=$!
  wait "$child" || rc=$?
  child=""
  settle
  tail -c "+$((at + 1))" "$log" | tail -n "$lines" | cut -c1-240
  case $rc in
    0) ;;
    124 | 137) failed+=("$name: cut after $((SECONDS - begin)) s") status=1 ;;
    *) failed+=("$name: exit status $rc") status=1 ;;
  esac
  ((rc == 0)) || say "-- failed with $rc: $name"
  say "-- $((SECONDS - begin)) s"
}

# Told to stop: the step under way gets the same chance as at its limit.
cut_short() {
  trap '' TERM INT HUP
  if [[ -n $child ]]; then
    kill -INT "$child" 2> /dev/null || true
    local tenth
    for ((tenth = 0; tenth < 10 * grace; tenth++)); do
      kill -0 "$child" 2> /dev/null || break
      sleep 0.1
    done
    kill -KILL -- "-$child" 2> /dev/null || true
    settle
  fi
  say "-- cut by SIG$1 after $SECONDS s; what was measured before stands"
  exit $((128 + $2))
}
trap 'cut_short TERM 15' TERM
trap 'cut_short INT 2' INT
trap 'cut_short HUP 1' HUP

# What went wrong, last, where it is read first.
summary() {
  local each
  for each in "${failed[@]}"; do say "failed: $each"; done
  for each in "${left_out[@]}"; do say "left out: $each"; done
  say "-- $SECONDS s in all"
}
