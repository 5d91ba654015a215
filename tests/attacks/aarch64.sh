#!/bin/sh
# The attacks on aarch64, on a machine of any kind: Debian's arm64 kernel and Python under full-system emulation, with
# no network. The guest's clock counts instructions, so its limits of time mean the same however slow the host is.
#
#   tests/attacks/aarch64.sh FOLDER [what pytest is told]       default: tests/attacks/test_attacks.py -m "not slow"
#
# Needs root, the Debian packages qemu-system-arm, mmdebstrap and cpio, Python 3.11 with pip, 4 GB in FOLDER, 7 GB of
# memory, and hours where the processor is shared. AS_USER=1 runs it all as an ordinary user. FOLDER is used again.
set -eu
project=$(cd "$(dirname "$0")/../.." && pwd)
folder=$1 root=$1/root
shift
[ $# -gt 0 ] || set -- tests/attacks/test_attacks.py -m "not slow"
packages=usr/local/lib/python3.11/dist-packages
python=${PYTHON:-python3.11}
mkdir -p "$folder"

if [ ! -e "$root/$packages/torch" ]; then
    rm -rf "$root"
    # Unpacked only: no script of a package runs, so nothing has to execute arm64 programs here.
    mmdebstrap --quiet --mode=root --architectures=arm64 --variant=extract \
        --include=python3,libstdc++6,libgomp1,dash,coreutils,mount,util-linux,base-passwd,linux-image-arm64 \
        bookworm "$root" http://deb.debian.org/debian
    cp "$root/usr/share/base-passwd/passwd.master" "$root/etc/passwd"
    cp "$root/usr/share/base-passwd/group.master" "$root/etc/group"
    install -m 600 /dev/null "$root/etc/shadow"
    install -d -m 700 "$root/root"
    mkdir -p "$root/proc" "$root/sys" "$root/srv/evocodec" "$root/usr/lib/python3/dist-packages"
    rm -rf "$root/lib/modules"
    echo /srv/evocodec > "$root/usr/lib/python3/dist-packages/evocodec.pth"
    # torch 2.10 is the last whose wheel for aarch64 on PyPI goes without CUDA's libraries. Dependencies are named,
    # because pip asks this machine, not the guest, what they depend on.
    grep -v '^torch==' "$project/constraints.txt" > "$folder/constraints.txt"
    "$python" -m pip install --quiet --no-deps --no-compile --target "$root/$packages" --constraint "$folder/constraints.txt" \
        --python-version 3.11 --only-binary=:all: --platform manylinux_2_28_aarch64 \
        --platform manylinux_2_27_aarch64 --platform manylinux_2_24_aarch64 --platform manylinux2014_aarch64 \
        annotated-doc annotated-types av click filelock fsspec imageio-ffmpeg iniconfig jinja2 lazy-loader \
        markdown-it-py markupsafe mdurl mpmath networkx numpy opencv-python-headless packaging pluggy pydantic \
        pydantic_core pydantic-settings pygments pytest python-dotenv rich scenedetect-headless scikit-image scipy \
        shellingham sympy torch==2.10.0 tqdm typer typing-inspection typing_extensions
    rm -rf "$root/$packages/torch/include" "$root/$packages/torch/test"
fi

rm -rf "$root/srv/evocodec"
mkdir "$root/srv/evocodec"
(cd "$project" && git ls-files -z | tar -c --null -T -) | tar -x --no-same-owner -C "$root/srv/evocodec"
# Compiled here, in a fraction of the time.
"$python" -m compileall -q --invalidation-mode unchecked-hash -s "$root" -p / \
    "$root/usr/lib/python3.11" "$root/$packages" "$root/srv/evocodec" > "$folder/compileall.log" 2>&1 || true

who=${AS_USER:+"setpriv --reuid=65533 --regid=65533 --clear-groups --inh-caps=-all --bounding-set=-all env HOME=/tmp"}
quoted=$("$python" -c 'import shlex, sys; print(shlex.join(sys.argv[1:]))' "$@")
cat > "$root/init" << END
#!/bin/sh
export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 OMP_NUM_THREADS=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount -t tmpfs -o mode=1777 tmpfs /tmp
mount -t securityfs security /sys/kernel/security
uname -a
echo "security modules: \$(cat /sys/kernel/security/lsm)"
cd /srv/evocodec
$who python3 -m flows.cli doctor --store /tmp/store
# The tests' conftest needs the loop's libraries, which are not here; the attacks need nothing of it.
$who python3 -m pytest --noconftest --verbose --color=no --tb=short $quoted
echo "exit code \$?"
echo o > /proc/sysrq-trigger
sleep 60
END
chmod 755 "$root/init"
(cd "$root" && find . -path ./boot -prune -o -print0 | cpio -0 -o -H newc --quiet) > "$folder/root.cpio"
qemu-system-aarch64 -M virt -cpu cortex-a76 -icount shift=1,sleep=off -smp 1 -m 6G -nic none -nographic -no-reboot \
    -kernel "$root"/boot/vmlinuz-* -initrd "$folder/root.cpio" -append "console=ttyAMA0 panic=-1 quiet" \
    < /dev/null | tee "$folder/console.log"
grep -q '^exit code 0' "$folder/console.log"
