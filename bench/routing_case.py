#!/usr/bin/env python3
"""One outage, or one look at what checks cost, in the network namespace that this process is in; one line of JSON.
    routing_case.py SUBJECT killed|dark|dark-10ms|checks PROGRAM
Four endpoints at 127.0.0.11 to 14, some 1,000 new connections a second; after a while the second endpoint is killed, or what
is sent to it vanishes. Told is how long after that the last new connection was tried there, what clients noticed, and how
long the slowest waited."""

import contextlib
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

ENDPOINTS = [f"127.0.0.{11 + i}" for i in range(4)]
VICTIM = ENDPOINTS[1]
PORT, LISTEN, MANY = 8000, 9000, 5000
THREADS, PAUSE, BEFORE, AFTER = 400, 0.4, 1.5, 3.0  # so that who waits in the dark leaves enough others
LONGEST = 60
NGINX_STREAM_MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


class Endpoint:
    """Says a letter to whoever connects, and waits until it hangs up; what it has said is with the client by then."""

    def __init__(self, host, port=PORT):
        self.listener = socket.create_server((host, port), backlog=4096)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    @staticmethod
    def _serve(connection):
        with contextlib.suppress(OSError), connection:
            connection.sendall(b"x")
            connection.recv(1)

    def kill(self):
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def hang_up_on_all(listener):
    """Thousands a second: without a thread for each."""
    while True:
        connection, _ = listener.accept()
        connection.close()


def connects():
    """Of this namespace so far."""
    with open("/proc/net/snmp", encoding="utf-8") as file:
        names, values = (line.split() for line in file if line.startswith("Tcp:"))
    return int(values[names.index("ActiveOpens")])


class Arrivals:
    """When connections to the victim were tried for the first time: its SYNs, as the loopback interface has them."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
        self.socket.bind(("lo", 0x0800))
        self.seen, self.times = set(), []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        victim = socket.inet_aton(VICTIM)
        while True:
            packet = self.socket.recv(128)
            header = (packet[0] & 15) * 4
            if packet[9] != 6 or packet[16:20] != victim or packet[header + 13] & 0x12 != 2:
                continue
            source, port, number = struct.unpack_from("!HHI", packet, header)
            # Again is no new connection; checks go to another port.
            if port == PORT and (source, number) not in self.seen:
                self.seen.add((source, number))
                self.times.append(time.monotonic())


class Clients:
    def __init__(self):
        self.errors, self.answers, self.slowest, self.over = 0, 0, 0.0, False
        self.lock = threading.Lock()
        self.threads = [threading.Thread(target=self._run) for _ in range(THREADS)]
        for thread in self.threads:
            thread.start()

    def _run(self):
        while not self.over:
            began, error = time.monotonic(), False
            try:
                with socket.create_connection(("127.0.0.1", LISTEN), timeout=15) as client:
                    error = client.recv(1) != b"x"
            except OSError:
                error = True
            took = time.monotonic() - began
            with self.lock:
                self.errors += error
                self.answers += not error
                self.slowest = max(self.slowest, took)
            time.sleep(PAUSE * random.uniform(0.5, 1.5))

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()


# --- the subjects, each with what it has against outages -------------------------------------------------------------

def marchproxy(outage):
    probe = {"interval": "10ms", "timeout": "9ms"} if outage == "dark-10ms" else {}
    return "marchproxy.json", json.dumps({
        "admin": {"port": 9001}, "log": {"level": "ERROR"}, "packet": {"enabled": False},
        "stream": {"workers": 1},
        "multicloud": {"enabled": True, "probe": {**probe, "port": PORT + 1}, "cost_book": ""},
        "services": [{"name": "web", "listen": f"127.0.0.1:{LISTEN}", "routing": {"policy": "round_robin"},
                      "endpoints": [{"address": f"{host}:{PORT}"} for host in ENDPOINTS]}]})


def haproxy(outage):
    inter, timeout = ("10ms", "9ms") if outage == "dark-10ms" else ("200ms", "150ms")
    servers = "\n".join(f"    server s{i} {host}:{PORT} check port {PORT + 1}" for i, host in enumerate(ENDPOINTS))
    return "haproxy.cfg", f"""global
    nbthread 1
defaults
    mode tcp
    retries 3
    option redispatch 1
    timeout connect 5s
    timeout check {timeout}
    timeout client 1h
    timeout server 1h
    default-server inter {inter} fastinter {inter} downinter {inter} fall 3 rise 2 observe layer4 error-limit 3 on-error mark-down on-marked-down shutdown-sessions
listen web
    bind 127.0.0.1:{LISTEN} backlog 4096
    balance roundrobin
{servers}
"""


def nginx(_outage):
    servers = " ".join(f"server {host}:{PORT} max_fails=3 fail_timeout=10s;" for host in ENDPOINTS)
    return "nginx.conf", f"""load_module {NGINX_STREAM_MODULE};
daemon off;
master_process off;
error_log stderr crit;
pid nginx.pid;
events {{ worker_connections 20000; }}
stream {{
    upstream web {{ {servers} }}
    server {{ listen 127.0.0.1:{LISTEN} backlog=4096; proxy_pass web; proxy_connect_timeout 5s; proxy_next_upstream on; }}
}}
"""


COMMANDS = {"marchproxy": lambda program, file, _: [program, "run", "-c", file],
            "haproxy": lambda program, file, _: [program, "-db", "-f", file],
            "nginx": lambda program, file, folder: [program, "-c", file, "-p", folder, "-e", "stderr"]}


@contextlib.contextmanager
def running(subject, program, configuration):
    with tempfile.TemporaryDirectory() as folder:
        name, text = configuration
        file = os.path.join(folder, name)
        with open(file, "w", encoding="utf-8") as stream:
            stream.write(text)
        child = subprocess.Popen(COMMANDS[subject](program, file, folder), stdout=subprocess.DEVNULL, stderr=sys.stderr)
        try:
            for _ in range(200):
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", LISTEN), timeout=1):
                    break
                if child.poll() is not None:
                    raise SystemExit(f"{subject} ended with {child.returncode}")
                time.sleep(0.05)
            yield child
        finally:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(5)
            if child.poll() is None:
                child.kill()
                child.wait()


def outage_of(subject, outage, program):
    endpoints = {host: (Endpoint(host), Endpoint(host, PORT + 1)) for host in ENDPOINTS}
    with running(subject, program, globals()[subject](outage)):
        time.sleep(1)  # all is known of everybody
        arrivals, clients = Arrivals(), Clients()
        time.sleep(BEFORE)
        answers = clients.answers
        moment = time.monotonic()
        if outage == "killed":
            for endpoint in endpoints[VICTIM]:
                endpoint.kill()
        else:
            subprocess.run(["nft", f"add table inet dark; add chain inet dark in {{ type filter hook input priority 0 ; }}; "
                            f"add rule inet dark in ip daddr {VICTIM} drop"], check=True)
        time.sleep(AFTER)
        clients.stop()
    after = [when - moment for when in arrivals.times if when > moment]
    return {"left": round(1e3 * max(after, default=0), 1), "errors": clients.errors,
            "slowest": round(1e3 * clients.slowest, 1), "rate": round(answers / BEFORE)}


def checks_of_haproxy(program):
    """5,000 servers checked by TCP each 200 ms, and nothing else."""
    listener = socket.create_server(("0.0.0.0", PORT), backlog=4096)
    threading.Thread(target=hang_up_on_all, args=(listener,), daemon=True).start()
    servers = "\n".join(f"    server s{i} 127.1.{i // 250}.{1 + i % 250}:{PORT} check inter 200ms" for i in range(MANY))
    text = f"""global
    nbthread 1
    maxconn 1000
    spread-checks 10
defaults
    mode tcp
    timeout connect 5s
    timeout check 150ms
    timeout client 1h
    timeout server 1h
listen web
    bind 127.0.0.1:{LISTEN}
{servers}
"""
    with running("haproxy", program, ("haproxy.cfg", text)) as child:
        time.sleep(2)
        ticks = os.sysconf("SC_CLK_TCK")

        def cpu():
            with open(f"/proc/{child.pid}/stat", encoding="utf-8") as stream:
                fields = stream.read().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / ticks

        before, began, count = cpu(), time.monotonic(), connects()
        time.sleep(4)
        took = time.monotonic() - began
        return {"cores": round((cpu() - before) / took, 3), "rate": round((connects() - count) / took)}


def main():
    subject, outage, program = sys.argv[1:]
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    found = checks_of_haproxy(program) if outage == "checks" else outage_of(subject, outage, program)
    print(json.dumps(found), flush=True)
    os._exit(0)  # the endpoints' threads wait for nobody


if __name__ == "__main__":
    main()
