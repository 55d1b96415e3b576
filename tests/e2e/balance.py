#!/usr/bin/env python3
"""Which endpoint a connection gets: the policies, draining, and what a reload changes for those who are there."""
import collections
import socket
import unittest

import proxy
from peers import Named
from proxy import address_of, endpoint, eventually, service


class Balance(proxy.ProxyTest):
    WORKERS = 1

    def servers(self, *names):
        return [self.keep(Named(name)) for name in names]

    def balanced(self, policy, *endpoints, **more):
        web = service(*endpoints, routing={"policy": policy}, **more)
        return web, self.start(web, settings={"stream": {"workers": self.WORKERS}})

    def ask(self, web, source=None):
        """The name of the endpoint a fresh connection gets."""
        with socket.create_connection(address_of(web), timeout=10, source_address=(source, 0) if source else None) as client:
            return client.makefile().readline().strip()

    def stay(self, web):
        client = self.connect(web)
        name = proxy.receive_exactly(client, 2).decode().strip()
        return client, name

    def test_round_robin_in_turn(self):
        web, _ = self.balanced("round_robin", *(s.port for s in self.servers("a", "b", "c")))
        names = [self.ask(web) for _ in range(30)]
        self.assertEqual({"a": 10, "b": 10, "c": 10}, collections.Counter(names))
        self.assertTrue(all(names[i] != names[i + 1] for i in range(29)), "in turn")

    def test_weights(self):
        a, b = self.servers("a", "b")
        web, _ = self.balanced("weighted_round_robin", endpoint(a.port, weight=75), endpoint(b.port, weight=25))
        counts = collections.Counter(self.ask(web) for _ in range(100))
        self.assertAlmostEqual(75, counts["a"], delta=2)

    def test_weight_zero_takes_no_new_connections(self):
        a, b = self.servers("a", "b")
        web, _ = self.balanced("weighted_round_robin", endpoint(a.port, weight=0), endpoint(b.port))
        self.assertEqual({"b"}, {self.ask(web) for _ in range(10)})

    def test_least_connections(self):
        a, b = self.servers("a", "b")
        web, running = self.balanced("least_connections", a.port, b.port)
        clients = [self.stay(web) for _ in range(10)]
        self.assertEqual({"a": 5, "b": 5}, collections.Counter(name for _, name in clients))
        for client, name in clients:
            if name == "a":
                client.close()
        eventually(lambda: running.service()["active_connections"] == 5, "a's connections are over")
        self.assertEqual({"a"}, {self.stay(web)[1] for _ in range(4)})

    def test_maglev_keeps_a_source_at_its_endpoint(self):
        servers = self.servers("a", "b", "c", "d")
        web, running = self.balanced("maglev", *(s.port for s in servers))
        sources = [f"127.0.{n // 200}.{n % 200 + 2}" for n in range(120)]
        first = {source: self.ask(web, source) for source in sources}
        self.assertEqual(4, len(set(first.values())), "all endpoints have a share")
        self.assertEqual(first, {source: self.ask(web, source) for source in sources})
        web["endpoints"] = web["endpoints"][:3]
        running.reload([web])
        after = {source: self.ask(web, source) for source in sources}
        stayed = [source for source in sources if first[source] != "d"]
        moved = sum(first[source] != after[source] for source in stayed)
        self.assertLessEqual(moved, len(stayed) // 10, "few move when an endpoint leaves")

    def test_drain_and_back_by_the_api(self):
        a, b = self.servers("a", "b")
        web, running = self.balanced("round_robin", a.port, b.port)
        (one, _), (two, _) = self.stay(web), self.stay(web)
        self.assertEqual(200, running.post(f"/api/v1/endpoints/127.0.0.1:{a.port}/drain").status)
        self.assertEqual({"b"}, {self.ask(web) for _ in range(10)})
        for client in (one, two):
            self.assert_echo(client)
        state = next(e for e in running.service()["endpoints"] if e["address"].endswith(f":{a.port}"))
        self.assertTrue(state["draining"])
        running.reload([web])
        self.assertEqual({"b"}, {self.ask(web) for _ in range(6)}, "a reload does not undo a drain")
        self.assertEqual(200, running.post(f"/api/v1/endpoints/127.0.0.1:{a.port}/undrain").status)
        self.assertEqual({"a", "b"}, {self.ask(web) for _ in range(10)})
        self.assertEqual(404, running.post("/api/v1/endpoints/127.0.0.1:1/drain").status)

    def test_all_drained_ends_the_client_with_a_reason(self):
        a, = self.servers("a")
        web, running = self.balanced("round_robin", a.port)
        running.post(f"/api/v1/endpoints/127.0.0.1:{a.port}/drain")
        self.assert_turned_away(web)
        running.wait_ended_with("no_endpoint")

    def test_an_endpoint_removed_by_reload_keeps_its_connections(self):
        a, b = self.servers("a", "b")
        web, running = self.balanced("round_robin", a.port, b.port)
        clients = [self.stay(web)[0] for _ in range(4)]
        web["endpoints"] = [endpoint(b.port)]
        running.reload([web])
        for client in clients:
            self.assert_echo(client)
        self.assertEqual({"b"}, {self.ask(web) for _ in range(6)})

    def test_a_service_added_and_one_removed(self):
        a, b = self.servers("a", "b")
        web, running = self.balanced("round_robin", a.port)
        client, _ = self.stay(web)
        other = service(b.port, name="other")
        running.reload([web, other])
        self.assertEqual("b", self.ask(other))
        self.assert_echo(client)
        running.reload([other])
        with self.assertRaises(OSError):
            self.ask(web)
        self.assert_closed(client)
        self.assertEqual(1, running.ended_with("service_removed", "web"))
        self.assertEqual("b", self.ask(other))


class TwoWorkers(Balance):
    """The same promises when two loops share the connections."""
    WORKERS = 2

    def test_round_robin_in_turn(self):
        web, _ = self.balanced("round_robin", *(s.port for s in self.servers("a", "b", "c")))
        counts = collections.Counter(self.ask(web) for _ in range(90))
        for name in "abc":
            self.assertAlmostEqual(30, counts[name], delta=2)

    def test_least_connections(self):
        a, b = self.servers("a", "b")
        web, _ = self.balanced("least_connections", a.port, b.port)
        counts = collections.Counter(self.stay(web)[1] for _ in range(20))
        self.assertAlmostEqual(10, counts["a"], delta=1)


if __name__ == "__main__":
    proxy.main()
