# The unattended part of quickstart: sourced by it. Boots, runs commands in the guest through its
# serial port, and compares what the guest printed.

disk=$CACHE/check.ext4
make_disk "$disk" 256M
version=$(readlink "$CACHE/vmlinuz")
version=${version##*/vmlinuz-}

# Starts the VMM with the guest's serial port on $to_guest and $from_guest; its id is $vmm.
start() {
    coproc VMM { boot "$disk" 2>&1; }
    vmm=$VMM_PID
    exec {from_guest}<&"${VMM[0]}" {to_guest}>&"${VMM[1]}"
}

stop_reading() { exec {from_guest}<&- {to_guest}>&-; }

# Reads the guest's lines until one holds the text; the line is left in $line.
await() {
    local limit=$((SECONDS + $2))
    while [ $SECONDS -lt $limit ] && IFS= read -r -t 60 line <&"$from_guest"; do
        line=${line%$'\r'}
        printf '    | %s\n' "$line" >&2
        case $line in *"$1"*) return 0 ;; esac
    done
    line=
    return 1
}

# Runs a command in the guest; what it prints is left in $answer.
ask() {
    answer=
    printf 'echo "<$(%s)>"\n' "$1" >&"$to_guest" 2>/dev/null
    # The command's echo has the form <$(...)>, the answer does not.
    while await '<' 60; do
        case $line in
        *'<$('*) ;;
        *) answer=${line##*<}; answer=${answer%%>*}; return ;;
        esac
    done
}

say "Booting Debian's kernel $version"
start
if await "apus-guest: ready" 120; then
    # The shell wraps what it echoes at the terminal's width.
    printf 'stty cols 500\n' >&"$to_guest"
    ask "uname -r"; verdict "the kernel's release" "$answer" "$version"
    ask "uname -v | grep -c Debian"; verdict "the kernel is Debian's" "$answer" 1
    ask "grep -c '^/dev/vda / ext4 ' /proc/mounts"; verdict "/ is ext4 on /dev/vda" "$answer" 1
    ask "echo hello > /root/file; sync; wc -c < /root/file"; verdict "a file is written" "$answer" 6
    verdict "the disk's process" "$(ps -o args= --ppid "$vmm" | grep -o '^apus-block')" apus-block
    printf 'exit\n' >&"$to_guest"
    while await "" 60; do :; done
    wait "$vmm"; verdict "the exit code after power-off" $? 0
    verdict "the file on the disk" "$(debugfs -R 'cat /root/file' "$disk" 2>/dev/null)" hello
    e2fsck -fn "$disk" >/dev/null 2>&1; verdict "e2fsck on the disk" $? 0
else
    failures=$((failures + 1))
    printf 'wrong: the guest did not get to its shell\n' >&2
    kill -9 "$vmm" 2>/dev/null
fi

stop_reading

say "Killing a running VMM"
start
await "apus-guest: ready" 120
# The disk's process, and the launcher that starts it.
children=$(ps -o pid= --ppid "$vmm")
kill -9 "$vmm"
wait "$vmm" 2>/dev/null
# Prints those of the processes that still run. A zombie is gone; it only waits for whoever looks
# after orphans here.
still_there() {
    local process
    for process in "$@"; do
        grep -qs '^State:.[^Z]' "/proc/$process/status" && echo "$process"
    done
}
for _ in $(seq 50); do [ -n "$(still_there $children)" ] && sleep 0.1; done
left=$(still_there $children)
[ -n "$children" ] || left="(there was no disk process)"
verdict "processes left after kill -9" "${left:-none}" none

conclude
