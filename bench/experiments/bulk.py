#!/usr/bin/env python3
"""Bulk by iperf3 through one worker, variants in turn: what decisions 0004 and 0005 were taken from.

  bulk.py --runs 5 --connections 16 --down  auto=build/marchproxy-l3l4  "copy=build/marchproxy-l3l4@forward: copy"  nginx=nginx  direct=direct

A variant is NAME=BINARY, with @ and further keys of `stream:` behind it where wanted; `nginx` and `direct` stand for
themselves. Constants of the source are compared by naming two builds. Uses the ports 15201, 15202 and 18081 of loopback."""
import argparse
import json
import os
import statistics
import subprocess
import tempfile
import time

ENDPOINT, LISTEN = 15201, 15202
COLUMNS = ("Gbit/s", "min", "max", "proxy s/GB", "client s/GB", "server s/GB", "idle %")


def start(variant, directory):
    """The proxy's process and the port to talk to."""
    if variant == "direct":
        return None, ENDPOINT
    path = os.path.join(directory, "configuration")
    if variant == "nginx":
        text = (f"worker_processes 1; daemon off; master_process off; pid {directory}/pid; error_log {directory}/log;\n"
                "load_module /usr/lib/nginx/modules/ngx_stream_module.so; events { worker_connections 4096; }\n"
                f"stream {{ server {{ listen 127.0.0.1:{LISTEN}; proxy_pass 127.0.0.1:{ENDPOINT}; proxy_buffer_size 64k; }} }}")
        argv = ["nginx", "-c", path]
    else:
        binary, _, keys = variant.partition("@")
        text = (f"admin: {{ port: 18081 }}\nstream: {{ workers: 1{', ' + keys if keys else ''} }}\nservices:\n"
                f'  - {{ name: bulk, listen: "127.0.0.1:{LISTEN}", endpoints: [{{ address: "127.0.0.1:{ENDPOINT}" }}] }}\n')
        argv = [binary, "run", "-c", path]
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(0.5)
    return process, LISTEN


def cpu_seconds(process):
    if process is None:
        return 0.0
    with open(f"/proc/{process.pid}/stat", encoding="ascii") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_ticks():
    with open("/proc/stat", encoding="ascii") as file:
        return [int(field) for field in file.readline().split()[1:9]]


def measure(variant, arguments, directory):
    process, port = start(variant, directory)
    server = subprocess.Popen(["iperf3", "-s", "-1", "-p", str(ENDPOINT)], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.2)
        cpu_before, ticks_before = cpu_seconds(process), machine_ticks()
        argv = ["iperf3", "-c", "127.0.0.1", "-p", str(port), "-t", str(arguments.seconds), "-J",
                "-P", str(arguments.connections)] + (["-R"] if arguments.down else [])
        end = json.loads(subprocess.run(argv, capture_output=True, check=True, timeout=arguments.seconds + 30).stdout)["end"]
        cpu, ticks = cpu_seconds(process) - cpu_before, [b - a for a, b in zip(ticks_before, machine_ticks())]
        received, used = end["sum_received"], end["cpu_utilization_percent"]
        gigabytes = received["bytes"] / 1e9
        of = lambda percent: percent / 100 * received["seconds"] / gigabytes
        return (received["bits_per_second"] / 1e9, cpu / gigabytes, of(used["host_total"]), of(used["remote_total"]),
                ticks[3] / sum(ticks) * 100)
    finally:
        for child in (server, process):
            if child:
                child.terminate()
                child.wait(10)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="+", metavar="NAME=VARIANT")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--down", action="store_true", help="from the server to the client")
    arguments = parser.parse_args()
    variants = [variant.split("=", 1) for variant in arguments.variants]
    taken = {name: [] for name, _ in variants}
    with tempfile.TemporaryDirectory() as directory:
        for turn in range(arguments.runs):
            first = turn % len(variants)
            for name, variant in variants[first:] + variants[:first]:
                taken[name].append(measure(variant, arguments, directory))
    print(f"{'':16}" + "".join(f"{column:>12}" for column in COLUMNS))
    for name, rows in taken.items():
        rates, *others = zip(*rows)
        figures = [statistics.median(rates), min(rates), max(rates)] + [statistics.median(other) for other in others]
        print(f"{name:16}" + "".join(f"{figure:12.3f}" for figure in figures))


if __name__ == "__main__":
    main()
