#!/usr/bin/env python3
"""What the command line does with configurations, good and bad: everything wrong at once, with its place."""
import os
import random
import re
import socket
import tempfile
import time
import unittest

import proxy
from peers import Echo
from proxy import address_of, endpoint, free_port, run, service


def many_services(count, endpoints=2):
    """A large configuration as text, about six lines a service."""
    lines = ["services:"]
    for number in range(count):
        lines += [f"  - name: service-{number}", "    protocol: tcp",
                  f"    listen: \"127.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}:20000\"", "    endpoints:"]
        lines += [f"      - {{ address: \"10.0.{number % 250}.{n + 1}:80\", weight: {n + 1} }}" for n in range(endpoints)]
    return "\n".join(lines) + "\n"


class Check(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory(prefix="marchproxy-e2e-")
        self.addCleanup(self.folder.cleanup)
        self.file = os.path.join(self.folder.name, "config.yaml")

    def check(self, text, timeout=30):
        with open(self.file, "wb") as stream:
            stream.write(text if isinstance(text, bytes) else text.encode())
        return run("check", "-c", self.file, timeout=timeout)

    def assert_refused(self, result, *pieces):
        self.assertEqual(2, result.returncode, result.stdout + result.stderr)
        for piece in pieces:
            self.assertIn(piece, result.stdout + result.stderr)

    def test_a_good_one(self):
        result = self.check(proxy.yaml({"services": [service(9)]}))
        self.assertEqual(0, result.returncode, result.stderr)

    def test_everything_wrong_is_listed_at_once_with_its_place(self):
        text = "log:\n  level: LOUD\ndrain_timeout: 30\nservises: []\nservices:\n" \
               "  - { name: a, listen: \"127.0.0.1:1\", endpoints: [{ address: \"10.0.0.1:80\" }] }\n" \
               "  - { name: a, listen: \"127.0.0.1:2\", endpoints: [{ address: \"10.0.0.1:80\", path: nowhere }] }\n" \
               "  - { name: c, listen: \"127.0.0.1:99999\", endpoints: [{ address: \"10.0.0.1:80\" }] }\n"
        result = self.check(text)
        self.assert_refused(result, "LOUD", "drain_timeout", "servises", "nowhere", "99999")
        places = re.findall(re.escape(self.file) + r":(\d+):(\d+)", result.stdout + result.stderr)
        self.assertLessEqual({"2", "3", "4", "7", "8"}, {line for line, _ in places})

    def test_ten_thousand_services(self):
        began = time.monotonic()
        result = self.check(many_services(10_000))
        self.assertEqual(0, result.returncode, result.stderr[:2000])
        self.assertLess(time.monotonic() - began, 15)

    def test_one_wrong_key_in_five_thousand_lines(self):
        lines = many_services(834).splitlines()
        self.assertGreater(len(lines), 5000)
        end_of_a_service = next(n for n in range(4000, 5000) if lines[n].startswith("  - name"))
        lines.insert(end_of_a_service, "    wieght: 3")
        number = end_of_a_service + 1
        self.assert_refused(self.check("\n".join(lines) + "\n"), f"{self.file}:{number}:5", "wieght")

    def test_truncated_anywhere_is_refused_or_fine_but_never_a_crash(self):
        text = proxy.yaml({"services": [service(9, access={"allow": ["10.0.0.0/8"], "deny": []},
                                                limits={"connections": 5, "new_connections": "20/s"})]})
        for size in range(0, len(text), 7):
            result = self.check(text[:size])
            self.assertIn(result.returncode, (0, 2), f"after {size} bytes: {result.stderr}")
            if result.returncode == 2:
                self.assertIn(self.file, result.stdout + result.stderr)

    def test_binary(self):
        chance = random.Random(1)
        for data in (chance.randbytes(100_000), b"\0" * 5000, b"\xff\xfe" + "services: []".encode("utf-16-le"),
                     b"\x7fELF" + chance.randbytes(2000)):
            self.assert_refused(self.check(data), self.file)

    def test_bombs_are_bounded(self):
        bomb = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [" + ",".join([f"*{chr(97 + n)}"] * 10) + "]\n" for n in range(9))
        began = time.monotonic()
        self.assert_refused(self.check(bomb))
        self.assert_refused(self.check("a: " + "[" * 100_000))
        self.assert_refused(self.check("{" * 50_000))
        self.assertLess(time.monotonic() - began, 10)

    def test_a_file_that_is_not_there(self):
        self.assert_refused(run("check", "-c", "/nonexistent/config.yaml"), "/nonexistent/config.yaml")
        self.assert_refused(run("check", "-c", self.folder.name), self.folder.name)

    def test_features_that_are_not_built_are_refused_by_name(self):
        base = {"services": [service(9)]}
        for extra, word in (({"manager": {"url": "http://127.0.0.1:1"}}, "manager"),
                            ({"telemetry": {"tracing": {"enabled": True}}}, "tracing")):
            with self.subTest(feature=word):
                self.assert_refused(self.check(proxy.yaml({**base, **extra})), word)

    def test_a_number_without_its_unit(self):
        for key, value in (("idle_timeout", 30), ("limits", {"new_connections": 20})):
            with self.subTest(key=key):
                self.assert_refused(self.check(proxy.yaml({"services": [service(9, **{key: value})]})), key)

    def test_a_wrong_command_line(self):
        self.assertEqual(2, run("run", "--no-such-flag").returncode)
        self.assertEqual(2, run("no-such-command").returncode)
        self.assertEqual(2, run("run", "--workers", "many").returncode)

    def test_version(self):
        result = run("version")
        self.assertEqual(0, result.returncode)
        self.assertRegex(result.stdout, r"\d+\.\d+\.\d+")

    def test_the_shipped_examples_are_fine(self):
        folder = os.path.join(proxy.ROOT, "examples")
        files = [f for f in os.listdir(folder) if f.endswith(".yaml")] if os.path.isdir(folder) else []
        self.assertTrue(files, "examples/ holds configurations that run as they are")
        for name in files:
            result = run("check", "-c", os.path.join(folder, name))
            self.assertEqual(0, result.returncode, f"{name}: {result.stderr}")


class Start(proxy.ProxyTest):
    def test_nothing_starts_with_a_wrong_file(self):
        running = self.start(service(9, colour="red"), wait=None)
        running.expected_exit = 2
        self.assertEqual(2, running.wait(10))
        self.assertRegex(running.log(None), re.escape(running.config_file) + r":\d+:\d+: .*colour")

    def test_flags_win_over_environment_over_file(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        by_file, by_environment, by_flag = free_port(), free_port(), free_port()
        for environment, flags, expected in (({}, (), by_file),
                                             ({"ADMIN_PORT": str(by_environment)}, (), by_environment),
                                             ({"MARCHPROXY_ADMIN__PORT": str(by_environment)}, (), by_environment),
                                             ({"ADMIN_PORT": str(by_environment)}, ("--admin-port", str(by_flag)), by_flag)):
            with self.subTest(environment=environment, flags=flags):
                running = proxy.Proxy([web], {"admin": {"address": "127.0.0.1", "port": by_file}},
                                      arguments=flags, environment=environment)
                self.started.append(running)
                running.admin_port = expected
                try:
                    running.start()
                finally:
                    self.assertEqual(0, running.stop())

    def test_the_file_by_environment(self):
        echo = self.keep(Echo())
        web = service(echo.port)
        running = proxy.Proxy([web], file=False)
        running.environment["MARCHPROXY_CONFIG"] = running.config_file
        self.started.append(running)
        self.addCleanup(self._end, running)
        running.start()
        self.assert_echo(self.connect(web))

    def test_an_occupied_port_is_named_with_what_to_do(self):
        for what in ("service", "admin"):
            with self.subTest(occupied=what):
                blocker = self.keep(socket.socket())
                blocker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                web, port = service(9), free_port()
                blocker.bind(address_of(web) if what == "service" else ("127.0.0.1", port))
                blocker.listen()
                running = self.start(web, wait=None, settings={"admin": {"address": "127.0.0.1", "port": port}})
                running.expected_exit = 1
                self.assertEqual(1, running.wait(10))
                taken = str(address_of(web)[1] if what == "service" else port)
                self.assertRegex(running.log(None), rf"{taken}")
                self.assertRegex(running.log(None).lower(), "in use|occupied|taken")

    def test_ten_thousand_services_run(self):
        """Each has a listener a worker: raised to the hard limit of descriptors, where that is enough."""
        import resource
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        count = min(10_000, (hard - 500) // 2)
        if count < 1000:
            self.skipTest(f"a hard limit of {hard} descriptors holds too few listeners")
        echo, port = self.keep(Echo()), free_port()
        services = [service(echo.port, name=f"service-{n}", listen=f"127.{100 + (n >> 16)}.{n >> 8 & 255}.{n & 255}:{port}")
                    for n in range(1, count)]
        running = proxy.Proxy(services, {"stream": {"workers": 1}})
        self.started.append(running)
        self.addCleanup(self._end, running)
        running.start(wait=None)
        running.wait_for("/readyz", seconds=60)
        for web in (services[0], services[-1]):
            self.assert_echo(self.connect(web))
        self.assertEqual(count - 1, len(running.json("/api/v1/services")))
        self.assertEqual(200, running.get("/metrics", timeout=30).status)

    def test_the_effective_configuration_is_shown_without_secrets(self):
        echo = self.keep(Echo())
        port = free_port()
        running = self.start(service(echo.port), settings={"admin": {"address": "127.0.0.1", "port": port, "token": "s3cr3t-word"}},
                             wait=None)
        running.admin_port = port
        running.wait_for("/readyz")
        text = running.get("/api/v1/config").text
        self.assertNotIn("s3cr3t-word", text)
        self.assertNotIn("s3cr3t-word", running.log(None))


if __name__ == "__main__":
    proxy.main()
