"""Attacks that end quietly: each is a few lines that must raise OSError in the sandbox.

One encoder and one decoder try them all, catch what comes, print what worked, and then behave: as an attacker would who
does not want to be noticed. `harmless` marks those that a control may run without the sandbox, to show that they work.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass


@dataclass(frozen=True)
class Probe:
    name: str
    source: str
    harmless: bool = True
    otherwise: str = ""  # an answer beside EPERM and EACCES that means refused


def number(x86_64: int, aarch64: int) -> int:
    """Of a system call, on this machine."""
    return {"x86_64": x86_64, "aarch64": aarch64}[platform.machine()]


# `folder` is one that everybody may write to, with a file `secret` in it; `libc_call(number, ...)` raises OSError.
PROBES = [
    # network
    Probe("inet socket", "socket.socket(socket.AF_INET)"),
    Probe("inet6 socket", "socket.socket(socket.AF_INET6)"),
    Probe("unix socket", "socket.socket(socket.AF_UNIX)"),
    Probe("udp socket", "socket.socket(socket.AF_INET, socket.SOCK_DGRAM)"),
    Probe("netlink socket", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)"),
    Probe("socket pair", "socket.socketpair()"),
    Probe(
        "packet socket at a path",
        "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(folder + '/socket'); os.unlink(folder + '/socket')",
    ),
    Probe(
        "packet socket to another",
        "one, other = (socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2));"
        "name = f'\\0evocodec-{os.getpid()}'; one.bind(name); one.listen(); other.connect(name)",
    ),
    Probe("metadata address", "socket.create_connection(('169.254.169.254', 80), 1)", harmless=False),
    # reading what is not the candidate's
    Probe("a user's file", "open(folder + '/secret').read()"),
    Probe("root's home", "os.listdir('/root')"),
    Probe("passwords", "open('/etc/passwd').read()"),
    Probe("parent's environment", "open(f'/proc/{os.getppid()}/environ', 'rb').read()"),
    Probe("list of processes", "os.listdir('/proc')"),
    Probe("parent's memory", "open(f'/proc/{os.getppid()}/mem', 'rb')"),
    Probe("password hashes", "open('/etc/shadow').read()", harmless=False),
    Probe("first process's environment", "open('/proc/1/environ', 'rb').read()", harmless=False),
    Probe("parent's descriptors", "os.listdir(f'/proc/{os.getppid()}/fd')", harmless=False),
    Probe("parent's map of memory", "open(f'/proc/{os.getppid()}/maps').read()", harmless=False),
    Probe("everybody's temporary files", "os.listdir('/tmp')"),
    Probe("names in the memory folder", "os.listdir('/dev/shm')"),
    Probe("project folder", "os.listdir(project)"),
    Probe("own job reopened", "open('/proc/self/fd/0', 'rb').read(1)"),
    # leaving a bit for the decoder
    Probe("new file", "open(folder + '/new', 'w')"),
    Probe("temporary file", "tempfile.TemporaryFile()", otherwise="2"),
    Probe("file in memory folder", "open('/dev/shm/evocodec-probe', 'w'); os.unlink('/dev/shm/evocodec-probe')"),
    Probe("file in working folder", "open('here', 'w')"),
    Probe("own memory as a file", "os.open(f'/proc/self/task/{threading.get_native_id()}/mem', os.O_WRONLY)"),
    Probe("own place in line", "os.open(f'/proc/self/task/{threading.get_native_id()}/oom_score_adj', os.O_WRONLY)"),
    Probe(
        "addresses of the machine",
        "one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET);"
        "fcntl.ioctl(one, 0x8912, struct.pack('iP', 0, 0))",  # SIOCGIFCONF
    ),
    Probe("parent's name", "open(f'/proc/{os.getppid()}/comm', 'w')"),
    Probe("a thread's name", "open(f'/proc/self/task/{threading.get_native_id()}/comm', 'w')"),
    Probe("unnamed file", "os.open(folder, os.O_TMPFILE | os.O_RDWR)"),
    Probe("append", "open(folder + '/secret', 'a')"),
    Probe("truncate by path", "os.truncate(folder + '/secret', 3)"),
    Probe("truncate by open", "os.open(folder + '/secret', os.O_RDONLY | os.O_TRUNC)"),
    Probe("modification time", "os.utime(folder + '/secret', (1, 1))"),
    Probe("modification time of a library", "os.utime(os.__file__)", harmless=False),
    Probe("modification time of the job", "os.utime(0, (1, 1))"),
    Probe("mode", "os.chmod(folder + '/secret', 0o666)"),
    Probe("mode of the job", "os.fchmod(0, 0o644)"),
    Probe(
        "rename", "os.rename(folder + '/secret', folder + '/moved'); os.rename(folder + '/moved', folder + '/secret')"
    ),
    Probe("hard link", "os.link(folder + '/secret', folder + '/hard')"),
    Probe("symbolic link", "os.symlink('x', folder + '/soft')"),
    Probe("folder", "os.mkdir(folder + '/made')"),
    Probe("pipe by name", "os.mkfifo(folder + '/fifo')"),
    Probe("removal", "os.unlink(folder + '/secret'); os.close(os.open(folder + '/secret', os.O_CREAT))"),
    Probe("file lock", "fcntl.flock(0, fcntl.LOCK_SH)"),
    Probe("lock of a range", "fcntl.lockf(0, fcntl.LOCK_SH)"),
    Probe("lease", "fcntl.fcntl(0, fcntl.F_SETLEASE, fcntl.F_RDLCK)", harmless=False),
    Probe("extended attribute", "os.setxattr(folder + '/secret', 'user.evocodec', b'1')"),
    Probe("node", "os.mknod(folder + '/node')"),
    Probe("watch on files", "libc_call('inotify_init1', 0)"),
    Probe("size of a pipe", "fcntl.fcntl(os.pipe()[1], fcntl.F_SETPIPE_SZ, 65536)"),
    # other processes
    Probe("fork", "os.fork() or os._exit(0)"),
    Probe("daemon", "os.fork() or (os.setsid(), os._exit(0))"),
    Probe("exec", "subprocess.run(['/bin/true'], check=True)"),
    Probe("spawn", "os.posix_spawn('/bin/true', ['true'], {})"),
    Probe("signal to the parent", "os.kill(os.getppid(), 0)"),
    Probe("signal to all", "os.kill(-1, 0)"),
    Probe("signal by ownership", "fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid())"),
    Probe("priority of the parent", "os.setpriority(0, os.getppid(), os.getpriority(0, os.getppid()))"),
    Probe("priority of its own", "os.setpriority(0, 0, os.getpriority(0, 0))"),
    Probe("scheduling of the parent", "os.sched_setscheduler(os.getppid(), os.SCHED_OTHER, os.sched_param(0))"),
    Probe("affinity of the parent", "os.sched_setaffinity(os.getppid(), os.sched_getaffinity(os.getppid()))"),
    Probe("parent's death", "libc_call('prctl', 1, 0, 0, 0, 0)"),
    Probe(
        "more memory than allowed",
        "resource.setrlimit(resource.RLIMIT_DATA, (-1, -1))",
        harmless=False,
        otherwise="not allowed to raise maximum limit",
    ),
    Probe("limits of the parent", "resource.prlimit(os.getppid(), resource.RLIMIT_CORE)"),
    Probe("root again", "os.setuid(0)", harmless=False),
    Probe("shared memory without a file", "mmap.mmap(-1, 4096)"),
]
# Calls that Python has no function for: their numbers on x86_64 and aarch64, and arguments. `here` and `there` are
# vectors of one buffer of this process and of its parent, which the fork gave the same addresses.
RAW = {
    "keyring": (250, 219, "0, -2, 1"),
    "new key": (248, 217, "b'user', b'evocodec', b'x', 1, -2"),
    "message queue": (68, 186, "0, 0o600"),
    "posix message queue": (240, 180, "b'evocodec', 0x42, 0o600, 0"),
    "semaphore": (64, 190, "0, 1, 0o600"),
    "SysV shared memory": (29, 194, "0, 4096, 0o600"),
    "ptrace of the parent": (101, 117, "16, os.getppid(), 0, 0"),
    "ptrace by seizing": (101, 117, "0x4206, os.getppid(), 0, 0"),
    "reading the parent's memory": (310, 270, "os.getppid(), here, 1, there, 1, 0"),
    "writing the parent's memory": (311, 271, "os.getppid(), there, 1, there, 1, 0"),
    "descriptor of the parent": (434, 434, "os.getppid(), 0"),
    "comparison with the parent": (312, 272, "os.getpid(), os.getppid(), 1, 0, 0"),
    "signal to a thread of the parent": (234, 131, "os.getppid(), os.getppid(), 0"),
    "signal with data": (129, 138, "os.getppid(), 0, buffer(struct.pack('3i', 0, 0, -1), 128)"),
    "file in memory": (319, 279, "b'name', 0"),
    "secret memory": (447, 447, "0"),
    "io_uring": (425, 425, "1, buffer(120)"),
    "asynchronous reading": (206, 0, "1, buffer(8)"),
    "namespace": (272, 97, "0x10000000"),
    "mount": (165, 40, "b'none', b'/mnt', b'tmpfs', 0, 0"),
    "bpf": (321, 280, "0, buffer(struct.pack('4I', 2, 4, 4, 1), 72), 72"),
    "performance counters": (298, 241, "buffer(struct.pack('2IQ', 1, 64, 0), 64), 0, -1, -1, 0"),
    "userfaultfd": (323, 282, "0"),
    "handle of a file": (303, 264, "-100, b'/', buffer(struct.pack('I', 128), 136), buffer(4), 0"),
    "page cache": (27, 232, "address(page), 4096, buffer(1)"),
    "process by clone": (56, 220, "17, 0, 0, 0, 0"),
    "process by clone3": (435, 435, "buffer(struct.pack('5Q', 0, 0, 0, 0, 17), 88), 88"),
    "open by openat2": (437, 437, "-100, b'/etc/passwd', buffer(24), 24"),
    "kernel's log": (103, 116, "10, 0, 0"),
}
# These answer ENOSYS, so that the C library falls back to a call that can be checked.
UNKNOWN = {"process by clone3": "38", "open by openat2": "38"}
MAKES_A_PROCESS = {"process by clone", "process by clone3"}
PROBES += [
    Probe(
        name,
        f"libc_call('syscall', {number(*numbers)}, {arguments})" + " or os._exit(0)" * (name in MAKES_A_PROCESS),
        harmless=False,
        otherwise=UNKNOWN.get(name, ""),
    )
    for name, (*numbers, arguments) in RAW.items()
]

COMMON = """
import ctypes, fcntl, mmap, os, resource, socket, struct, subprocess, tempfile, threading

def buffer(content, size=None):
    return ctypes.create_string_buffer(content) if size is None else ctypes.create_string_buffer(content, size)

def address(view):
    return ctypes.addressof(ctypes.c_char.from_buffer(view))

page = mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
here = buffer(struct.pack("2Q", address(page), 8), 16)
there = buffer(struct.pack("2Q", id(b""), 8), 16)

def libc_call(name, *arguments):
    libc = ctypes.CDLL(None, use_errno=True)
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = getattr(libc, name)(*wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def attack(role, folder, project, names, sources):
    for name, source in zip(names, sources):
        try:
            exec(source, globals() | {"folder": folder, "project": project})
        except OSError as error:
            print(f"{role}|{name}|stopped|{error.errno}", flush=True)
        except ValueError as error:  # what setrlimit makes of EPERM
            print(f"{role}|{name}|stopped|{error}", flush=True)
        else:
            print(f"{role}|{name}|worked|", flush=True)
"""
_CALL = '    attack({role!r}, *(config[key] for key in ("folder", "project", "names", "sources")))\n'
ENCODER = (
    COMMON
    + "def compress_video_tensor(frames, config, device):\n"
    + _CALL.format(role="encode")
    + "    return {'compressed_data': frames.numpy().tobytes()}\n"
)
DECODER = (
    COMMON
    + "import torch\ndef decompress_video_tensor(data, config, device):\n"
    + _CALL.format(role="decode")
    + "    frames = torch.frombuffer(bytearray(data), dtype=torch.uint8).reshape(1, 2, 3, 16, 16)\n"
    + "    return {'reconstructed_frames': frames}\n"
)
