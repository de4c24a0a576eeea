"""The inner side of the sandbox: what a confined process does, before and while it runs foreign code.

These functions never run in this process. :mod:`.sandbox` hands their source to a bare interpreter (``-I -S``: no
environment, no site packages), so each imports what it needs and knows the others by name alone.
"""

from __future__ import annotations

from typing import Any


def encode(value: Any) -> str:
    """``value`` as JSON text: plain Python data in full; of anything else, the items if it can be iterated over.

    Written by hand because importing ``json`` takes longer than most candidates run."""
    from _json import encode_basestring_ascii
    from itertools import islice

    def items(kind: str, values: Any) -> str:
        return f'{{"{kind}": [{", ".join(map(encode, values))}]}}'

    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int):
        return int.__repr__(value)
    if isinstance(value, float):
        return {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}.get(text := float.__repr__(value), text)
    if isinstance(value, str):
        return encode_basestring_ascii(value)
    if isinstance(value, dict):
        return items("dict", value.items())
    if isinstance(value, complex):
        return items("complex", (value.real, value.imag))
    for kind, name in ((list, "list"), (tuple, "tuple"), (set, "set"), (frozenset, "frozenset")):
        if isinstance(value, kind):
            return items(name, value)
    try:
        return items("items", islice(value, 100_000))
    except TypeError:
        return '{"items": null}'


def decode(data: Any) -> Any:
    """Plain data from :func:`encode`. What was no plain data comes back as an iterator: equal to nothing else, but it
    can be iterated over, as a generator or a range can."""
    if not isinstance(data, dict):
        return data
    ((name, items),) = data.items()
    if name == "dict":
        return dict(map(decode, items))
    if name == "complex":
        return complex(*items)
    if name == "items":
        return iter(()) if items is None else iter([decode(item) for item in items])
    return {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}[name](map(decode, items))


def confine(settings: dict[str, Any]) -> None:
    """Give up everything that foreign code must not have; returns in a child process, the first of its own world.

    The parent stays outside, holds nothing but the clock, and kills the child when time is up or SIGTERM comes; with
    the first process of a process namespace all others in it die. Exit code 124: out of time; 70: refused, with the
    reason on stderr.
    """
    import ctypes
    import os
    import resource
    import signal
    import sys

    libc = ctypes.CDLL(None, use_errno=True)

    def must(what: str, result: int) -> None:
        if result:
            print(f"{what}: {os.strerror(ctypes.get_errno())}", file=sys.stderr, flush=True)
            os._exit(70)

    uid, gid = os.geteuid(), os.getegid()
    new_mounts, new_ipc, new_user, new_processes, new_network = 0x20000, 0x8000000, 0x10000000, 0x20000000, 0x40000000
    if settings["namespaces"]:
        must("unshare", libc.unshare(new_mounts | new_ipc | new_processes | new_network | (new_user if uid else 0)))
        if uid:
            for name, line in {"setgroups": "deny", "uid_map": f"{uid} {uid} 1", "gid_map": f"{gid} {gid} 1"}.items():
                with open(f"/proc/self/{name}", "w") as stream:  # noqa: PTH123
                    stream.write(line)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGALRM})
    child = os.fork()
    if child:
        late = []

        def stop(number: int, _: Any) -> None:
            late.append(number == signal.SIGALRM)
            os.kill(child, signal.SIGKILL)

        os.close(0)
        os.close(1)
        signal.signal(signal.SIGALRM, stop)
        signal.signal(signal.SIGTERM, stop)
        signal.setitimer(signal.ITIMER_REAL, settings["wall_s"])
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGALRM})
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        os._exit(124 if any(late) else code if code >= 0 else 128 - code)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGALRM})
    if settings["namespaces"]:
        private, recursive, bind, at_recursive, no_suid_no_dev = 1 << 18, 1 << 14, 1 << 12, 0x8000, 6
        must("mount", libc.mount(None, b"/", None, private | recursive, None))
        read_only = (ctypes.c_uint64 * 4)(1, 0, 0, 0)
        must("mount_setattr", libc.syscall(442, -100, b"/", at_recursive, read_only, 32))
        library = os.open(sys.base_prefix, os.O_PATH)
        size = f"size={settings['file_mb']}m,nr_inodes=1000,mode=1777".encode()
        for folder in filter(os.path.isdir, (b"/run", b"/dev/shm", b"/tmp")):  # hides sockets of services
            must("tmpfs", libc.mount(b"tmpfs", folder, b"tmpfs", no_suid_no_dev, size))
        # Python's own library may lie in a folder that only its owner can enter.
        os.mkdir("/run/python")  # noqa: PTH102
        bound = libc.mount(f"/proc/self/fd/{library}".encode(), b"/run/python", None, bind | recursive, None)
        must("bind", bound)
        os.close(library)
        loaded = [package.__path__ for package in list(sys.modules.values()) if hasattr(package, "__path__")]
        for paths in (sys.path, *loaded):
            paths[:] = [path.replace(sys.base_prefix, "/run/python", 1) for path in paths]
        os.chdir("/tmp")
    else:
        os.chdir(settings["folder"])
    mb = 1 << 20
    limits = {
        "CPU": settings["cpu_s"], "FSIZE": settings["file_mb"] * mb, "NPROC": settings["processes"], "NOFILE": 256,
        "CORE": 0, settings["memory_kind"]: settings["memory_mb"] * mb,
    }  # fmt: skip
    for name, value in limits.items():
        which = getattr(resource, f"RLIMIT_{name}")
        hard = resource.getrlimit(which)[1]
        most = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (most, most))
    if not uid:
        os.setgroups([])
        os.setresgid(*[settings["owner"]] * 3)
        os.setresuid(*[settings["owner"]] * 3)
    no_new_privileges, parent_death_signal = 38, 1
    must("no_new_privs", libc.prctl(no_new_privileges, 1, 0, 0, 0))
    must("capset", libc.capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()))
    must("prctl", libc.prctl(parent_death_signal, signal.SIGKILL, 0, 0, 0))


def refuse_by_audit(folder: str) -> None:
    """Without namespaces: no sockets, no foreign libraries, no processes, no writing outside ``folder``. This stops
    what Python's own functions do; it is no wall against code that attacks the interpreter."""
    import os
    import sys

    kinds = ("socket.", "ctypes.", "subprocess.", "os.exec", "os.posix_spawn", "os.fork", "os.system", "os.kill")
    changing = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate", "os.ch",
                "os.utime", "shutil.")  # fmt: skip
    writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

    def outside(path: Any) -> bool:
        return not isinstance(path, int) and not os.path.realpath(os.fspath(path)).startswith(folder + os.sep)

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        wrong = event.startswith(kinds)
        wrong |= event == "open" and bool((arguments[2] or 0) & writing) and outside(arguments[0])
        wrong |= event.startswith(changing) and any(outside(a) for a in arguments if isinstance(a, (str, bytes)))
        if wrong:
            raise PermissionError(f"the sandbox refuses {event}")

    sys.addaudithook(watch)


def serve() -> None:
    """Run the code that the first line of stdin holds (requests are Python literals), then call its functions as
    further lines ask, and answer each in JSON on what was stdout. What the code prints goes to stderr, a file of
    limited size."""
    import os

    requests, replies = os.fdopen(os.dup(0), "rb"), os.dup(1)
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    os.dup2(2, 1)
    space: dict[str, Any] = {"__name__": "candidate"}
    for line in requests:
        name, argument = eval(line, {"inf": float("inf"), "nan": float("nan")})
        try:
            if name:
                text = f'{{"value": {encode(space[name](*argument))}}}'
            else:
                exec(compile(argument, "candidate", "exec"), space)
                text = '{"value": null}'
        except BaseException as error:
            text = f'{{"error": {encode(f"{type(error).__name__}: {error}"[:300])}}}'
        data = text.encode() + b"\n"
        while data:
            data = data[os.write(replies, data) :]


def main() -> None:
    """Confine this process as the first argument, a Python literal, says; then serve code, or become a program."""
    import _json  # noqa: F401  while its file can be read
    import os
    import sys

    settings = eval(sys.argv[1])
    confine(settings)
    if settings["program"]:
        for name, text in settings["files"].items():
            with open(name, "w") as stream:  # noqa: PTH123
                stream.write(text)
        os.execv(settings["program"][0], settings["program"])
    if not settings["namespaces"]:
        refuse_by_audit(os.path.realpath(settings["folder"]))
    serve()
