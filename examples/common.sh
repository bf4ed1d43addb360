# What the examples and the tests share: packages, the release build, and the guest that they boot
# (Debian's kernel, an initramfs and a root disk). Bash; sourced with the current directory at the
# top of the repository.

CACHE=${APUS_GUEST:-.build/guest}

# Debian keeps depmod, mke2fs and e2fsck out of the path of users that are not root.
export PATH=$PATH:/usr/sbin:/sbin

# The Swift toolchain's own needs come first: it does not even start without some of them.
BUILD_PACKAGES=(binutils git libcurl4 libgcc-12-dev libncurses6 libstdc++-12-dev libxml2 libc6-dev
    libglib2.0-dev libaio-dev liburing-dev libnuma-dev zlib1g-dev libzstd-dev liblz4-dev
    liblzma-dev libseccomp-dev libcap-ng-dev libjansson-dev pkg-config)
GUEST_PACKAGES=(cpio e2fsprogs kmod procps)

# Bold at a terminal.
say() {
    local arrow='==>'
    [ ! -t 2 ] || arrow=$'\033[1m==>\033[0m'
    printf '%s %s\n' "$arrow" "$*" >&2
}
die() { printf '%s: %s\n' "${0##*/}" "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# The package lists are fetched at most once in a run, and only if something is needed.
APT_IS_FRESH=
apt_update() {
    if [ -z "$APT_IS_FRESH" ]; then
        say "Updating the list of Debian packages"
        as_root apt-get update -qq || die "apt-get update failed"
        APT_IS_FRESH=1
    fi
}

# Installs those of the named packages that are missing.
need_packages() {
    local missing=() package
    for package in "$@"; do
        case $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) in
        "install ok installed") ;;
        *) missing+=("$package") ;;
        esac
    done
    [ ${#missing[@]} = 0 ] && return
    apt_update
    say "Installing ${missing[*]}"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null ||
        die "these packages could not be installed: ${missing[*]}"
}

# SwiftPM leaves some folders in the temporary directory each time, and its locks, which must be the
# same for all that build here.
run_swift() {
    local folder=$PWD/.build/tmp status
    mkdir -p "$folder"
    TMPDIR=$folder swift "$@"
    status=$?
    rm -rf "$folder"/TemporaryDirectory.*
    return $status
}

# Builds the executable; its path is .build/release/apus. Nothing happens if nothing has changed:
# even then SwiftPM would take seconds to find out.
build_release() {
    local stamp=.build/release-built
    [ -x .build/release/apus ] && [ -e "$stamp" ] &&
        [ -z "$(find Package.swift Sources -newer "$stamp" -print -quit)" ] && return
    command -v swift >/dev/null ||
        die "the Swift toolchain (6.2 or newer) is needed; see https://www.swift.org/install"
    say "Building apus (release)"
    mkdir -p .build
    touch "$stamp.new"
    run_swift build -c release --disable-local-rpath --product apus >&2 || die "the build failed"
    mv "$stamp.new" "$stamp"
}

# Downloads a Debian package and unpacks it into a folder; nothing is installed.
unpack_package() {
    local package=$1 folder=$2 work
    work=$(mktemp -d)
    chmod 755 "$work"
    (cd "$work" && apt-get download -qq "$package" 2>/dev/null) ||
        { apt_update; (cd "$work" && apt-get download -qq "$package"); } ||
        die "the package $package could not be downloaded"
    mkdir -p "$folder"
    dpkg-deb -x "$work"/*.deb "$folder" || die "the package $package could not be unpacked"
    rm -r "$work"
}

# Debian's kernel for virtual machines, unmodified: $CACHE/vmlinuz and $CACHE/modules.
fetch_kernel() {
    [ -e "$CACHE/vmlinuz" ] && return
    local package version
    package=$(apt-cache depends linux-image-cloud-amd64 2>/dev/null |
        sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    if [ -z "$package" ]; then
        apt_update
        package=$(apt-cache depends linux-image-cloud-amd64 |
            sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
    fi
    [ -n "$package" ] || die "apt knows no linux-image-cloud-amd64; is this Debian?"
    say "Fetching Debian's kernel ($package)"
    rm -rf "$CACHE/kernel"
    unpack_package "$package" "$CACHE/kernel"
    version=${package#linux-image-}
    depmod -b "$CACHE/kernel" "$version" || die "depmod failed"
    ln -sfn "kernel/lib/modules/$version" "$CACHE/modules"
    ln -sfn "kernel/boot/vmlinuz-$version" "$CACHE/vmlinuz"
}

fetch_busybox() {
    [ -e "$CACHE/busybox" ] && return
    say "Fetching busybox"
    rm -rf "$CACHE/busybox.d"
    unpack_package busybox-static "$CACHE/busybox.d"
    cp "$CACHE/busybox.d/bin/busybox" "$CACHE/busybox"
}

# Prints the module files that the named modules need, in the order in which they load.
module_order() {
    awk -F ': *' '
        { count = split($2, parts, " "); name = $1; sub(/.*\//, "", name); sub(/\.ko.*/, "", name)
          file[name] = $1; needs[name] = count
          for (i = 1; i <= count; i++) need[name, i] = parts[i] }
        function load(name,   i, other) {
            if (name in done) return
            done[name] = 1
            for (i = 1; i <= needs[name]; i++) {
                other = need[name, i]; sub(/.*\//, "", other); sub(/\.ko.*/, "", other)
                load(other)
            }
            print file[name]
        }
        END { for (i = 1; i < ARGC; i++) if (ARGV[i] in file) load(ARGV[i])
              count = split(wanted, list, " ")
              for (i = 1; i <= count; i++) if (list[i] in file) load(list[i]) }
    ' wanted="$*" "$CACHE/modules/modules.dep"
}

# Copies modules that are not there yet, and lists them: add_modules FOLDER LIST MODULE...
add_modules() {
    local folder=$1 list=$2 module
    shift 2
    module_order "$@" | while read -r module; do
        [ -e "$folder/${module##*/}" ] && continue
        cp "$CACHE/modules/$module" "$folder/"
        echo "${module##*/}" >>"$folder/$list"
    done
}

# The first user space: loads the virtio drivers and enters the root disk. $CACHE/initramfs
make_initramfs() {
    [ "$CACHE/initramfs" -nt examples/guest/initramfs-init ] &&
        [ "$CACHE/initramfs" -nt examples/common.sh ] && return
    say "Making the initramfs"
    local root=$CACHE/initramfs.d
    rm -rf "$root"
    mkdir -p "$root"/{bin,dev,proc,root,modules}
    cp "$CACHE/busybox" "$root/bin/busybox"
    ln -s busybox "$root/bin/sh"
    install -m 755 examples/guest/initramfs-init "$root/init"
    add_modules "$root/modules" order virtio_pci virtio_blk pvpanic-pci pvpanic-mmio
    # Only for those who have their console or their root there.
    add_modules "$root/modules" console virtio_console
    add_modules "$root/modules" virtiofs virtiofs
    (cd "$root" && find . | LC_ALL=C sort | cpio --quiet -o -H newc -R 0:0) >"$CACHE/initramfs.new" ||
        die "the initramfs could not be made"
    mv "$CACHE/initramfs.new" "$CACHE/initramfs"
}

# What root disks are made from: a busybox user space. $CACHE/root.d
make_root() {
    local root=$CACHE/root.d applet version module
    [ -e "$root/sbin/init" ] &&
        [ -z "$(find examples/common.sh examples/guest -newer "$root/sbin/init" -print -quit)" ] && return
    rm -rf "$root"
    mkdir -p "$root"/{bin,sbin,dev,proc,sys,run,tmp,root,etc}
    cp "$CACHE/busybox" "$root/bin/busybox"
    for applet in $("$CACHE/busybox" --list); do
        case $applet in busybox | init | linuxrc) ;; *) ln -s busybox "$root/bin/$applet" ;; esac
    done
    # Drivers that modprobe loads when somebody wants them.
    version=$(basename "$(readlink "$CACHE/modules")")
    module_order virtio-rng virtio_net virtio_console virtiofs vmw_vsock_virtio_transport |
        while read -r module; do
            install -D -m 644 "$CACHE/modules/$module" "$root/lib/modules/$version/$module"
        done
    # It misses lists that a whole set of modules would have.
    depmod -b "$root" "$version" 2>/dev/null || die "depmod failed"
    cp examples/guest/profile "$root/etc/profile"
    install -D -m 755 examples/guest/dhcp "$root/etc/udhcpc/default.script"
    echo 'root:x:0:0:root:/root:/bin/sh' >"$root/etc/passwd"
    install -m 755 examples/guest/root-init "$root/sbin/init"
}

# Makes a root disk: make_disk FILE SIZE [FOLDER], with what is in the folder if there is one.
make_disk() {
    local root=$CACHE/root.d
    rm -rf "$1.new" "$1.d"
    if [ $# -gt 2 ]; then
        root=$1.d
        { cp -a "$CACHE/root.d" "$root" && cp -a "$3/." "$root"; } || die "no files for the disk"
    fi
    mke2fs -q -t ext4 -L apus -E root_owner=0:0,lazy_itable_init=0 -d "$root" "$1.new" \
        "$2" >/dev/null || die "the root disk could not be made"
    rm -rf "$1.d"
    mv "$1.new" "$1"
}

# Debian's guest agent for QEMU and the libraries it needs, for a guest: $CACHE/agent.d
fetch_agent() {
    [ -e "$CACHE/agent.d" ] && return
    say "Fetching the guest agent"
    local all=$CACHE/agent.all new=$CACHE/agent.new package name file
    rm -rf "$all" "$new"
    for package in qemu-guest-agent libc6 libglib2.0-0 libpcre2-8-0 libnuma1 libudev1 liburing2; do
        unpack_package $package "$all"
    done
    install -D "$all/usr/sbin/qemu-ga" "$new/usr/sbin/qemu-ga"
    install -D "$all/lib64/ld-linux-x86-64.so.2" "$new/lib64/ld-linux-x86-64.so.2"
    for name in libudev.so.1 libnuma.so.1 liburing.so.2 libglib-2.0.so.0 libgmodule-2.0.so.0 \
        libm.so.6 libc.so.6 libpcre2-8.so.0; do
        file=$(find "$all" -name "$name" | head -n 1)
        install -D "$file" "$new/lib/x86_64-linux-gnu/$name" || die "the agent needs $name"
    done
    rm -rf "$all"
    mv "$new" "$CACHE/agent.d"
}

# A QEMU that can migrate shared folders (8.2 or newer), from Debian's backports, beside the one that is
# installed: $CACHE/qemu/qemu-system-x86_64. Fails where the network does not offer it.
fetch_new_qemu() {
    [ -x "$CACHE/qemu/qemu-system-x86_64" ] && return
    dpkg --compare-versions "$(dpkg-query -W -f '${Version}' qemu-system-x86)" ge 1:8.2 && return
    local folder new root site options package
    folder=$(realpath "$CACHE")
    new=$folder/qemu.new
    root=$folder/qemu/root
    site=$(apt-get indextargets --format '$(REPO_URI)' 'Component: main' | head -n 1)
    rm -rf "$CACHE/qemu" "$new"
    mkdir -p "$new"/{lists,cache/archives}/partial "$new/root"
    # Lists of its own: nothing that apt knows of the host changes.
    echo "deb ${site:-http://deb.debian.org/debian} $(. /etc/os-release; echo "$VERSION_CODENAME")-backports main" \
        >"$new/sources.list"
    options=(-qq -o "Dir::Etc::SourceList=$new/sources.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$new/lists" -o "Dir::Cache=$new/cache" -o APT::Sandbox::User=root)
    say "Fetching a newer QEMU"
    (cd "$new/cache" && timeout 60 apt-get "${options[@]}" update &&
        timeout 60 apt-get "${options[@]}" download qemu-system-{x86,common,data} seabios) || return
    for package in "$new"/cache/*.deb; do dpkg-deb -x "$package" "$new/root" || return; done
    rm -rf "$new/cache" "$new/lists" "$new/root/usr/share/doc"
    # Its libraries are those of the one that is installed, which are Debian's own.
    cat >"$new/qemu-system-x86_64" <<END
#!/bin/sh
export QEMU_MODULE_DIR=$root/usr/lib/x86_64-linux-gnu/qemu
exec $root/usr/bin/qemu-system-x86_64 -L $root/usr/share/qemu -L $root/usr/share/seabios "\$@"
END
    chmod 755 "$new/qemu-system-x86_64"
    mv "$new" "$CACHE/qemu"
    "$CACHE/qemu/qemu-system-x86_64" --version >/dev/null || { rm -rf "$CACHE/qemu"; return 1; }
}

# Everything a guest needs but its disk.
prepare_guest() {
    mkdir -p "$CACHE"
    fetch_kernel
    fetch_busybox
    make_initramfs
    make_root
}

# What examples begin with: their arguments, and what they need. Sets check (if --check was given) and
# apus, the executable.
begin_example() {
    local name=$1
    shift
    check=
    case ${1-} in
    "") ;;
    --check) check=1 ;;
    -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$name"; exit ;;
    *) die "unknown option '$1' (there are --check and --help)" ;;
    esac
    [ $# -le 1 ] || die "'$2' is too much: there is --check or --help, alone"
    need_packages "${BUILD_PACKAGES[@]}" "${GUEST_PACKAGES[@]}"
    # APUS names an executable that is already built.
    [ -n "${APUS-}" ] || build_release
    apus=${APUS-.build/release/apus}
    prepare_guest
}

failures=0

# Compares what a check has found: verdict WHAT FOUND WANTED
verdict() {
    if [ "$2" = "$3" ]; then
        say "ok: $1 ($2)"
    else
        failures=$((failures + 1))
        printf 'wrong: %s: expected "%s", got "%s"\n' "$1" "$3" "$2" >&2
    fi
}

# Ends a check.
conclude() {
    if [ $failures != 0 ]; then die "$failures checks failed"; fi
    say "All checks passed"
}
