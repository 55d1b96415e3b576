"""Child processes of the benchmarks and what the kernel tells about them: CPU time, memory, ports.

Every child is ended by its own pid, by the `with` block that started it, and by the kernel should this process be
killed (PR_SET_PDEATHSIG).
"""

import contextlib
import ctypes
import os
import resource
import signal
import socket
import subprocess
import time

_libc = ctypes.CDLL(None, use_errno=True)
_PR_SET_PDEATHSIG = 1


class BenchError(Exception):
    """A measurement or a process failed; the message says which and what it printed."""


def _die_with_parent():
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


class Child:
    """A running program, its output in a log file (or a pipe when `pipes`)."""

    def __init__(self, name, argv, log_path, pipes=False):
        self.name, self.log_path = name, log_path
        self._log = open(log_path, "ab")
        self.process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
            stdout=subprocess.PIPE if pipes else self._log,
            stderr=self._log,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )

    @property
    def pid(self):
        return self.process.pid

    def alive(self):
        return self.process.poll() is None

    def family(self):
        """Its pid and those of its descendants: nginx works in a child."""
        found, todo = [], [self.pid]
        while todo:
            pid = todo.pop()
            found.append(pid)
            with contextlib.suppress(OSError):
                for thread in os.listdir(f"/proc/{pid}/task"):
                    with open(f"/proc/{pid}/task/{thread}/children") as file:
                        todo += [int(word) for word in file.read().split()]
        return found

    def close_input(self, patience=10):
        """Ends standard input and returns what the program prints after that."""
        try:
            output, _ = self.process.communicate(timeout=patience)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name} goes on after its input has ended")
        if self.process.returncode != 0:
            raise BenchError(f"{self.name} failed: {self.last_words()}")
        return output.decode()

    def last_words(self):
        with contextlib.suppress(OSError):
            with open(self.log_path, "rb") as file:
                lines = file.read()[-2000:].decode(errors="replace").strip().splitlines()
                return " / ".join(lines[-3:]) or "it printed nothing"
        return "no log"

    def stop(self):
        family = self.family() if self.alive() else []
        if self.alive():
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(5)
        if self.alive():
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.wait(5)
        for stream in (self.process.stdin, self.process.stdout, self._log):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()


def run_tool(name, argv, timeout):
    """Runs a program to its end and returns what it printed."""
    try:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=_die_with_parent,
        )
    except OSError as error:
        raise BenchError(f"{name} cannot be started: {error}")
    try:
        output, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{name} took longer than {timeout:.0f} s")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        words = (errors or output).decode(errors="replace").strip()[-400:]
        raise BenchError(f"{name} failed with {process.returncode}: {words}")
    return output.decode()


def cpu_seconds(pids):
    """User and system time of all threads of the processes so far (proc(5), stat fields 14 and 15)."""
    ticks = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def private_bytes(pids):
    """Anonymous and shared memory of the processes, shared pages by their share (smaps_rollup's Pss_*): what they
    allotted, without program text and without the kernel's sockets and pipes."""
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            for line in file:
                if line.startswith(("Pss_Anon:", "Pss_Shmem:")):
                    total += int(line.split()[1]) * 1024
    return total


def place(pids, cpus):
    """Lets every thread of the processes run on `cpus` only."""
    for pid in pids:
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(int(thread), cpus)


def raise_descriptor_limit():
    """Soft limit to the hard one, for this process and all it starts. Returns it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def listening(port):
    """Whether some process has a listening TCP socket on the port. No connection is made: iperf3 would count it."""
    wanted = f":{port:04X}"
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(OSError), open(table) as file:
            for line in file:
                words = line.split()
                if words[1].endswith(wanted) and words[3] == "0A":
                    return True
    return False


def wait_listening(child, port, patience=15):
    deadline = time.monotonic() + patience
    while not listening(port):
        if not child.alive():
            raise BenchError(f"{child.name} ended at its start: {child.last_words()}")
        if time.monotonic() > deadline:
            raise BenchError(f"{child.name} does not listen on port {port} after {patience} s: {child.last_words()}")
        time.sleep(0.02)


class Ports:
    """Free ports of 127.0.0.1, below those the kernel hands out to clients."""

    def __init__(self, first=20000):
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            lowest_client_port = int(file.read().split()[0])
        self._next, self._end = first, lowest_client_port if lowest_client_port > first + 200 else 65536

    def take(self, count=1):
        """The first of `count` neighbouring ports, each free for TCP and UDP."""
        while self._next + count <= self._end:
            first, self._next = self._next, self._next + count
            if all(self._free(port) for port in range(first, first + count)):
                return first
        raise BenchError("no free ports left below the client port range")

    @staticmethod
    def _free(port):
        try:
            for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                with socket.socket(socket.AF_INET, kind) as probe:
                    if kind == socket.SOCK_STREAM:
                        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
