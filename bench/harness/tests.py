"""What must hold of the bench itself; run with `cd bench && python3 -m unittest harness.tests`.

No proxy and no load program is needed.
"""

import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

from harness import forward, loads, procs, proxies, report, workloads
from harness.loads import Sample
from harness.workloads import Outcome

H2LOAD = """Application protocol: h2
finished in 1.50s, 2666.67 req/s, 2.80MB/s
requests: 4000 total, 4000 started, 4000 done, {succeeded} succeeded, 0 failed, 0 errored, 0 timeout
status codes: {succeeded} 2xx, 0 3xx, 0 4xx, {bad} 5xx
traffic: 4.20MB (4404019) total, 200.01KB (204810) headers (space savings 90.00%), 3.91MB ({data}) data
"""


def outcome(figure, errors=0):
    return Outcome(figure, figure / 2, figure / 2, Sample(1000, 0, 1.0, 1.0, 2.0, errors, "broken" if errors else None))


def small():
    return next(workload for workload in workloads.catalogue() if workload.name == "small")


class Ratios(unittest.TestCase):
    def test_a_ratio_is_the_median_of_the_rounds_pairs(self):
        rounds = {"durward": [outcome(1), outcome(4), outcome(3)], "nginx": [outcome(2), outcome(4), outcome(4)]}

        found = report.summarise(small(), rounds, "durward")["ratios"]["nginx"]

        self.assertEqual(found, {"ratio": 0.75, "min": 0.5, "max": 1.0, "target": 0.90, "met": True})

    def test_one_error_of_either_side_refuses_the_ratio(self):
        for broken in ("durward", "nginx"):
            rounds = {"durward": [outcome(1), outcome(1)], "nginx": [outcome(2), outcome(2)]}
            rounds[broken][1] = outcome(1, errors=3)

            summary = report.summarise(small(), rounds, "durward")

            self.assertIn(f"{broken} had 3 errors", summary["ratios"]["nginx"]["refused"])
            self.assertIsNone(summary["proxies"][broken]["median"])
            self.assertIn("refused", report.table(small(), summary))
            self.assertTrue(report.missed({"small": summary}))

    def test_a_missed_target_is_said(self):
        summary = report.summarise(small(), {"durward": [outcome(2)], "nginx": [outcome(1)]}, "durward")

        self.assertIn("MISSED", report.table(small(), summary))
        self.assertEqual(report.missed({"small": summary}), ["small: 2.00 x nginx, target 0.90"])


class LoadOutput(unittest.TestCase):
    def wrk(self, **seen):
        line = {"requests": 10, "bytes": 20480, "seconds": 1, "p50_ms": 1, "p99_ms": 2}
        line |= dict.fromkeys(("status", "connect", "read", "write", "timeout"), 0) | seen
        load = loads.Loads(None, None, None)
        load.tools = type("Tools", (), {"path": staticmethod(lambda _: "wrk")})
        load.run = lambda *_: subprocess.CompletedProcess([], 0, f"\n@{loads.json.dumps(line)}\n", "")
        return load.wrk("http://127.0.0.1/", 1, 1, 1024)

    def test_wrk_without_errors_is_clean(self):
        self.assertEqual((self.wrk().errors, self.wrk().requests), (0, 10))

    def test_wrk_statuses_timeouts_and_short_bodies_are_errors(self):
        self.assertEqual(self.wrk(status=4).errors, 4)
        self.assertEqual(self.wrk(timeout=1, read=2).errors, 3)
        self.assertEqual(self.wrk(bytes=10 * 300).errors, 1)
        self.assertEqual(self.wrk(requests=0).errors, 1)

    def h2load(self, succeeded, data):
        text = H2LOAD.format(succeeded=succeeded, bad=4000 - succeeded, data=data)
        return loads.h2_sample(subprocess.CompletedProcess([], 0, text, ""), [1000, 2000, 3000], 4000)

    def test_h2load_is_clean_only_when_all_succeeded_in_full(self):
        self.assertEqual(self.h2load(4000, 4000 * 1024).errors, 0)
        self.assertEqual(self.h2load(3990, 4000 * 1024).errors, 10)
        self.assertEqual(self.h2load(4000, 4000 * 100).errors, 1)
        self.assertEqual(self.h2load(4000, 4000 * 1024).p50_ms, 2.0)


class ForwardProxies(unittest.TestCase):
    def setting(self):
        ports = {door: 20440 + index for index, door in enumerate([*proxies.DOORS, proxies.FORWARD, "http", "raw", proxies.API])}
        certificates = mock.MagicMock()
        return proxies.Setting(ports, "127.91.1.1:20445", "127.91.1.1:20446", certificates, 1, None)

    def prepared(self, kind, name, program):
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(proxies, "OUT", Path(folder)):
            proxy = kind(name, program, self.setting())
            proxy.folder.mkdir()
            command = [str(word) for word in proxy.prepare()]
            written = "".join(path.read_text() for path in Path(folder).rglob("*.*"))
        return command, written, folder

    def test_the_four_workloads_have_squid_as_their_measure(self):
        found = {each.name: each.targets for each in workloads.catalogue() if each.door == proxies.FORWARD}

        names = ["forward-small", "connect-bulk", "connect-new", "connect-idle"]
        self.assertEqual(found, {name: {"squid": 0.5} for name in names})

    def test_only_peers_with_a_part_in_the_workloads_are_started(self):
        catalogue = {workload.name: workload for workload in workloads.catalogue()}
        names = ["nginx", "haproxy", "squid", "tinyproxy"]

        self.assertEqual(workloads.peers_for(names, [catalogue["connect-new"]]), ["squid", "tinyproxy"])
        self.assertEqual(workloads.peers_for(names, [catalogue["bulk"]]), ["nginx", "haproxy"])
        self.assertEqual(workloads.peers_for(names, catalogue.values()), names)

    def test_squid_and_tinyproxy_write_below_their_folder_and_listen_on_loopback(self):
        for kind, name in ((forward.Squid, "squid"), (forward.Tinyproxy, "tinyproxy")):
            command, written, folder = self.prepared(kind, name, Path("/nowhere") / name)

            self.assertTrue(command[-1].startswith(folder), command)
            self.assertIn(proxies.ADDRESSES[name], written)
            for line in written.splitlines():
                if line.lower().startswith(("pid", "cache_log", "coredump", "logfile ")):
                    self.assertIn(folder, line)
            self.assertNotIn("/etc", written)
            self.assertNotIn("/var", written)

    def test_a_hosted_api_is_compared_with_haproxy_as_it_is_and_as_it_is_fastest(self):
        for kind, name, lines in ((proxies.Haproxy, "haproxy", 2), (proxies.HaproxyDefaults, "haproxy-defaults", 0)):
            _, written, _ = self.prepared(kind, name, Path("/nowhere/haproxy"))

            self.assertEqual(written.count("option splice-response"), lines)
            self.assertEqual("tune.pipesize" in written, lines > 0)
        _, written, _ = self.prepared(proxies.Durward, "durward", Path("/nowhere/durward"))
        self.assertIn("kind: HostedApi", written)
        self.assertIn("port: 20447", written)

    def test_what_has_no_process_has_rates_and_no_ratio(self):
        direct = proxies.Direct("direct", None, self.setting())
        rounds = {name: [workloads.Outcome(cost, 0, 0, workloads.Sample(requests=9, seconds=1.0))] for name, cost in (("durward", 2.0), ("direct", 0.0))}

        summary = report.summarise(workloads.api_new(), rounds, "durward")

        self.assertEqual(direct.at(proxies.API), direct.setting.raw)
        self.assertEqual(summary["ratios"], {})
        self.assertEqual(report.missed({"api-new": summary}), [])

    def test_squid_neither_caches_nor_logs_requests(self):
        _, written, _ = self.prepared(forward.Squid, "squid", Path("/nowhere/squid"))

        for line in ("cache deny all", "access_log none", "cache_store_log none", "workers 1"):
            self.assertIn(line, written.splitlines())

    def test_durward_lets_clients_go_to_the_origin_only(self):
        _, written, _ = self.prepared(proxies.Durward, "durward", Path("/nowhere/durward"))

        self.assertIn("allow:\n      - {cidr: 127.91.1.1/32, ports: [20445, 20446]}", written)

    def test_what_is_asked_of_a_forward_proxy_is_an_absolute_url(self):
        proxy = proxies.Durward("durward", Path("/nowhere/durward"), self.setting())

        self.assertEqual(workloads.asked(proxy, proxies.FORWARD), "http://127.91.1.1:20445/small")
        self.assertIsNone(workloads.asked(proxy, "plain"))


class Processes(unittest.TestCase):
    def test_threads_that_began_and_ended_meanwhile_are_counted(self):
        before = procs.Cpu(1.0, 1.0, {(1, "1"): 2.0})
        alone = procs.Cpu(1.5, 1.5, {(1, "1"): 2.98})
        with_others = procs.Cpu(1.5, 1.5, {(1, "1"): 2.1})

        self.assertAlmostEqual(alone.since(before)[0], 0.98)
        self.assertAlmostEqual(with_others.since(before)[0], 1.0)

    def test_cpu_of_children_is_counted(self):
        burn = "import os; [os.fork() for _ in range(1)]; sum(range(6_000_000)); os.wait() if os.getpid() == {} else 0"
        script = f"import os; pid = os.getpid(); exec({burn!r}.format(pid)); print('done', flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
            begin = procs.Cpu(0, 0, {})
            child.stdout.readline()
            alone = procs.thread_seconds(child.pid)
            total, _, _ = procs.Cpu.read(procs.tree(child.pid)).since(begin)
            child.communicate(b"\n", timeout=10)

        self.assertGreater(total, 1.4 * sum(alone.values()))

    def test_placement_separates_the_proxy_when_there_are_cpus(self):
        placement = procs.Placement(1)

        if len(os.sched_getaffinity(0)) > 1:
            self.assertFalse(placement.proxy & (placement.origin | placement.client))


if __name__ == "__main__":
    unittest.main()
