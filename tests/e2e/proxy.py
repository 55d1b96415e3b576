"""The proxy under test: started with a generated configuration on free loopback ports, asked through its admin pages,
ended by its process id. Every test file builds on ProxyTest, which shows the proxy's log when a test fails and checks
that each proxy ends with status 0 on SIGTERM. Standard library only."""
import contextlib
import copy
import ctypes
import http.client
import json
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BINARY = os.environ.get("MARCHPROXY_BINARY", os.path.join(ROOT, "build", "marchproxy-l3l4"))
HOST = "127.0.0.1"
PATIENCE = float(os.environ.get("MARCHPROXY_PATIENCE", "1"))  # times as long as elsewhere: on an emulated processor
FIRST_PORT, PORTS_A_SLOT, SLOTS = 10000, 200, 100  # below Linux's ephemeral range, which starts at 32768


class _Ports:
    """Ports for listeners. Test files run side by side: each holds a slot of ports by an abstract unix socket, which
    the kernel frees with the process."""
    lock = None
    next = 0

    @classmethod
    def take(cls):
        if cls.lock is None:
            for slot in range(SLOTS):
                lock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
                try:
                    lock.bind(f"\0marchproxy-e2e-{slot}")
                except OSError:
                    lock.close()
                    continue
                cls.lock, cls.next = lock, FIRST_PORT + slot * PORTS_A_SLOT
                cls.end = cls.next + PORTS_A_SLOT
                break
            else:
                raise RuntimeError("no free slot of test ports")
        while cls.next < cls.end:
            port = cls.next
            cls.next += 1
            if all(_bindable(kind, port) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)):
                return port
        raise RuntimeError("the test file's slot of ports is used up")


def _bindable(kind, port):
    with socket.socket(socket.AF_INET, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("0.0.0.0", port))
        except OSError:
            return False
    return True


def free_port():
    return _Ports.take()


def yaml(value, indent=0):
    """The subset of YAML that people write: block mappings and lists, plain scalars where they are unambiguous."""
    pad = "  " * indent
    if isinstance(value, dict) and value:
        lines = []
        for key, inner in value.items():
            if isinstance(inner, (dict, list)) and inner:
                lines.append(f"{pad}{key}:\n{yaml(inner, indent + 1)}")
            else:
                lines.append(f"{pad}{key}: {yaml(inner)}")
        return "\n".join(lines)
    if isinstance(value, list) and value:
        lines = []
        for inner in value:
            if isinstance(inner, (dict, list)) and inner:
                text = yaml(inner, indent + 1)
                lines.append(f"{pad}- {text.lstrip()}")
            else:
                lines.append(f"{pad}- {yaml(inner)}")
        return "\n".join(lines)
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_./%-]*", value) and \
            value not in ("true", "false", "null", "yes", "no"):
        return value
    return json.dumps(value)


def endpoint(address, **more):
    """An endpoint from a port, a (host, port) pair or a text."""
    if isinstance(address, int):
        address = f"{HOST}:{address}"
    elif isinstance(address, tuple):
        address = f"[{address[0]}]:{address[1]}" if ":" in address[0] else f"{address[0]}:{address[1]}"
    return {"address": address, **more}


def service(*endpoints, name="web", protocol="tcp", listen=None, **more):
    """A service with a listener of its own, as the configuration has it."""
    listen = listen or f"{HOST}:{free_port()}"
    return {"name": name, "protocol": protocol, "listen": listen, **more,
            "endpoints": [e if isinstance(e, dict) else endpoint(e) for e in endpoints]}


def address_of(service_or_text):
    """(host, port) of a service's listener."""
    text = service_or_text if isinstance(service_or_text, str) else service_or_text["listen"]
    host, port = text.rsplit(":", 1)
    return host.strip("[]"), int(port)


def eventually(check, what, seconds=10.0, every=0.02):
    """The first true value of check(); fails with `what` when none comes in time."""
    seconds *= PATIENCE
    deadline = time.monotonic() + seconds
    while True:
        value = check()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(every)


class Metrics:
    """Samples of one scrape of /metrics."""
    LINE = re.compile(r"^([A-Za-z_:][\w:]*)(?:\{(.*)\})? ([^ ]+)(?: .*)?$")
    LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')

    def __init__(self, text):
        self.text = text
        self.samples = []
        for line in text.splitlines():
            if line.startswith("#") or not line:
                continue
            parsed = self.LINE.match(line)
            if not parsed:
                raise AssertionError(f"no Prometheus sample: {line!r}")
            labels = {k: re.sub(r"\\(.)", lambda m: "\n" if m[1] == "n" else m[1], v)
                      for k, v in self.LABEL.findall(parsed.group(2) or "")}
            self.samples.append((parsed.group(1), labels, float(parsed.group(3))))

    def sum(self, name, **labels):
        name = name if name.startswith("marchproxy_") else "marchproxy_" + name
        return sum(value for sample, has, value in self.samples
                   if sample == name and all(has.get(k) == v for k, v in labels.items()))

    def names(self):
        return {sample for sample, _, _ in self.samples}


class Response:
    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        return json.loads(self.body)


class Proxy:
    """One running proxy.

    services   a list as the configuration has it; None: no services key
    settings   further top-level keys; admin.port, log and drain_timeout have test defaults
    prefix     a command in front of the binary, such as ip netns exec NAME
    """

    def __init__(self, services=None, settings=None, arguments=(), environment=None, prefix=(), preexec=None,
                 notify=False, file=True, admin_host=HOST, binary=None):
        self.folder = tempfile.mkdtemp(prefix="marchproxy-e2e-")
        self.config_file = os.path.join(self.folder, "marchproxy.yaml")
        self.log_file = os.path.join(self.folder, "log")
        self.admin_host = admin_host
        self.admin_port = free_port()
        self.settings = {"admin": {"address": admin_host, "port": self.admin_port}, "log": {"level": "DEBUG"},
                         "drain_timeout": "500ms", **(settings or {})}
        self.services = services
        self.write_config()
        self.notify_socket = None
        if notify:
            self.notify_socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self.notify_socket.bind(os.path.join(self.folder, "notify"))
            self.notify_socket.settimeout(10)
        self.arguments = [*prefix, binary or BINARY, "run"]
        if file:
            self.arguments += ["--config", self.config_file]
        self.arguments += list(arguments)
        self.environment = {k: v for k, v in os.environ.items()
                            if not k.startswith(("MARCHPROXY_", "NOTIFY_SOCKET", "LISTEN_"))}
        if notify:
            self.environment["NOTIFY_SOCKET"] = os.path.join(self.folder, "notify")
        self.environment.update(environment or {})
        self.preexec = preexec
        self.process = None
        self.pid = None
        self.ended = None  # the exit status, once it has one
        self.expected_exit = 0

    # --- its life --------------------------------------------------------------------------------------------------

    def write_config(self, services=None, settings=None):
        if services is not None:
            self.services = services
        if settings is not None:
            self.settings.update(settings)
        tree = dict(self.settings)
        if "paths" in tree:  # the book of a test is its own
            tree["multicloud"] = {"cost_book": os.path.join(self.folder, "costs.db"), **tree.get("multicloud", {})}
        if self.services is not None:
            tree["services"] = self.services
        temporary = self.config_file + ".new"
        with open(temporary, "w", encoding="utf-8") as stream:
            stream.write(yaml(tree) + "\n")
        os.rename(temporary, self.config_file)

    def start(self, wait="/readyz"):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.arguments, env=self.environment, stdin=subprocess.DEVNULL,
                                            stdout=log, stderr=log, preexec_fn=self.preexec, cwd=self.folder)
        self.pid, self.ended = self.process.pid, None
        if wait:
            self.wait_for(wait)
        return self

    def wait_for(self, page="/readyz", status=200, seconds=20):
        def answered():
            if self.poll() is not None:
                raise AssertionError(f"the proxy ended with {self.ended} instead of serving {page}\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                return self.get(page).status == status
            return False
        eventually(answered, lambda: f"{page} answers {status}\n{self.log()}", seconds)

    def poll(self):
        """The exit status, or None while it runs."""
        if self.ended is None and self.process is not None:
            if self.pid == self.process.pid:
                self.ended = self.process.poll()
            else:  # the process that took over from the one this test started: an adopted child
                with contextlib.suppress(ChildProcessError):
                    pid, status = os.waitpid(self.pid, os.WNOHANG)
                    if pid:
                        self.ended = os.waitstatus_to_exitcode(status)
        return self.ended

    def signal(self, number):
        os.kill(self.pid, number)

    def wait(self, seconds=15):
        eventually(lambda: self.poll() is not None, "the proxy ends", seconds)
        return self.ended

    def stop(self):
        """SIGTERM and wait; what does not end in time is killed and reported."""
        if self.process is None or self.poll() is not None:
            return self.ended
        self.signal(signal.SIGTERM)
        try:
            return self.wait()
        except AssertionError:
            with contextlib.suppress(ProcessLookupError):
                self.signal(signal.SIGKILL)
                self.wait()
            raise AssertionError(f"the proxy did not end on SIGTERM\n{self.log()}") from None

    def remove(self):
        if self.notify_socket:
            self.notify_socket.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def reload(self, services=None, settings=None, result=None):
        """Writes the configuration, sends SIGHUP and waits until it has been taken or refused; says which."""
        self.write_config(services, settings)
        before = self.reloads()
        self.signal(signal.SIGHUP)
        eventually(lambda: sum(self.reloads().values()) > sum(before.values()), lambda: "reload\n" + self.log())
        after = self.reloads()
        outcome = [k for k in after if after[k] > before.get(k, 0)]
        return outcome[0]

    def reloads(self):
        return {labels["result"]: value for name, labels, value in self.metrics().samples
                if name == "marchproxy_config_reload_total"}

    def adopt_successor(self, pid):
        """From now on this object stands for the process that took over (SIGUSR2). The test must be a subreaper."""
        self.pid, self.ended = pid, None

    def successor(self):
        """The process that took over, from what the kernel says of children."""
        def child():
            for pid in (int(p) for p in os.listdir("/proc") if p.isdigit() and int(p) != self.pid):
                try:
                    with open(f"/proc/{pid}/stat", encoding="utf-8") as stream:
                        text = stream.read()
                    with open(f"/proc/{pid}/cmdline", encoding="utf-8") as stream:
                        command = stream.read()
                except OSError:
                    continue
                parent = int(text.rsplit(")", 1)[1].split()[1])
                if parent in (self.pid, os.getpid()) and self.config_file in command:
                    return pid
            return None
        return eventually(child, lambda: "a new process\n" + self.log())

    def replace(self):
        """SIGUSR2; once the new process serves, this object stands for it, and what stands for the old one is returned."""
        old = copy.copy(self)
        self.signal(signal.SIGUSR2)
        new = self.successor()
        eventually(lambda: f'"process":{new},"took_over":true' in self.log(None), lambda: "it takes over\n" + self.log())
        self.adopt_successor(new)
        return old

    # --- what it tells ---------------------------------------------------------------------------------------------

    def log(self, tail=60):
        with open(self.log_file, encoding="utf-8", errors="replace") as stream:
            lines = stream.read().splitlines()
        return "\n".join(lines if tail is None else lines[-tail:])

    def request(self, method, path, headers=None, body=None, timeout=10):
        connection = http.client.HTTPConnection(self.admin_host, self.admin_port, timeout=timeout * PATIENCE)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path, **more):
        return self.request("GET", path, **more)

    def post(self, path, token=None):
        return self.request("POST", path, headers={"Authorization": f"Bearer {token}"} if token else {})

    def json(self, path):
        answer = self.get(path)
        if answer.status != 200:
            raise AssertionError(f"{path}: {answer.status} {answer.text}")
        return answer.json()

    def metrics(self):
        answer = self.get("/metrics")
        if answer.status != 200:
            raise AssertionError(f"/metrics: {answer.status}")
        return Metrics(answer.text)

    def status(self):
        return self.json("/status")

    def service(self, name="web"):
        return next(s for s in self.json("/api/v1/services") if s["name"] == name)

    def flows(self, query=""):
        return self.json("/api/v1/flows" + query)

    def ended_with(self, reason, service="web"):
        """Connections and datagrams that ended, or were refused, with this verdict."""
        metrics = self.metrics()
        return metrics.sum("connections_total", service=service, result=reason) + \
            metrics.sum("dropped_total", service=service, reason=reason)

    def wait_ended_with(self, reason, count=1, service="web", seconds=10):
        eventually(lambda: self.ended_with(reason, service) >= count,
                   lambda: f"{count} with verdict {reason}, there are {self.ended_with(reason, service)}", seconds)

    def command(self, *arguments, timeout=20):
        """A read command of the command line against this proxy."""
        return run(*arguments, "--admin", f"http://{self.admin_host}:{self.admin_port}", timeout=timeout)

    def resident_bytes(self):
        with open(f"/proc/{self.pid}/status", encoding="utf-8") as stream:
            return int(re.search(r"VmRSS:\s+(\d+) kB", stream.read()).group(1)) * 1024

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.pid}/fd"))


def run(*arguments, environment=None, timeout=20, cwd=None, prefix=()):
    """The binary with these arguments, to its end; prefix as Proxy's."""
    base = {k: v for k, v in os.environ.items() if not k.startswith(("MARCHPROXY_", "LISTEN_"))}
    return subprocess.run([*prefix, BINARY, *arguments], capture_output=True, text=True, timeout=timeout,
                          env={**base, **(environment or {})}, stdin=subprocess.DEVNULL, cwd=cwd, errors="replace")


def become_subreaper():
    """Orphans of our children become ours, so that a process that took over can be waited for."""
    ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


class ProxyTest(unittest.TestCase):
    """Starts proxies that end with the test, and shows their logs when it fails."""
    longMessage = True

    def setUp(self):
        self.started = []

    def start(self, *services, wait="/readyz", **options):
        proxy = Proxy(list(services) if services else None, **options)
        self.started.append(proxy)
        self.addCleanup(self._end, proxy)
        return proxy.start(wait)

    def keep(self, resource):
        """A socket or server that closes when the test is over."""
        self.addCleanup(resource.close)
        return resource

    def dial(self, target, timeout=10, source=None):
        """connect(), from wherever the test's clients are."""
        return self.connect(target, timeout, source)

    def connect(self, target, timeout=10, source=None):
        """A client connection to a service (or host and port)."""
        address = target if isinstance(target, tuple) else address_of(target)
        return self.keep(socket.create_connection(address, timeout=timeout * PATIENCE,
                                                  source_address=(source, 0) if source else None))

    def _end(self, proxy):
        status = proxy.stop()
        self.assertEqual(proxy.expected_exit, status, f"exit status of the proxy\n{proxy.log()}")

    def run(self, result=None):
        result = result or self.defaultTestResult()
        before = len(result.failures) + len(result.errors)
        super().run(result)
        for proxy in getattr(self, "started", []):
            if len(result.failures) + len(result.errors) > before and os.path.exists(proxy.log_file):
                print(f"--- log of the proxy of {self.id()}\n{proxy.log()}\n---", file=sys.stderr)
            proxy.remove()
        return result

    # --- what a client sees ----------------------------------------------------------------------------------------

    def assert_closed(self, connection, seconds=3.0, what="the proxy closes the connection"):
        """The peer closes, in order or by reset, without a byte before."""
        ready, _, _ = select.select([connection], [], [], seconds)
        self.assertTrue(ready, what)
        try:
            self.assertEqual(b"", connection.recv(1), what)
        except ConnectionError:
            pass

    def assert_turned_away(self, target, seconds=3.0, source=None):
        """A fresh connection ends without a byte; a reset may come before connect() is through."""
        try:
            connection = self.dial(target, source=source)
        except ConnectionError:
            return
        self.assert_closed(connection, seconds)

    def assert_echo(self, connection, text=b"are you there?"):
        """An echo server answers through this connection."""
        connection.sendall(text)
        self.assertEqual(text, receive_exactly(connection, len(text)))


def receive_exactly(connection, size):
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise AssertionError(f"closed after {len(data)} of {size} bytes")
        data += piece
    return data


def receive_all(connection):
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def requires(program):
    """Skips a test by the name of the program that is not installed."""
    return unittest.skipUnless(shutil.which(program), f"{program} is not installed")


def main():
    """Runs the calling file's tests; 77 when all of them were skipped, which ctest counts as skipped."""
    if not os.access(BINARY, os.X_OK):
        print(f"{BINARY} is not built; make build builds it", file=sys.stderr)
        sys.exit(1)
    program = unittest.main(module="__main__", verbosity=2, exit=False)
    result = program.result
    if not result.wasSuccessful():
        sys.exit(1)
    if result.skipped and len(result.skipped) >= result.testsRun:  # a class skipped whole counts no run
        sys.exit(77)
