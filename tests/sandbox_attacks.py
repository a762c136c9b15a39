"""Programs that try to get out of the sandbox, and to find out what they must not know.

Each of `TRIES` calls `escaped(what)` where it got something, and prints DONE at its end, so that a try which broke
off is not taken for one that failed. `bare` ones are run outside any jail too, where they must succeed. `HOGS` use up
something, and name how they must be ended. Words in @...@ are filled in by the test.
"""

# ruff: noqa: E501  (one program a line reads better than one statement a line)

import json
import platform
import time
from typing import NamedTuple

from gruppo.rewards.sandbox.job import Job, Limits, Outcome, Program
from gruppo.rewards.sandbox.sandbox import Sandbox

PRELUDE = r"""
import ctypes, errno, gc, os, signal, socket, sys, time
libc = ctypes.CDLL(None, use_errno=True)
ARM = os.uname().machine == "aarch64"
def escaped(what):
    os.write(1, f"ESCAPED {what!r}\n".encode()[:500])
def raw(number, *arguments):
    number = number[1] if ARM and isinstance(number, tuple) else number[0] if isinstance(number, tuple) else number
    ctypes.set_errno(0)
    return libc.syscall(ctypes.c_long(number), *[a if isinstance(a, bytes) else ctypes.c_long(a) for a in arguments])
def tried(*attempts):
    for attempt in attempts:
        try:
            result = attempt()
        except (OSError, ImportError, RuntimeError, ValueError, EOFError, AttributeError) as error:
            continue
        if not (isinstance(result, int) and result == -1):
            escaped(result)
def unreachable(number, *arguments):
    result = raw(number, *arguments)
    if result != -1 or ctypes.get_errno() not in (errno.EPERM, errno.ENOENT, errno.ENOTTY, errno.ENOSYS):
        escaped((number, result, ctypes.get_errno()))
"""


class Try(NamedTuple):
    code: str
    bare: bool = False


class Hog(NamedTuple):
    code: str
    how: tuple[str, ...]


TRIES: dict[str, Try] = {
    # files
    "read a secret file": Try("tried(lambda: open('@SECRET_FILE@').read())", bare=True),
    "read a secret file by a descriptor": Try("tried(lambda: os.open('@SECRET_FILE@', os.O_RDONLY))", bare=True),
    "read a secret file with openat2": Try(
        "how = (ctypes.c_uint64 * 3)(0, 0, 0)\n"
        "tried(lambda: libc.syscall(437, -100, b'@SECRET_FILE@', how, 24))", bare=True,
    ),
    "read a secret file through mmap and path": Try(
        "import mmap, pathlib\ntried(lambda: pathlib.Path('@SECRET_FILE@').read_bytes())", bare=True,
    ),
    "see that a file exists": Try("tried(lambda: os.stat('@SECRET_FILE@').st_size)", bare=True),
    "see that a file exists with access": Try("if os.access('@SECRET_FILE@', os.F_OK): escaped('exists')", bare=True),
    "see that a file exists with newfstatat": Try(
        "room = ctypes.create_string_buffer(256)\n"
        "for flags in (0, 0x100, 0x1000):\n"
        "    tried(lambda: raw((262, 79), -100, b'@SECRET_FILE@', ctypes.addressof(room), flags))", bare=True,
    ),
    "see that a file exists with statx": Try(
        "room = ctypes.create_string_buffer(512)\n"
        "tried(lambda: raw((332, 291), -100, b'@SECRET_FILE@', 0, 0xfff, ctypes.addressof(room)))", bare=True,
    ),
    "list folders": Try(
        "for folder in ('/', '/home', '/root', '/tmp', '/proc', '/dev', '/etc', '.', '..'):\n"
        "    tried(lambda: os.listdir(folder))", bare=True,
    ),
    "climb out of the root": Try(
        "tried(lambda: os.stat('/' + '../' * 40 + 'etc'), lambda: os.chdir('..'), lambda: os.chdir('/etc'))", bare=True,
    ),
    "chroot out of the root": Try("tried(lambda: os.chroot('/'), lambda: os.fchdir(0))"),
    "read the interpreter's files": Try("tried(lambda: open(os.__file__).read())", bare=True),
    "read its own program file": Try("tried(lambda: os.readlink('/proc/self/exe'), lambda: open('/proc/self/exe'))", bare=True),
    "write files": Try(
        "for path in ('/tmp/@MARK@', '@MARK@', '/dev/shm/@MARK@', '/var/tmp/@MARK@', '/run/@MARK@', '/@MARK@'):\n"
        "    tried(lambda: open(path, 'w'), lambda: os.mkdir(path + 'd'), lambda: os.mkfifo(path + 'p'))",
    ),
    "make links": Try(
        "tried(lambda: os.symlink('/etc/passwd', '/tmp/@MARK@l'), lambda: os.link('/etc/passwd', '/tmp/@MARK@h'))",
    ),
    "make device nodes": Try("tried(lambda: os.mknod('/tmp/@MARK@n', 0o20666, os.makedev(1, 1)))"),
    "use temporary files": Try(
        "import tempfile\ntried(tempfile.mkstemp, tempfile.mkdtemp, tempfile.TemporaryFile)",
    ),
    "change files": Try(
        "tried(lambda: os.chmod('@SECRET_FILE@', 0o600), lambda: os.truncate('@SECRET_FILE@', 0),\n"
        "      lambda: os.unlink('@SECRET_FILE@'), lambda: os.rename('@SECRET_FILE@', '/tmp/@MARK@r'),\n"
        "      lambda: os.utime('@SECRET_FILE@'), lambda: os.setxattr('@SECRET_FILE@', 'user.x', b'1'))"
    ),
    "keep data in memory files": Try("tried(lambda: os.memfd_create('x'), lambda: raw((319, 279), b'x', 0))", bare=True),
    "share memory": Try(
        "from multiprocessing import shared_memory\n"
        "tried(lambda: shared_memory.SharedMemory(create=True, size=4096, name='@MARK@').name,\n"
        "      lambda: raw((29, 194), 0x1234, 4096, 0o1666))",
    ),
    "use devices": Try(
        "for name in ('null', 'mem', 'kmsg', 'tty', 'vda', 'nvidia0', 'kvm', 'fuse', 'shm', 'pts/0'):\n"
        "    tried(lambda: os.open(f'/dev/{name}', os.O_RDONLY))", bare=True,
    ),
    "write to its standard input": Try(
        "import mmap\ntried(lambda: os.write(0, b'x'), lambda: mmap.mmap(0, 1, mmap.MAP_SHARED, mmap.PROT_WRITE).size())",
    ),
    "inject terminal input": Try("import fcntl\nfor fd in range(8): tried(lambda: fcntl.ioctl(fd, 0x5412, b'x'))"),
    "open by handle": Try(
        "room = ctypes.create_string_buffer(256)\n"
        "unreachable((303, 264), -100, b'/', ctypes.addressof(room), ctypes.addressof(room), 0)\n"
        "unreachable((304, 265), 0, ctypes.addressof(room), 0)"
    ),
    # secrets in memory and environment
    "read the environment": Try(
        "if '@ENV_SECRET@' in repr(dict(os.environ)): escaped('environ')\n"
        "libc.getenv.restype = ctypes.c_char_p\n"
        "if libc.getenv(b'GRUPPO_TEST_SECRET'): escaped('getenv')\n"
        "tried(lambda: open('/proc/self/environ').read(), lambda: open('/proc/@TRAINER@/environ').read())", bare=True,
    ),
    "find the judge's payload among its objects": Try(
        "import inspect\n"
        "seen = [o for o in gc.get_objects() if isinstance(o, (dict, list, tuple))]\n"
        "frame = sys._getframe()\n"
        "while frame:\n"
        "    seen.append(dict(frame.f_locals)); seen.append(dict(frame.f_globals)); frame = frame.f_back\n"
        "import re\nlook = re.compile('the-judges[-]own').search\n"
        "for o in seen:\n"
        "    if o is seen: continue\n"
        "    try: text = repr(o)\n"
        "    except Exception: continue\n"
        "    if look(text): escaped('objects'); break"
    ),
    "read the trainer's memory": Try(
        "room = ctypes.create_string_buffer(64)\n"
        "local = (ctypes.c_uint64 * 2)(ctypes.addressof(room), 64)\n"
        "remote = (ctypes.c_uint64 * 2)(id(room), 64)\n"
        "for pid in (@TRAINER@, os.getppid(), 1, 2, 3, os.getpid() - 1, os.getpid() + 1):\n"
        "    unreachable((310, 270), pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)\n"
        "    unreachable((311, 271), pid, ctypes.addressof(local), 1, ctypes.addressof(remote), 1, 0)\n"
        "    tried(lambda: open(f'/proc/{pid}/mem', 'rb'), lambda: os.open(f'/proc/{pid}/maps', 0))"
    ),
    "trace others": Try(
        "for pid in (@TRAINER@, os.getppid(), 1, os.getpid() - 1, os.getpid() + 1):\n"
        "    for request in (0, 16, 0x4206): unreachable((101, 117), request, pid, 0, 0)"
    ),
    "use inherited descriptors": Try(
        "for fd in range(7, 4096):\n    tried(lambda: os.dup(fd))\n"
        "for fd in (3, 4): tried(lambda: os.dup(fd))"
    ),
    "forge the verdict on each descriptor": Try(
        "for fd in range(3, 64):\n"
        "    if fd != 6:\n"
        "        tried(lambda: os.write(fd, b'forged'))"
    ),
    "forge the verdict with the pipe": Try("tried(lambda: pipe.give_verdict(b'forged'))\npipe._verdict = 7\ntried(lambda: pipe.give_verdict(b'forged'))"),
    "steal a descriptor": Try("for fd in range(8): unreachable((438, 438), fd, fd, 0)\nunreachable((434, 434), 1, 0)"),
    "look at other processes": Try(
        "tried(lambda: os.listdir('/proc'), lambda: os.getpgid(1), lambda: os.getsid(1), lambda: os.getpriority(0, 1),\n"
        "      lambda: os.sched_getscheduler(1), lambda: open('/proc/1/cmdline').read())", bare=True,
    ),
    "read another's CPU time": Try(
        "for pid in (@TRAINER@, os.getppid() or 1, 1): tried(lambda: time.clock_gettime((~pid << 3) | 2))", bare=True,
    ),
    "read the kernel's log and counters": Try("unreachable((103, 116), 3, 0, 0)\nunreachable((298, 241), 0, 0, -1, -1, 0)"),
    "read page residency": Try(
        "room = ctypes.create_string_buffer(64)\nunreachable((27, 232), id(room) & ~4095, 4096, ctypes.addressof(room))"
    ),
    # processes and signals
    "kill everyone": Try("tried(lambda: os.kill(-1, 9))"),
    "kill the trainer and those near": Try(
        "for pid in (@TRAINER@, os.getppid(), 0, *range(os.getpid() - 5, os.getpid() + 6)):\n"
        "    tried(lambda: os.kill(pid, signal.SIGTERM))\n"
        "    unreachable((234, 131), pid, pid, 15)\n    unreachable((200, 130), pid, 15)"
    ),
    "kill a process group": Try("tried(lambda: os.killpg(0, 9), lambda: os.killpg(os.getpid(), 9))"),
    "stop the judge": Try("for pid in range(1, 20): tried(lambda: os.kill(pid, signal.SIGSTOP))"),
    "signal through queues": Try("unreachable((129, 138), @TRAINER@, 9, 0)\nunreachable((297, 240), @TRAINER@, @TRAINER@, 9, 0)\nunreachable((424, 424), 0, 9, 0, 0)"),
    "signal through a pipe's owner": Try("import fcntl\nfor fd in range(8):\n    tried(lambda: fcntl.fcntl(fd, fcntl.F_SETOWN, os.getppid() or 1), lambda: fcntl.fcntl(fd, 10, 9))"),
    "fork": Try("tried(os.fork, os.forkpty)"),
    "fork by raw calls": Try(
        "if not ARM:\n    unreachable(57)\n    unreachable(58)\n"
        "for flags in (17, 17 | 0x10000000, 17 | 0x20000000, 0x8000 | 17, 0x3d0f00):\n    unreachable((56, 220), flags, 0, 0, 0, 0)\n"
        "unreachable(435, 0, 88)"
    ),
    "start threads": Try("import _thread\ntried(lambda: _thread.start_new_thread(print, ()))"),
    "run commands": Try("import subprocess\ntried(lambda: subprocess.run(['id']), lambda: os.popen('id').read())\nif os.system('true') == 0: escaped('system')", bare=True),
    "execute": Try("tried(lambda: os.execv('/bin/sh', ['sh']), lambda: os.execve(0, ['x'], {}))\nunreachable((59, 221), b'/bin/sh', 0, 0)\nunreachable((322, 281), 0, b'', 0, 0, 0x1000)"),
    "spawn": Try("tried(lambda: os.posix_spawn('/bin/true', ['true'], {}))", bare=True),
    "use multiprocessing": Try("import multiprocessing\ntried(lambda: multiprocessing.Process(target=print).start())"),
    "leave its session and group": Try("tried(os.setsid, lambda: os.setpgid(0, 0))"),
    "outlive its guard": Try("unreachable((157, 167), 1, 0, 0, 0, 0)\nunreachable((157, 167), 36, 1, 0, 0, 0)"),
    # network
    "make internet sockets": Try(
        "for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_RAW):\n"
        "    for family in (socket.AF_INET, socket.AF_INET6): tried(lambda: socket.socket(family, kind))", bare=True,
    ),
    "connect to the trainer": Try("tried(lambda: socket.create_connection(('127.0.0.1', @PORT@), timeout=1).fileno())", bare=True),
    "connect to an abstract socket": Try(
        "def go():\n    s = socket.socket(socket.AF_UNIX); s.settimeout(1); s.connect('\\0@ABSTRACT@'); return s.fileno()\ntried(go)", bare=True,
    ),
    "reach an abstract socket from a pair": Try(
        "def go():\n    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); return a.sendto(b'x', '\\0@ABSTRACT@d')\n"
        "tried(go, socket.socketpair)", bare=True,
    ),
    "make other sockets": Try("for family in range(46):\n    for kind in (1, 2, 3): tried(lambda: socket.socket(family, kind))", bare=True),
    "resolve names": Try("tried(lambda: socket.gethostbyname('localhost'), lambda: socket.getaddrinfo('localhost', 80))", bare=True),
    "use asynchronous input and output": Try("import asyncio\ntried(lambda: asyncio.new_event_loop().run_until_complete(asyncio.sleep(0)) or 1)", bare=True),
    # raising privileges, the kernel's edges
    "change its user": Try("tried(lambda: os.setuid(0), lambda: os.setresuid(0, 0, 0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.seteuid(1))"),
    "regain capabilities": Try(
        "header = (ctypes.c_uint32 * 2)(0x20080522, 0)\ndata = (ctypes.c_uint32 * 6)(*[0xffffffff] * 6)\n"
        "unreachable((126, 91), ctypes.addressof(header), ctypes.addressof(data))"
    ),
    "mount": Try("unreachable((165, 40), b'none', b'/', b'tmpfs', 0, 0)\nunreachable((166, 39), b'/', 2)\nfor n in (428, 429, 430, 432, 442): unreachable(n, 0, 0, 0, 0, 0)"),
    "make or enter namespaces": Try(
        "for flag in (0x10000000, 0x20000, 0x20000000, 0x40000000, 0x8000000, 0x400): unreachable((272, 97), flag)\n"
        "for fd in range(8): unreachable((308, 268), fd, 0)"
    ),
    "set up io_uring": Try("room = ctypes.create_string_buffer(256)\nunreachable(425, 4, ctypes.addressof(room))\nunreachable(426, 0, 1, 1, 0, 0, 0)\nunreachable(427, 0, 0, 0, 0)"),
    "load programs into the kernel": Try("room = ctypes.create_string_buffer(256)\nunreachable((321, 280), 0, ctypes.addressof(room), 128)\nunreachable((175, 105), 0, 0, 0)\nunreachable((323, 282), 0)"),
    "use keyrings": Try("unreachable((250, 219), 0, -3, 0, 0, 0)\nunreachable((248, 217), b'user', b'x', b'y', 1, -3)"),
    "change its personality": Try("unreachable((135, 92), 0x0040000)\nunreachable((135, 92), -1)"),
    "change its limits": Try(
        "import resource\nfor kind in range(16):\n    tried(lambda: resource.setrlimit(kind, (-1, -1)) or 1)\n"
        "tried(lambda: resource.prlimit(@TRAINER@, resource.RLIMIT_CPU) and 1)"
    ),
    "loosen its filter": Try("unreachable((317, 277), 0, 0, 0)\nunreachable((317, 277), 1, 0, 0)\nunreachable((157, 167), 22, 2, 0, 0, 0)\nunreachable(444, 0, 0, 1)\nunreachable(446, 0, 0)"),
    "turn its clock and name": Try("unreachable((170, 161), b'x', 1)\nunreachable((164, 170), 0, 0)\nunreachable((227, 112), 0, 0)\nunreachable((169, 142), 0xfee1dead, 672274793, 0x1234567)"),
    "move data past the filter": Try("for n in ((275, 76), (276, 77), (278, 75), (326, 285)): unreachable(n, 0, 0, 1, 0, 0, 0)\nif not ARM: unreachable(40, 1, 0, 0, 10)"),
    "use message queues and semaphores": Try("unreachable((68, 186), 0, 0o1666)\nunreachable((64, 190), 0, 1, 0o1666)\nunreachable((240, 180), b'x', 0o102, 0o600, 0)"),
    "hold a lock by priority inheritance": Try("word = (ctypes.c_uint32 * 2)()\nfor op in (6, 7, 8, 11, 12, 13): unreachable((202, 98), ctypes.addressof(word), op, 0, 0, 0, 0)"),
    "make every other system call": Try(
        "allowed = set(@ALLOWED@)\n"
        "for number in range(1024):\n"
        "    if number not in allowed: unreachable(number, -1, -1, -1, -1, -1, -1)"
    ),
}  # fmt: skip

# These are ended, not refused.
DEADLY: dict[str, Hog] = {
    "x32 system calls": Hog("raw(0x40000000 + 39)\nescaped('x32')", ("signal",)),
    "32-bit system calls": Hog(
        "import mmap\n"
        "page = mmap.mmap(-1, 4096, prot=7)\n"
        "page.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
        "call = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))\n"
        "escaped(call())", ("signal",),
    ),
}  # fmt: skip

HOGS: dict[str, Hog] = {
    "spin": Hog("while True: pass", ("cpu",)),
    "spin in C": Hog("10 ** 10 ** 8 % 7 ** 10 ** 7", ("cpu",)),
    "spin in a regular expression": Hog("import re\nre.match('(a+)+$', 'a' * 60 + 'b')", ("cpu",)),
    "spin and catch everything": Hog(
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass", ("cpu",)
    ),
    "ignore signals": Hog(
        "for s in range(1, 65):\n"
        "    try: signal.signal(s, signal.SIG_IGN)\n"
        "    except (OSError, ValueError): pass\n"
        "while True: pass", ("cpu",),
    ),
    "block signals": Hog("signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass", ("cpu",)),
    "storm of timer signals": Hog(
        "signal.signal(signal.SIGALRM, lambda *_: None)\nsignal.setitimer(signal.ITIMER_REAL, 1e-6, 1e-6)\nwhile True: pass", ("cpu",),
    ),
    "sleep": Hog("time.sleep(1000)", ("wall",)),
    "wait for its input": Hog("sys.stdin.close()\npipe.read()", ("wall",)),
    "close all descriptors and sleep": Hog("os.closerange(0, 100)\ntime.sleep(1000)", ("killed",)),
    "close all descriptors and spin": Hog("os.closerange(0, 100)\nwhile True: pass", ("killed",)),
    "stop itself": Hog(
        "try: os.kill(os.getpid(), signal.SIGSTOP)\nexcept OSError: pass\ntime.sleep(1000)", ("wall",)
    ),
    "take all memory at once": Hog("x = bytearray(1 << 40)", ("memory",)),
    "take all memory bit by bit": Hog("x = []\nwhile True: x.append(bytearray(1 << 20))", ("memory",)),
    "take all memory in small pieces": Hog("x = None\nwhile True: x = [x, 1, 2, 3]", ("memory", "cpu", "signal")),
    "take memory by raw mapping": Hog(
        "libc.mmap.restype = ctypes.c_long\n"
        "for _ in range(100000):\n"
        "    if libc.mmap(None, ctypes.c_size_t(1 << 24), 3, 0x22 | 0x8000, -1, 0) == -1: raise MemoryError", ("memory",),
    ),
    "flood its output": Hog("while True: os.write(1, b'x' * 65536)", ("output",)),
    "flood its error output": Hog("while True: os.write(2, b'x' * 65536)", ("output",)),
    "flood the judge": Hog("while True: pipe.write(b'x' * 65536)", ("wall", "cpu", "killed", "error")),
    "recurse without end": Hog("sys.setrecursionlimit(10 ** 9)\ndef f(): f()\nf()", ("memory", "signal", "cpu")),
    "recurse in C without end": Hog(
        "sys.setrecursionlimit(10 ** 9)\nclass A:\n    def __repr__(self): return repr(self)\nrepr(A())",
        ("memory", "signal", "cpu", "error"),
    ),
    "crash": Hog("ctypes.string_at(1)", ("signal",)),
    "abort": Hog("os.abort()", ("signal",)),
    "exit as if all were well": Hog("os._exit(0)", ("ok",)),
    "fork bomb": Hog(
        "while True:\n    try: os.fork()\n    except OSError: pass", ("cpu",)
    ),
    "thread bomb": Hog(
        "import _thread\nwhile True:\n    try: _thread.start_new_thread(time.sleep, (9,))\n"
        "    except RuntimeError: pass", ("cpu",),
    ),
    "large sparse file": Hog("f = open('/tmp/@MARK@s', 'wb')\nf.seek(1 << 40)\nf.write(b'x')", ("error",)),
    "fill the disk through its descriptors": Hog("for fd in range(3): os.truncate(fd, 1 << 40)", ("error",)),
}  # fmt: skip

DUMP = r"""
# write out all memory that Python's objects are in; where a piece is not mapped, the call only fails
import ctypes, gc
libc = ctypes.CDLL(None)
libc.sbrk.restype = ctypes.c_void_p
top = libc.sbrk(0)
places = {id(o) & ~0xFFFFF for o in gc.get_objects()} | {id(o) & ~0xFFFFF for o in (b"", "", 0, gc, libc)}
places |= {place + (1 << 20) for place in places} | {place - (1 << 20) for place in places}
places |= set(range((top - (24 << 20)) & ~0xFFFFF, top + 1, 1 << 20))
for place in sorted(places):
    for piece in range(place, place + (1 << 20), 4096):
        libc.write(1, ctypes.c_void_p(piece), ctypes.c_size_t(4096))
"""

# What a jailed program may call at all, so that the sweep over the others has something to leave out. On x86-64 also 335
# and 336, which newer kernels keep for probes and never filter: called by a program, they only end it.
_ALLOWED = {
    "x86_64": [*range(2), 3, 5, 7, *range(8, 16), 17, 19, 20, 23, 24, 25, 28, 32, 33, 35, 36, 37, 38, 39, 60, 63, 72,
               79, 96, 97, 98, 100, 102, 104, 107, 108, 110, 131, 186, 201, 202, 204, 219, 228, 229, 230, 231, 270, 271,
               292, 302, 318, 335, 336],
    "aarch64": [17, 23, 24, 25, *range(57, 58), *range(62, 68), 72, 73, 80, 93, 94, 98, 101, 102, 103, 113, 114, 115,
                123, 124, 128, 132, 134, 135, 139, 153, 160, 163, 165, 169, *range(172, 179), 214, 215, 216, 222, 226,
                233, 261, 278],
}  # fmt: skip

ENTRY = "gruppo.rewards.sandbox.bare:run_source"
JUDGE = b"""
secret = '@JUDGE_SECRET@'
while pipe.read():
    pass
pipe.give_verdict(b"honest")
"""


def fill(code: str, words: dict[str, str]) -> str:
    """The program with the words of this test in it."""
    for name, value in {**words, "ALLOWED": json.dumps(_ALLOWED[platform.machine()])}.items():
        code = code.replace(f"@{name}@", value)
    return code


def run(sandbox: Sandbox, code: str, limits: Limits) -> Outcome:
    """The program as candidate before an honest judge."""
    judge = Program(ENTRY, JUDGE.replace(b"@JUDGE_SECRET@", b"the-judges-own"))
    return sandbox.run(Job(Program(ENTRY, code.encode()), limits, judge=judge))


def attempt(sandbox: Sandbox, name: str, words: dict[str, str]) -> list[str]:
    """What is wrong after one of `TRIES`: nothing where it got nothing, and tried all it wanted to."""
    code = PRELUDE + fill(TRIES[name].code, words) + "\nos.write(1, b'DONE')\n"
    outcome = run(sandbox, code, Limits(cpu_seconds=10, wall_seconds=30, output_bytes=1 << 24))
    wrong = [line for line in outcome.stdout.decode(errors="replace").splitlines() if line.startswith("ESCAPED")][:3]
    if not outcome.stdout.endswith(b"DONE"):
        wrong.append(f"broke off: {outcome.candidate} {outcome.stderr.decode(errors='replace')[-600:]}")
    if outcome.verdict != b"honest":
        wrong.append(f"verdict {outcome.verdict!r}, judge {outcome.judge} {outcome.judge_stderr!r}")
    return wrong


def hog(sandbox: Sandbox, name: str, words: dict[str, str], slack: float = 0.5) -> tuple[list[str], str]:
    """What is wrong after one of `HOGS`, and whether it was ended later than it should have been."""
    wanted = HOGS[name].how
    wall = 0.5 if wanted == ("wall",) else 8
    cpu = 2.0 if wanted == ("memory",) else 0.4  # a busy machine takes its time to hand out pages
    limits = Limits(cpu_seconds=cpu, wall_seconds=wall, memory_mb=128, output_bytes=1 << 16)
    start = time.monotonic()
    outcome = run(sandbox, PRELUDE + fill(HOGS[name].code, words), limits)
    taken = time.monotonic() - start
    used = outcome.candidate.cpu_seconds
    wrong = [] if outcome.candidate.how in wanted else [f"it ended with {outcome.candidate}: {outcome.stderr!r}"]
    if outcome.verdict != b"honest" and not (name == "flood the judge" and outcome.verdict is None):
        wrong.append(f"verdict {outcome.verdict!r}")
    if len(outcome.stdout) > 1 << 16:
        wrong.append(f"{len(outcome.stdout)} bytes of output")
    if used > limits.cpu_seconds + slack / 2 or taken > limits.wall_seconds + slack:
        return wrong, f"late: {used:.2f} s of CPU, {taken:.2f} s"
    return wrong, ""
