#!/usr/bin/env python3
"""Other XDP programs on an interface of the packet plane's, by libxdp's dispatcher: both go on, whoever came first and
whoever goes. Skipped where the kernel refuses the dispatcher."""
import json
import subprocess

import proxy
from netns import PROXY, SERVER
from packet_plane import VIP, PacketPlane, built, netns
from peers import Echo
from proxy import eventually, service

BESIDE = "XDP native, beside others"


class Beside(PacketPlane):
    def setUp(self):
        super().setUp()
        self.echo = self.serve(lambda: Echo(host=SERVER))
        self.web = service((SERVER, self.echo.port), listen=f"{VIP}:80")
        self.running = self.begin(self.web)
        if {BESIDE} != self.ways():
            self.skipTest(f"the dispatcher is refused: {self.running.json('/status')['packet_plane']['interfaces']}")

    def ways(self):
        return {one["way"] for one in self.running.json("/status")["packet_plane"]["interfaces"]}

    def loader(self, *arguments):
        # Not by `ip netns exec`, which hides the BPF file system where libxdp keeps what it shares.
        done = subprocess.run(["nsenter", f"--net=/run/netns/{self.middle}", "xdp-loader", *arguments],
                              capture_output=True, text=True, check=False)
        self.assertEqual(0, done.returncode, done.stderr)
        return done.stdout

    def load_counter(self):
        self.loader("load", "-m", "native", "client0", built("beside"))

    def counted(self):
        """By the other program: what came in at client0."""
        shown = json.loads(subprocess.run(["bpftool", "-j", "map", "dump", "name", "beside_count"], capture_output=True,
                                          text=True, check=True).stdout)
        return shown[0]["formatted"]["value"]

    def assert_both(self, connection):
        before = self.counted()
        self.assert_echo(connection)
        self.assertGreater(self.counted(), before)

    @proxy.requires("xdp-loader")
    def test_both_go_on(self):
        kept = self.dial(self.web)
        self.load_counter()
        self.assert_both(kept)
        with self.subTest("the process is replaced"):
            self.restart()
            self.assertEqual({BESIDE}, self.ways())
            self.assert_both(kept)
            self.assertEqual(1, self.loader("status", "client0").count("packet_xdp"))
        with self.subTest("the packet plane goes"):
            self.running.signal(15)
            self.running.wait()
            self.detach(self.running)
            before = self.counted()
            netns(self.client, "ping", "-c", "1", "-W", "5", PROXY)
            self.assertGreater(self.counted(), before)
            self.assertNotIn("packet_xdp", self.loader("status", "client0"))

    def restart(self):
        self.running.signal(15)
        self.running.wait()
        self.running.ended = None
        self.running.start()

    @proxy.requires("xdp-loader")
    def test_who_was_taken_away_with_the_others_returns(self):
        self.load_counter()
        self.loader("unload", "client0", "--all")
        eventually(lambda: "packet_xdp" in self.loader("status", "client0"), "it is attached again", 20, 0.5)
        self.assert_echo(self.dial(self.web))


if __name__ == "__main__":
    proxy.main()
