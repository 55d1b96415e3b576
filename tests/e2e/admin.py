#!/usr/bin/env python3
"""The admin port: health, metrics, status and the API, and the read commands of the command line on top of them."""
import contextlib
import json
import re
import socket
import unittest

import proxy
from peers import Echo, Exchange, exchange
from proxy import address_of, endpoint, eventually, free_port, run, service


class Pages(proxy.ProxyTest):
    def setUp(self):
        super().setUp()
        self.echo = self.keep(Echo())

    def test_health_and_readiness(self):
        running = self.start(service(self.echo.port))
        for page in ("/healthz", "/readyz"):
            self.assertEqual(200, running.get(page).status)
        self.assertEqual(404, running.get("/no-such-page").status)

    def test_metrics_in_both_formats(self):
        web = service(self.echo.port)
        running = self.start(web)
        with contextlib.closing(self.connect(web)) as finished:
            self.assert_echo(finished)
        running.wait_ended_with("finished")
        self.assert_echo(self.connect(web))
        plain = running.get("/metrics")
        self.assertTrue(plain.headers["content-type"].startswith("text/plain"), plain.headers)
        self.assertNotIn("# EOF", plain.text)
        opened = running.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
        self.assertTrue(opened.headers["content-type"].startswith("application/openmetrics-text"), opened.headers)
        self.assertTrue(opened.text.endswith("# EOF\n"))
        metrics = running.metrics()
        for name in ("active_connections", "connections_total", "connection_duration_seconds_count",
                     "connect_latency_seconds_bucket", "received_bytes_total", "sent_bytes_total",
                     "flows", "config_reload_total", "build_info"):
            self.assertIn("marchproxy_" + name, metrics.names())
        self.assertEqual(1, metrics.sum("active_connections", service="web"))
        self.assertEqual(1, metrics.sum("build_info"))
        self.assertEqual(2, metrics.sum("connect_latency_seconds_count", service="web"))
        self.assertEqual(1, metrics.sum("connection_duration_seconds_count", service="web"))

    def test_every_family_has_one_help_and_one_type(self):
        text = self.start(service(self.echo.port)).get("/metrics").text
        for kind in ("HELP", "TYPE"):
            names = re.findall(rf"^# {kind} (\S+)", text, re.MULTILINE)
            self.assertEqual(sorted(set(names)), sorted(names))
        samples = [line.rsplit(" ", 1)[0] for line in text.splitlines() if line and not line.startswith("#")]
        self.assertEqual(len(set(samples)), len(samples), "no sample twice")

    def test_services(self):
        web = service(endpoint(self.echo.port, weight=7), endpoint(free_port(), weight=0))
        running = self.start(web)
        self.assert_echo(self.connect(web))
        shown = running.service()
        self.assertEqual(("web", "tcp", web["listen"], "stream", 1),
                         tuple(shown[k] for k in ("name", "protocol", "listen", "plane", "active_connections")))
        self.assertTrue(shown["plane_reason"])
        self.assertIn(shown["priority"], ("P0", "P1", "P2", "P3"))
        one = shown["endpoints"][0]
        self.assertEqual((f"127.0.0.1:{self.echo.port}", True, False, 7, 1),
                         tuple(one[k] for k in ("address", "up", "draining", "weight", "active_connections")))

    def test_flows(self):
        server = self.keep(Exchange())
        web, other = service(server.port), service(self.echo.port, name="other")
        running = self.start(web, other)
        client = self.connect(other)
        self.assert_echo(client)
        for number in range(5):
            self.assertIsNone(exchange(server, address_of(web), number * 10, 1000 * (number + 1), 10))
        flows = eventually(lambda: (f := running.flows("?service=web")) and len(f) == 5 and f, "five records")
        self.assertEqual({"web"}, {f["service"] for f in flows})
        for flow in flows:
            self.assertLessEqual({"service", "plane", "protocol", "client", "endpoint", "path", "received_bytes", "sent_bytes",
                                  "start", "duration_seconds", "state", "end_reason", "priority", "decision"}, set(flow))
            self.assertRegex(flow["start"], r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$")
            self.assertEqual("closed", flow["state"])
        self.assertEqual(2, len(running.flows("?service=web&limit=2")))
        largest = running.flows("?service=web&sort=bytes&limit=1")[0]
        self.assertEqual(5024, largest["received_bytes"])
        live = running.flows("?service=other")
        self.assertEqual(["active"], [f["state"] for f in live])
        self.assertEqual("%s:%d" % client.getsockname(), live[0]["client"])
        self.assertEqual(f"127.0.0.1:{self.echo.port}", live[0]["endpoint"])

    def test_status_and_config(self):
        running = self.start(service(self.echo.port), settings={"stream": {"idle_timeout": "77s"}})
        self.assertIsInstance(running.status(), dict)
        self.assertEqual(77, running.json("/api/v1/config")["stream"]["idle_timeout"])

    def test_a_service_without_a_healthy_endpoint_is_not_ready(self):
        web = service(free_port())
        running = self.start(web)
        for _ in range(5):
            self.assert_turned_away(web)
        eventually(lambda: running.get("/readyz").status == 503, "not ready")
        self.assertIn("web", running.get("/readyz").text)
        self.assertEqual(200, running.get("/healthz").status)


class Rights(proxy.ProxyTest):
    def test_a_token_guards_changes(self):
        echo, port = self.keep(Echo()), free_port()
        web = service(echo.port)
        running = self.start(web, wait=None,
                             settings={"admin": {"address": "127.0.0.1", "port": port, "token": "open-sesame"}})
        running.admin_port = port
        running.wait_for("/readyz")
        drain = f"/api/v1/endpoints/127.0.0.1:{echo.port}/drain"
        self.assertEqual(401, running.post(drain).status)
        self.assertEqual(401, running.post(drain, token="open-sesam").status)
        self.assertFalse(running.service()["endpoints"][0]["draining"])
        self.assertEqual(200, running.post(drain, token="open-sesame").status)
        self.assertTrue(running.service()["endpoints"][0]["draining"])
        self.assertEqual(200, running.get("/metrics").status, "reading needs none")

    def test_hostile_requests_leave_it_answering(self):
        echo = self.keep(Echo())
        running = self.start(service(echo.port))
        for data in (b"\0" * 1000, b"GET " + b"/" * 300_000 + b" HTTP/1.1\r\n\r\n", b"POST /api/v1/reload HTTP/1.1\r\n"
                     b"Content-Length: 99999999999\r\n\r\n", b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 20_000):
            with socket.create_connection(("127.0.0.1", running.admin_port), timeout=5) as client:
                try:
                    client.sendall(data)
                    client.settimeout(0.2)
                    client.recv(1000)
                except OSError:
                    pass
        slow = [self.connect(("127.0.0.1", running.admin_port)) for _ in range(40)]
        for client in slow:
            client.send(b"GET /heal")
        eventually(lambda: self.answers(running), "healthz answers while forty clients dawdle", 20)

    @staticmethod
    def answers(running):
        try:
            return running.get("/healthz", timeout=8).status == 200
        except OSError:
            return False


class Commands(proxy.ProxyTest):
    def test_read_commands(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = self.start(web)
        self.assert_echo(self.connect(web))
        for command in ("status", "services", "flows"):
            with self.subTest(command=command):
                shown = running.command(command)
                self.assertEqual(0, shown.returncode, shown.stderr)
                self.assertIn("web" if command != "status" else "", shown.stdout)
                parsed = json.loads(running.command(command, "--json").stdout)
                self.assertIsInstance(parsed, dict if command == "status" else list)

    def test_no_proxy_there_is_said(self):
        result = run("status", "--admin", f"http://127.0.0.1:{free_port()}")
        self.assertEqual(1, result.returncode)
        self.assertRegex(result.stderr, "127.0.0.1")

    def test_doctor_looks_at_this_machine(self):
        result = run("doctor")
        self.assertIn(result.returncode, (0, 1))
        self.assertIn("descriptor", (result.stdout + result.stderr).lower())


if __name__ == "__main__":
    proxy.main()
