# The unattended part of console-reattach: sourced by it. Comes and goes, and compares what is shown.

attach() {
    coproc READER { exec "$apus" attach --socket "$socket" 2>&1; }
    reader=$READER_PID
    exec {from_guest}<&"${READER[0]}"- {to_guest}>&"${READER[1]}"-
}

# The end of its input ends the reader.
detach() {
    exec {to_guest}>&-
    wait "$reader"
    verdict "the reader's exit code" $? 0
    exec {from_guest}<&-
}

# Reads the guest's lines until one is the text; what was read is left in $shown.
await() {
    local limit=$((SECONDS + $2)) line
    shown=
    while [ $SECONDS -lt $limit ] && IFS= read -r -t 60 line <&"$from_guest"; do
        line=${line%$'\r'}
        printf '    | %s\n' "$line" >&2
        shown+=$line$'\n'
        [ "$line" = "$1" ] && return 0
    done
    return 1
}

# Whether a line was shown.
has() { grep -qxF "$1" <<<"$shown" && echo yes || echo no; }

say "A first reader"
attach
await "apus-guest: ready" 120; verdict "the shell is on the console" $? 0
printf 'tty; echo first $((6 * 7)); (sleep 3; echo; echo later $((7 * 7))) &\n' >&"$to_guest"
await "first 42" 60; verdict "it is hvc0" "$(has /dev/hvc0)" yes
detach

say "Nobody is there while the guest goes on"
sleep 5

say "A second reader is shown what there was"
attach
printf 'echo second $((5 * 5))\n' >&"$to_guest"
await "second 25" 60; verdict "the guest answers" $? 0
verdict "what the first one saw is shown again" "$(has "first 42")" yes
verdict "so is what nobody saw" "$(has "later 49")" yes
detach

say "The console's process is killed"
kill -9 "$(ps -o pid=,args= --ppid $vmm | sed -n 's/^ *\([0-9]*\) apus-console.*/\1/p')"
sleep 1
attach
printf 'echo third $((3 * 3))\n' >&"$to_guest"
await "third 9" 60; verdict "the guest answers" $? 0
printf 'exit\n' >&"$to_guest"
wait $vmm; verdict "the exit code after power-off" $? 0

conclude
