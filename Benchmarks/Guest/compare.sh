# What the comparisons of Apus's own CPU with QEMU's share (run, run-programs). Bash; sourced after
# examples/common.sh, with a folder in $work and seconds in $limit.

unfinished=

# Writes a guest's lines to a file, and when its program's first one came: measure NAME COMMAND...
measure() {
    local name=$1 start=${EPOCHREALTIME/./} line
    shift
    say "$name"
    timeout -k 5 "$limit" "$@" </dev/null 2>"$work/$name.errors" | while IFS= read -r line; do
        line=${line%$'\r'}
        [ "$line" = begin ] && echo $((${EPOCHREALTIME/./} - start)) >"$work/$name.boot"
        printf '%s\n' "$line"
    done >"$work/$name"
    grep -qx end "$work/$name" || {
        tail -n 5 "$work/$name" "$work/$name.errors" >&2
        printf '%s: %s did not finish within %s s; the end of its output is above\n' "${0##*/}" "$name" "$limit" >&2
        unfinished=1
    }
}

# Runs a kernel and an initramfs in both, with arguments of the first process: measure_guests MIB ARGUMENT...
# QEMU's microvm needs to be without ACPI for its serial port to work here, and is left by a restart.
measure_guests() {
    local memory=$1
    shift
    measure qemu qemu-system-x86_64 -accel tcg -cpu max -M microvm,acpi=off,pit=on,rtc=on -m "$memory" -smp 1 \
        -nodefaults -no-user-config -display none -no-reboot -serial stdio -kernel "$CACHE/vmlinuz" \
        -initrd "$work/initramfs" -append "console=ttyS0 reboot=t panic=-1 quiet -- restart $*"
    measure apus "$apus" --accel tcg --memory "${memory}M" --kernel "$CACHE/vmlinuz" \
        --initramfs "$work/initramfs" --cmdline "quiet -- $*"
}

# Prints the table; fails if results differ or a guest did not finish.
print_table() {
    local name
    awk '
        { for (c = 1; c < 4; c++) if (FILENAME == ARGV[c]) column = c }
        NF == 3 && $2 ~ /^[0-9]+$/ && $3 ~ /^[0-9a-f]+$/ {
            if (column == 1) order[++count] = $1
            time[$1, column] = $2; sum[$1, column] = $3
        }
        / differs between turns$/ { print "wrong: " $0; wrong = 1 }
        END {
            print "| load | native ms | QEMU ms | apus ms | QEMU : native | apus : native | apus : QEMU |"
            print "|---|---:|---:|---:|---:|---:|---:|"
            for (i = 1; i <= count; i++) {
                n = order[i]; a = time[n, 1]; q = time[n, 2]; p = time[n, 3]
                for (c = 2; c <= 3; c++)
                    if ((n, c) in sum && sum[n, c] != sum[n, 1]) {
                        wrong = 1; print "wrong: " n ": " sum[n, 1] " natively, " sum[n, c] " in guest " c - 1
                    }
                if (!(a > 0 && q > 0 && p > 0)) continue
                printf "| %s | %.1f | %.1f | %.1f | %.2f | %.2f | %.2f |\n",
                    n, a / 1e3, q / 1e3, p / 1e3, q / a, p / a, p / q
                all++; first += log(q / a); second += log(p / a); third += log(p / q)
            }
            if (all) printf "| geometric mean of %d | | | | %.2f | %.2f | %.2f |\n",
                all, exp(first / all), exp(second / all), exp(third / all)
            exit wrong
        }' "$work/native" "$work/qemu" "$work/apus" || die "results differ"
    for name in qemu apus; do
        [ -e "$work/$name.boot" ] && echo "first user-space line, $name: $(($(cat "$work/$name.boot") / 1000)) ms"
    done
    [ -z "$unfinished" ]
}
