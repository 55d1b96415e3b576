#!/usr/bin/env python3
"""The packet plane over reloads, drains, kills and upgrades of its process, and over what happens to the network."""
import concurrent.futures
import contextlib
import functools
import itertools
import json
import os
import re
import signal
import tempfile
import threading
import time

import proxy
from netns import CLIENT, CLIENT6, PROXY, PROXY6, SERVER, NamespacedProxy, checked, inside, ip
from packet_plane import VIP, PacketPlane, netns
from peers import Echo, Exchange
from proxy import address_of, eventually, service


class Newcomers:
    """Clients that come one after the other, each for a short transfer, until close()."""

    def __init__(self, transfer):
        self.transfer = transfer
        self.outcomes = []
        self.stopping = False
        self.thread = threading.Thread(target=self._come, daemon=True)
        self.thread.start()

    def _come(self):
        while not self.stopping:
            try:
                self.outcomes.append(self.transfer(1000 + len(self.outcomes), 1000, 1000, timeout=10))
            except OSError as error:
                self.outcomes.append(str(error))

    def wait(self):
        """Until all who came before are through: the second from now has begun later."""
        begun = len(self.outcomes)
        eventually(lambda: len(self.outcomes) >= begun + 2, "newcomers come", 30)

    def close(self):
        self.stopping = True
        self.thread.join(20)


class Life(PacketPlane):
    def serve_twins(self):
        """Two endpoints with one book of results: which of them a transfer comes to is the proxy's choice."""
        one, two = (self.serve(lambda: Exchange(host=SERVER)) for _ in range(2))
        two.results, two.arrived = one.results, one.arrived
        return one, two

    def begin_transfers(self, server, target, identities):
        """Side by side, and paced both ways: they last two seconds at least, whatever the machine carries."""
        pool = concurrent.futures.ThreadPoolExecutor(len(identities))
        self.addCleanup(pool.shutdown, wait=False)
        return [pool.submit(self.transfer, server, address_of(target), identity, 8_000_000, 8_000_000,
                            piece_pause=0.25, pause=0.02, chunk=100_000, timeout=30) for identity in identities]

    def assert_complete(self, transfers):
        self.assertEqual([None] * len(transfers), [one.result(120) for one in transfers])

    def check_killed_in_the_middle(self, mode):
        server = self.serve(lambda: Exchange(host=SERVER))
        services = [service((SERVER, server.port), name=forwarding, listen=f"{VIP}:{port}", forwarding=forwarding)
                    for port, forwarding in ((80, "nat"), (81, "dnat"))]
        running = self.begin(*services, mode=mode)
        transfers = [one for n, web in enumerate(services)
                     for one in self.begin_transfers(server, web, range(100 * n, 100 * n + 8))]
        for web in services:
            self.assert_in_kernel(running, web["name"])
            eventually(lambda web=web: running.service(web["name"])["active_connections"] >= 8, "all transfers have begun")
        running.signal(signal.SIGKILL)
        running.wait()
        for n, web in enumerate(services):
            self.assertIsNone(self.transfer(server, address_of(web), 200 + n, 1000, 1000, timeout=10),
                              "new flows while no process runs")
        self.assertFalse(any(one.done() for one in transfers), "they go on while no process runs")
        running.ended = None
        running.start()
        plane = running.json("/status")["packet_plane"]
        self.assertTrue(plane["took_over"])
        self.assertTrue(all(one["adopted"] for one in plane["interfaces"]))
        self.assert_complete(transfers)
        for web in services:
            eventually(lambda web=web: running.service(web["name"])["active_connections"] == 0,
                       "the flows of the earlier process end", 20)

    def test_killed_in_the_middle_of_sixteen_transfers(self):
        self.check_killed_in_the_middle("native")

    def test_killed_in_the_middle_of_sixteen_transfers_at_tc(self):
        for name in (self.client, self.server):  # checksums that are yet to be computed, and merged packets
            netns(name, "ethtool", "-K", "up0", "tx", "on")
        self.check_killed_in_the_middle("tc")

    def test_an_endpoint_drains_in_the_middle_of_transfers(self):
        one, two = self.serve_twins()
        web = service((SERVER, one.port), (SERVER, two.port), listen=f"{VIP}:80")
        running = self.begin(web)
        transfers = self.begin_transfers(one, web, range(20))
        eventually(lambda: one.accepted + two.accepted == 20, "all transfers have begun")
        before = {endpoint["address"]: endpoint["active_connections"] for endpoint in running.service("web")["endpoints"]}
        self.assertTrue(all(before.values()), before)
        first = f"{SERVER}:{one.port}"
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{first}/drain").status)
        for identity in range(100, 120):
            self.assertIsNone(self.transfer(one, address_of(web), identity, 1000, 1000))
        self.assertEqual(before, {first: one.accepted, f"{SERVER}:{two.port}": two.accepted - 20}, "they came to the other")
        self.assertEqual(before[first], len(one.connections), "it carries what it carried")
        after = {endpoint["address"]: endpoint for endpoint in running.service("web")["endpoints"]}
        self.assertEqual(before[first], after[first]["active_connections"])
        self.assertTrue(after[first]["draining"])
        self.assert_complete(transfers)
        self.assertEqual(200, running.post(f"/api/v1/endpoints/{first}/undrain").status)
        for identity in range(200, 220):
            self.assertIsNone(self.transfer(one, address_of(web), identity, 1000, 1000))
        self.assertGreater(one.accepted, before[first], "it takes flows again")

    def test_reloads_under_load_lose_nothing(self):
        stays, passes = self.serve_twins()
        stranger = "10.93.1.77"
        ip("-n", self.client, "address", "add", f"{stranger}/24", "dev", "up0")
        web = service((SERVER, stays.port), listen=f"{VIP}:80")
        second = service((SERVER, stays.port), name="second", listen=f"{VIP}:81")
        running = self.begin(web)
        transfers = self.begin_transfers(stays, web, range(8))
        eventually(lambda: stays.accepted == 8, "all transfers have begun")
        newcomers = self.keep(Newcomers(functools.partial(self.transfer, stays, address_of(web))))
        access = itertools.cycle(({"deny": [f"{stranger}/32"]}, {"allow": ["10.93.1.0/24"]}))
        limits = itertools.cycle(({"connections": 100_000, "packets_per_source": "10000000/s"}, {"backlog": 0}, {},
                                  {"connections_per_source": 100_000, "new_connections": "100000/s"}))
        others = itertools.cycle(([second], []))

        def reload(*more):
            changed = dict(web, endpoints=web["endpoints"] + list(more), access=next(access), limits=next(limits))
            self.assertEqual("success", running.reload([changed, *next(others)]))
            newcomers.wait()
            if "allow" in changed["access"]:
                self.dial(web, source=stranger).close()
            else:
                with self.assertRaises(OSError):
                    self.dial(web, timeout=0.3, source=stranger)

        turns = 0
        while turns < 3 or not all(one.done() for one in transfers):
            turns += 1
            taken = passes.accepted
            reload(proxy.endpoint((SERVER, passes.port)))
            eventually(lambda taken=taken: passes.accepted > taken, "who has come takes connections")
            reload(proxy.endpoint((SERVER, passes.port), weight=0))
            taken = passes.accepted
            reload()  # it carries nothing any more, and goes
            self.assertEqual(taken, passes.accepted)
        self.assert_complete(transfers)
        newcomers.close()
        self.assertEqual({None}, set(newcomers.outcomes))
        dropped = {why for why, count in running.service("web")["dropped"].items() if count}
        reached = {"connection_limit", "source_limit", "rate_limit", "source_rate", "packet_rate"} & dropped
        self.assertEqual((True, set()), ("access_denied" in dropped, reached))
        self.assertEqual("success", running.reload([web, second]))
        self.assertIsNone(self.transfer(stays, address_of(second), 100, 1000, 1000))

    def test_a_removed_service_ends_and_returns(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        other = service((SERVER, echo.port), name="other", listen=f"{VIP}:81")
        running = self.begin(web, other)
        client = self.dial(web)
        self.assert_echo(client)
        running.reload([other])
        client.settimeout(1)
        client.send(b"lost")
        with self.assertRaises(OSError):
            client.recv(10)
        eventually(lambda: not [one for one in running.json("/api/v1/services")
                                if one["name"] == "web" and one["active_connections"]], "its flows end", 15)
        running.reload([web, other])
        self.assert_echo(self.dial(web))

    def test_replaced_by_a_new_binary(self):
        proxy.become_subreaper()
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web)
        kept = self.dial(web)
        self.assert_echo(kept)
        running.signal(signal.SIGUSR2)
        taken = re.compile(r'"process":(\d+),"took_over":true')
        eventually(lambda: taken.search(running.log(None)), lambda: "another process serves\n" + running.log(), 20)
        running.adopt_successor(int(taken.search(running.log(None)).group(1)))
        self.assertTrue(running.json("/status")["packet_plane"]["took_over"])
        self.assert_echo(kept)
        self.assert_echo(self.dial(web))
        eventually(lambda: running.service("web")["active_connections"] >= 2, "both flows are its own")

    def test_settings_that_wait_for_a_restart_do_not_disturb(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web)
        client = self.dial(web)
        changed = {**running.settings["packet"], "pin": "/sys/fs/bpf/elsewhere", "interfaces": ["client0"], "max_flows": 1000}
        self.assertEqual("success", running.reload(settings={"packet": changed}))
        self.assertTrue(any("packet.pin" in note for note in running.json("/status")["notes"]))
        self.assert_echo(client)
        self.assert_echo(self.dial(web))
        self.assertEqual("success", running.reload(settings={"packet": {**changed, "pin": self.pin}}))

    def programs_of(self, running):
        return {one["program_id"] for one in running.json("/status")["packet_plane"]["interfaces"]}

    def assert_nothing_left(self, programs):
        for device in ("client0", "server0"):
            self.assertNotIn("xdp", netns(self.middle, "ip", "link", "show", device).stdout)
            self.assertNotIn("bpf", netns(self.middle, "tc", "filter", "show", "dev", device, "ingress").stdout)
        for program in programs:  # what is attached anywhere, by whatever way, is there
            eventually(lambda program=program: netns(self.middle, "bpftool", "prog", "show", "id", str(program),
                                                     check=False).returncode, f"program {program} is gone")

    def check_detach(self, mode):
        def asks_for_routes():
            return netns(self.middle, "sysctl", "-n", "net.ipv4.conf.lo.forwarding").stdout.strip()

        netns(self.middle, "sysctl", "-qw", "net.ipv4.ip_forward=0", "net.ipv4.conf.lo.forwarding=0")
        echo = self.serve(lambda: Echo(host=SERVER))
        running = self.begin(service((SERVER, echo.port), listen=f"{VIP}:80"), mode=mode)
        programs = self.programs_of(running)
        self.assertEqual("1", asks_for_routes())
        with inside(self.middle):
            refused = proxy.run("detach", "-c", running.config_file)
        self.assertEqual(1, refused.returncode)
        self.assertIn("running process", refused.stderr)
        running.stop()
        for program in programs:
            netns(self.middle, "bpftool", "prog", "show", "id", str(program))
        self.assertIn("detached from 2 interfaces", self.detach(running).stdout)
        self.assert_nothing_left(programs)
        self.assertFalse(os.path.exists(self.pin))
        self.assertEqual("0", asks_for_routes())
        self.assertIn("nothing was attached", self.detach(running).stdout)

    @proxy.requires("bpftool")
    def test_detach_leaves_nothing(self):
        self.check_detach("native")

    @proxy.requires("bpftool")
    def test_detach_leaves_nothing_at_tc(self):
        self.check_detach("tc")

    def own_bpf_file_system(self):
        """Another than the machine's, which may be in use."""
        folder = tempfile.mkdtemp(prefix="marchproxy-e2e-")
        self.addCleanup(os.rmdir, folder)
        checked(["mount", "-t", "bpf", "bpf", folder])
        self.addCleanup(checked, ["umount", folder])
        return folder

    @proxy.requires("bpftool")
    def test_clean_bpf_after_a_killed_process_and_where_nothing_is(self):
        bpf = self.own_bpf_file_system()

        def clean():  # what the Makefile's target runs, which knows of no configuration
            with inside(self.middle):
                done = proxy.run("detach", prefix=["unshare", "--mount", "sh", "-c",
                                                   f'mount --bind {bpf} /sys/fs/bpf && exec "$0" "$@"'])
            self.assertEqual((0, ""), (done.returncode, done.stderr))
            return done.stdout

        self.assertEqual("/sys/fs/bpf/marchproxy: nothing was attached\n", clean())
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web, mode="tc", pin=f"{bpf}/marchproxy")
        programs = self.programs_of(running)
        running.signal(signal.SIGKILL)
        running.wait()
        running.expected_exit = -signal.SIGKILL
        client = self.dial(web)
        self.assert_echo(client)
        self.assertEqual("/sys/fs/bpf/marchproxy: detached from 2 interfaces\n", clean())
        self.assert_nothing_left(programs)
        self.assertFalse(os.path.exists(f"{bpf}/marchproxy"))
        client.settimeout(0.5)
        client.send(b"lost")
        with self.assertRaises(OSError):
            client.recv(10)
        self.assertEqual("/sys/fs/bpf/marchproxy: nothing was attached\n", clean())

    def test_doctor_says_how_it_is_attached_or_would_be(self):
        def doctor():
            with inside(self.middle):
                findings = json.loads(proxy.run("doctor", "--json", "-c", running.config_file).stdout)
            return {one["name"]: one["found"] for one in findings}["packet plane, interface client0"]

        echo = self.serve(lambda: Echo(host=SERVER))
        running = self.begin(service((SERVER, echo.port), listen=f"{VIP}:80"))
        way = next(one["way"] for one in running.json("/status")["packet_plane"]["interfaces"] if one["name"] == "client0")
        self.assertIn(f"driver veth, MTU 1500; the running proxy is attached as {way}, program", doctor())
        running.stop()
        self.assertIn(f"attached as {way}, program", doctor())
        self.assertIn("a start goes on with it", doctor())
        self.detach(running)
        self.assertIn("nothing is attached; a start would first try XDP native", doctor())
        self.assertFalse(os.path.exists(self.pin))

    def test_an_interface_goes_and_returns(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80")
        running = self.begin(web)
        self.assert_echo(self.dial(web))
        ip("-n", self.client, "link", "del", "up0")
        eventually(lambda: any("client0" in note for note in running.json("/status")["notes"]), "status names it")
        self.link(self.client, "up0", f"{CLIENT}/24", f"{CLIENT6}/64", "client0", f"{PROXY}/24", f"{PROXY6}/64")
        netns(self.client, "ethtool", "-K", "up0", "tx", "off", "gro", "on")
        ip("-n", self.client, "route", "add", "default", "via", PROXY)
        eventually(lambda: not any("client0" in note for note in running.json("/status")["notes"]), "it is attached again")
        self.assert_echo(self.dial(web))

    def test_sockets_serve_while_no_interface_is_there(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        own = service((SERVER, echo.port), name="own", listen=f"{PROXY}:8080")
        waits = service((SERVER, echo.port), name="waits", listen=f"{VIP}:80", plane="packet")
        running = self.begin(own, interfaces=["later"])
        eventually(lambda: running.service("own")["plane"] == "stream", "sockets serve it")
        self.assertIn("on no interface (later: ", running.service("own")["plane_reason"])
        self.assertEqual(200, running.get("/readyz").status)
        self.assert_echo(self.dial(own))
        self.assertEqual("success", running.reload([own, waits]))
        ready = running.get("/readyz")
        self.assertEqual(503, ready.status)
        self.assertIn("service waits: the packet plane is on no interface (later: ", ready.text)
        netns(self.middle, "ip", "link", "add", "later", "type", "veth", "peer", "name", "beyond")
        netns(self.middle, "ip", "link", "set", "later", "up")
        eventually(lambda: running.service("own")["plane"] == "packet", "it is the packet plane's")
        self.assertEqual(200, running.get("/readyz").status)

    def test_a_route_changes(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{VIP}:80", forwarding="dnat")
        running = self.begin(web)
        kept = self.dial(web)
        self.assert_echo(kept)
        ip("-n", self.middle, "link", "add", "second0", "type", "veth", "peer", "name", "up1", "netns", self.server)
        for name, device in ((self.middle, "second0"), (self.server, "up1")):
            ip("-n", name, "link", "set", device, "up")
        netns(self.server, "ethtool", "-K", "up1", "tx", "off", "gro", "on")
        ip("-n", self.middle, "address", "add", "10.93.3.1/24", "dev", "second0")
        ip("-n", self.server, "address", "add", "10.93.3.2/24", "dev", "up1")
        netns(self.server, "sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0", "net.ipv4.conf.up1.rp_filter=0")
        ip("-n", self.middle, "route", "add", f"{SERVER}/32", "via", "10.93.3.2")
        before = int(netns(self.middle, "cat", "/sys/class/net/second0/statistics/tx_packets").stdout)
        time.sleep(0.3)
        for _ in range(5):
            self.assert_echo(kept)
        after = int(netns(self.middle, "cat", "/sys/class/net/second0/statistics/tx_packets").stdout)
        self.assertGreaterEqual(after - before, 5, running.log())

    def test_auto_falls_back_to_sockets_and_says_why(self):
        echo = self.serve(lambda: Echo(host=SERVER))
        web = service((SERVER, echo.port), listen=f"{PROXY}:80")
        strange = service((SERVER, echo.port), name="strange", listen=f"{PROXY}:81", proxy_protocol="v1")
        running = self.begin(web, strange)
        self.assertEqual(("packet", "stream"), tuple(running.service(name)["plane"] for name in ("web", "strange")))
        self.assertIn("proxy_protocol", running.service("strange")["plane_reason"])
        self.assert_echo(self.dial(web))
        web["proxy_protocol"] = "v1"
        running.reload([web, strange])
        self.assertEqual("stream", running.service("web")["plane"])
        self.assertNotIn("xdp", netns(self.middle, "ip", "link", "show", "client0").stdout, "nothing is left in the way")
        with contextlib.suppress(KeyError):
            del web["proxy_protocol"]
        running.reload([web, strange])
        self.assertEqual("packet", running.service("web")["plane"])
        self.assert_echo(self.dial(web))

    def test_what_cannot_be_is_refused_with_its_reason(self):
        for keys, words in (({"listen": "0.0.0.0:80"}, "every address"),
                            ({"listen": f"{VIP}:80", "proxy_protocol": "v2"}, "needs sockets"),
                            ({"listen": f"{SERVER}:80", "endpoint": (SERVER, 81)}, "on this machine")):
            with self.subTest(words):
                target = keys.pop("endpoint", (SERVER, 80))
                running = NamespacedProxy([service(target, plane="packet", **keys)],
                                          settings={"packet": {"interfaces": ["client0"], "pin": self.pin, "max_flows": 1000}})
                running.namespace = self.middle
                running.start(wait=None)
                self.addCleanup(running.remove)
                self.assertEqual(1, running.wait())
                self.assertIn(words, running.log())

if __name__ == "__main__":
    proxy.main()
