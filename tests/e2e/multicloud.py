#!/usr/bin/env python3
"""Routing by measured paths between real namespaces: four clouds, each behind a link of its own, and what goes wrong with
them while connections come in."""
import collections
import contextlib
import json
import socket
import struct
import threading
import time

import proxy
from netns import PROXY, World, checked, inside, ip
from peers import Datagrams, Echo, Named
from proxy import address_of, eventually, service

CLOUDS = ("aws", "gcp", "azure", "onprem")
PORT, HEALTH = 8000, 8001
TOGETHER = {"policy": "round_robin"}


class Arrivals:
    """When the first packets of TCP connections to a port came in on a namespace's link."""

    def __init__(self, namespace, port):
        with inside(namespace):
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
            self.socket.bind(("up0", 0x0800))
        self.socket.settimeout(0.2)
        self.port, self.times, self.over = port, [], False
        self.thread = threading.Thread(target=self._listen)
        self.thread.start()

    def _listen(self):
        while not self.over:
            with contextlib.suppress(socket.timeout):
                frame = self.socket.recv(2048)
                header = 14 + (frame[14] & 15) * 4
                if frame[23] != 6 or len(frame) < header + 14:
                    continue
                port, = struct.unpack_from("!H", frame, header + 2)
                if port == self.port and frame[header + 13] & 0x12 == 2:
                    self.times.append(time.monotonic())

    def close(self):
        self.over = True
        self.thread.join()
        self.socket.close()

    def last_after(self, moment):
        """Seconds from the moment to the last arrival; 0: none came after it."""
        return max([0.0] + [when - moment for when in self.times if when > moment])


class Clients:
    """Threads that make a new connection each, again and again, and wait for the endpoint's name, and an echo if told."""

    def __init__(self, test, target, threads, pause=0.0, talk=False):
        self.answers, self.errors, self.slowest = collections.Counter(), [], 0.0
        self.over, self.talk = False, talk
        self.threads = [threading.Thread(target=self._run, args=(test, address_of(target), pause)) for _ in range(threads)]
        for thread in self.threads:
            thread.start()

    def _run(self, test, target, pause):
        with inside(test.client):
            while not self.over:
                began = time.monotonic()
                try:
                    with socket.create_connection(target, timeout=10) as client:
                        said = client.makefile()
                        name = said.readline().strip()
                        if self.talk:
                            client.sendall(b"and you?\n")
                            name = said.readline() and name
                    self.answers[name] += 1
                    if not name:
                        self.errors.append("closed without an answer")
                except OSError as error:
                    self.errors.append(repr(error))
                self.slowest = max(self.slowest, time.monotonic() - began)
                time.sleep(pause)

    def stop(self):
        self.over = True
        for thread in self.threads:
            thread.join()


class Multicloud(World):
    def setUp(self):
        super().setUp()
        self.names = {}
        for number, cloud in enumerate(CLOUDS):
            self.names[cloud] = f"{self.server}{number}"
            ip("netns", "add", self.names[cloud])
            self.addCleanup(ip, "netns", "del", self.names[cloud])
            ip("-n", self.names[cloud], "link", "set", "lo", "up")
            self.link(self.names[cloud], "up0", f"{self.host(cloud)}/24", None, cloud, f"10.93.{10 + number}.1/24", None)

    @staticmethod
    def host(cloud):
        return f"10.93.{10 + CLOUDS.index(cloud)}.2"

    def serve_in(self, cloud, make):
        with inside(self.names[cloud]):
            return self.keep(make())

    def serve_all(self):
        """In each cloud a server that says the cloud's name, and one to be probed."""
        return {cloud: (self.serve_in(cloud, lambda cloud=cloud: Named(cloud, host=self.host(cloud), port=PORT)),
                        self.serve_in(cloud, lambda cloud=cloud: Echo(host=self.host(cloud), port=HEALTH)))
                for cloud in CLOUDS}

    def web(self, routing, **more):
        return service(*((self.host(cloud), PORT) for cloud in CLOUDS), listen=f"{PROXY}:{PORT}", routing=routing, **more)

    def run_clouds(self, web, **multicloud):
        paths = [{"name": cloud, "provider": cloud, "region": "r1", "cost_per_gb": cost, "destinations": [f"{self.host(cloud)}/32"]}
                 for cloud, cost in zip(CLOUDS, (0.09, 0.08, 0.05, 0.0))]
        settings = {"multicloud": {"enabled": True, "probe": {"port": HEALTH}, "slow_start": "1s", **multicloud}, "paths": paths}
        running = self.begin(web, settings=settings)
        eventually(lambda: all(path["rtt_seconds"] for path in running.json("/api/v1/paths")), "all paths are measured")
        return running

    def ask(self, target):
        with contextlib.closing(self.dial(target)) as client:
            return client.makefile().readline().strip()

    def nft(self, cloud, *commands):
        for command in commands:
            checked(["ip", "netns", "exec", self.names[cloud], "nft", command])

    def swallow(self, cloud, what=""):
        """From now on the cloud's packets vanish on their way in."""
        self.nft(cloud, "add table inet test", "add chain inet test in { type filter hook input priority 0 ; }",
                 f"add rule inet test in {what} drop")

    def give_back(self, cloud):
        self.nft(cloud, "delete table inet test")

    def path(self, running, name):
        return next(path for path in running.json("/api/v1/paths") if path["name"] == name)

    def explain(self, running):
        with inside(self.middle):
            return json.loads(running.command("paths", "explain", "--service", "web", "--source", "10.1.2.3", "--json").stdout)

    # --- outages ---

    def test_a_killed_endpoint_is_left_and_no_client_notices(self):
        servers = self.serve_all()
        web = self.web(TOGETHER)
        running = self.run_clouds(web)
        arrivals = self.keep(Arrivals(self.names["gcp"], PORT))
        clients = Clients(self, web, 8)
        time.sleep(1)
        moment = time.monotonic()
        # First they refuse; those that were let in before have been told the name by when they are cut off.
        for server in servers["gcp"]:
            server.listener.shutdown(socket.SHUT_RDWR)
        time.sleep(0.2)
        for server in servers["gcp"]:
            server.close()
        time.sleep(1.3)
        clients.stop()
        self.assertEqual([], clients.errors)
        self.assertEqual(set(CLOUDS), set(clients.answers))
        self.assertGreater(len(arrivals.times), 50)
        left_after = arrivals.last_after(moment)
        print(f"\nkilled: {sum(clients.answers.values())} connections, the last to the dead one after {left_after * 1e3:.1f} ms")
        self.assertLess(left_after, 0.05 + 0.3, "50 ms is the promise; the rest is for busy machines")
        self.assertFalse(self.path(running, "gcp")["up"])

    @proxy.requires("nft")
    def check_black_hole(self, limit, on_down="reset", **multicloud):
        self.serve_all()
        web = self.web({**TOGETHER, "on_down": on_down})
        running = self.run_clouds(web, **multicloud)
        arrivals = self.keep(Arrivals(self.names["azure"], PORT))
        clients = Clients(self, web, 100, pause=0.1)
        time.sleep(1)
        self.swallow("azure")
        moment = time.monotonic()
        eventually(lambda: not self.path(running, "azure")["up"], "it is down")
        time.sleep(0.5)
        # What SYNs say again was asked before.
        first = [when for when in arrivals.times if when > moment]
        clients.stop()
        self.assertEqual([], clients.errors)
        chosen = running.metrics().sum("marchproxy_routing_decisions_total", path="azure")
        time.sleep(0.3)
        again = Clients(self, web, 4, pause=0.005)
        time.sleep(1)
        again.stop()
        self.assertEqual([], again.errors)
        self.assertEqual(chosen, running.metrics().sum("marchproxy_routing_decisions_total", path="azure"), "nobody goes there")
        left_after = max(first) - moment if first else 0.0
        print(f"\nblack hole: {len(first)} connections went there after it, the last after {left_after * 1e3:.0f} ms; "
              f"the slowest client waited {clients.slowest:.2f} s")
        self.assertLess(left_after, limit)
        self.assertLess(clients.slowest, limit + 1, "they do not wait for connect_timeout")
        self.give_back("azure")
        eventually(lambda: self.ask(web) == "azure", "it is used again", 10, 0.01)

    def test_a_black_hole_is_left_within_700_ms(self):
        self.check_black_hole(0.7 + 0.3)  # as above

    def test_a_black_hole_is_left_within_100_ms_with_probes_each_10_ms(self):
        # On a busy machine such probes may be late for others too, whose connections are not to be reset for it.
        self.check_black_hole(0.1 + 0.3, on_down="keep", probe={"port": HEALTH, "interval": "10ms", "timeout": "9ms"})

    def test_a_link_that_goes_down(self):
        self.serve_all()
        web = self.web(TOGETHER)
        running = self.run_clouds(web)
        clients = Clients(self, web, 4, pause=0.002)
        time.sleep(0.5)
        ip("-n", self.names["aws"], "link", "set", "up0", "down")
        eventually(lambda: not self.path(running, "aws")["up"], "it is down")
        clients.stop()
        self.assertEqual([], clients.errors)
        self.assertNotIn("aws", {self.ask(web) for _ in range(12)})
        ip("-n", self.names["aws"], "link", "set", "up0", "up")
        eventually(lambda: self.ask(web) == "aws", "it is used again", 10, 0.01)

    @proxy.requires("nft")
    def test_a_path_that_answers_probes_and_loses_traffic_is_left_alone(self):
        self.serve_all()
        web = self.web(TOGETHER)
        running = self.run_clouds(web)
        # A fifth of what carries data, on the service's port alone: seen by nobody but those who send. More, and a client
        # would lose its patience now and then.
        self.swallow("onprem", f"tcp dport {PORT} tcp flags & psh == psh numgen random mod 5 0")
        clients = Clients(self, web, 16, talk=True)
        try:
            eventually(lambda: "sent again" in next(one["reason"] for one in self.explain(running)["candidates"] if one["path"] == "onprem"),
                       "it is left alone", 30, 0.2)
        finally:
            clients.stop()
        self.assertEqual([], clients.errors)
        self.assertNotIn("onprem", {self.ask(web) for _ in range(12)})
        self.assertLess(self.path(running, "onprem")["loss_ratio"], 0.05, "probes are fine")

    @proxy.requires("nft")
    def test_established_connections_of_a_dead_path_are_reset_and_datagrams_go_elsewhere(self):
        for cloud in ("aws", "gcp"):
            self.serve_in(cloud, lambda cloud=cloud: Echo(host=self.host(cloud), port=PORT))
            self.serve_in(cloud, lambda cloud=cloud: Echo(host=self.host(cloud), port=HEALTH))
            self.serve_in(cloud, lambda cloud=cloud: Datagrams(lambda data, peer, cloud=cloud: cloud.encode(), host=self.host(cloud), port=PORT))
        hosts = [(self.host(cloud), PORT) for cloud in ("aws", "gcp")]
        web = service(*hosts, listen=f"{PROXY}:{PORT}", routing=TOGETHER)
        kept = service(*hosts, name="kept", listen=f"{PROXY}:8002", routing={**TOGETHER, "on_down": "keep"})
        dns = service(*hosts, name="dns", protocol="udp", listen=f"{PROXY}:{PORT}", routing=TOGETHER)
        paths = [{"name": cloud, "destinations": [f"{self.host(cloud)}/32"]} for cloud in ("aws", "gcp")]
        running = self.begin(web, kept, dns, settings={"multicloud": {"enabled": True, "probe": {"port": HEALTH}}, "paths": paths,
                                                       "stream": {"workers": 1}})
        eventually(lambda: all(path["rtt_seconds"] for path in running.json("/api/v1/paths")), "all paths are measured")
        connections = [self.dial(web) for _ in range(2)]
        others = [self.dial(kept) for _ in range(2)]
        with inside(self.client):
            talkers = [self.keep(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) for _ in range(2)]
        answers = set()
        for talker in talkers:
            talker.settimeout(3)
            talker.connect((PROXY, PORT))
            talker.send(b"?")
            answers.add(talker.recv(64))
        self.assertEqual({b"aws", b"gcp"}, answers)
        for connection in connections + others:
            self.assert_echo(connection)
        self.swallow("aws")
        began = time.monotonic()
        running.wait_ended_with("endpoint_down")
        self.assertLess(time.monotonic() - began, 1.5)
        self.assertEqual(1, running.ended_with("endpoint_down"))
        self.assertEqual(0, running.ended_with("endpoint_down", "kept"))
        self.give_back("aws")
        for connection in others:
            self.assert_echo(connection)
        for talker in talkers:
            talker.send(b"?")
            self.assertIn(talker.recv(64), (b"aws", b"gcp"))

    # --- choosing ---

    def test_the_cheapest_path_that_is_there(self):
        servers = self.serve_all()
        web = self.web({"policy": "cost"})
        running = self.run_clouds(web)
        self.assertEqual({"onprem"}, {self.ask(web) for _ in range(8)})
        told = self.explain(running)
        self.assertEqual(("web", "cost", "onprem"), (told["service"], told["policy"], told["chosen"]))
        self.assertEqual({"aws": 0.09, "gcp": 0.08, "azure": 0.05, "onprem": 0.0}, {one["path"]: one["score"] for one in told["candidates"]})
        self.assertEqual("is the best", told["candidates"][3]["reason"])
        record = running.flows()[0]
        host = f"{self.host('onprem')}:{PORT}"
        self.assertEqual(f"cost: {host} over onprem, 1 attempt: it is the best", record["decision"])
        self.assertEqual([("onprem", host, True, 0, 1), ("azure", f"{self.host('azure')}:{PORT}", True, 0.05, 0)],
                         [(one["path"], one["endpoint"], one["up"], one["score"], one["share"]) for one in record["candidates"][:2]])
        eventually(lambda: self.ask(web) and all(one["rtt_seconds"] for one in running.flows()[0]["candidates"]), "and how they were measured")
        for server in servers["onprem"]:
            server.close()
        self.assertEqual("azure", self.ask(web), "at once")
        eventually(lambda: not self.path(running, "onprem")["up"], "it is down")
        self.assertEqual({"azure"}, {self.ask(web) for _ in range(8)})
        self.assertEqual("azure", self.explain(running)["chosen"])
        dead = next(one for one in running.flows()[0]["candidates"] if one["path"] == "onprem")
        self.assertRegex(dead["reason"], "is down: (its probes fail|connects to it failed)")
        shown = running.metrics()
        self.assertEqual(0, shown.sum("marchproxy_path_up", path="onprem"))
        self.assertEqual(1, shown.sum("marchproxy_path_up", path="azure"))
        self.assertGreater(shown.sum("marchproxy_path_rtt_seconds", path="azure"), 0)

    def test_draining_a_provider_and_a_region(self):
        self.serve_all()
        web = self.web({"policy": "cost"})
        running = self.run_clouds(web)
        self.assertEqual("onprem", self.ask(web))
        self.assertEqual(200, running.post("/api/v1/providers/onprem/drain").status)
        self.assertEqual({"azure"}, {self.ask(web) for _ in range(4)})
        self.assertTrue(self.path(running, "onprem")["draining"])
        self.assertEqual(200, running.post("/api/v1/paths/azure/drain").status)
        self.assertEqual({"gcp"}, {self.ask(web) for _ in range(4)})
        running.reload([web])
        self.assertEqual({"gcp"}, {self.ask(web) for _ in range(4)}, "a reload does not undo it")
        self.assertEqual(200, running.post("/api/v1/regions/r1/drain").status)
        self.assert_turned_away(web)
        for what in ("regions/r1", "paths/azure", "providers/onprem"):
            self.assertEqual(200, running.post(f"/api/v1/{what}/undrain").status)
        eventually(lambda: {self.ask(web) for _ in range(4)} == {"onprem"}, "all is as it was")
        self.assertEqual(404, running.post("/api/v1/paths/mars/drain").status)

    def test_no_path_at_all_is_told_quickly_and_is_over_at_once(self):
        servers = self.serve_all()
        web = self.web(TOGETHER)
        running = self.run_clouds(web)
        for pair in servers.values():
            for server in pair:
                server.close()
        eventually(lambda: not any(path["up"] for path in running.json("/api/v1/paths")), "all are down")
        began = time.monotonic()
        self.assert_turned_away(web)
        self.assertLess(time.monotonic() - began, 1)
        running.wait_ended_with("connect_refused")
        self.assertEqual(503, running.get("/readyz").status)
        self.assertIn('"service":"web"', running.log())
        self.serve_in("gcp", lambda: Named("gcp", host=self.host("gcp"), port=PORT))
        self.assertEqual("gcp", self.ask(web), "before a probe has seen it")


if __name__ == "__main__":
    proxy.main()
