"""What must hold of bench/nat itself; run with `cd bench && python3 -m unittest harness.nat_tests`.

No namespace, no gateway and no iptables is needed.
"""

import struct
import types
import unittest

from harness import layouts, plane, report


def way(name, figures, errors=None):
    return {name: [plane.failed(errors) if figure is None else plane.outcome(figure, 100) for figure in figures]}


def established():
    return next(each for each in plane.workloads() if each.name == "established")


class Layouts(unittest.TestCase):
    def test_every_layout_leads_the_last_port_of_both_protocols_to_the_pod(self):
        last = layouts.port(7)
        for text in (layouts.linear(7), layouts.smartnat_rules(7)):
            for protocol in ("tcp", "udp"):
                rule = f"-p {protocol} -m {protocol} --dport {last} -j DNAT --to-destination {layouts.POD}:{layouts.POD_PORT}"
                self.assertEqual(text.count(rule), 1)
        for protocol in ("TCP", "UDP"):
            self.assertIn(f"{{port: {last}, protocol: {protocol}, endpoints: ['{layouts.POD}:{layouts.POD_PORT}']}}", layouts.documents(7))

    def test_a_mapping_of_smartnat_is_a_rule_for_every_packet_and_one_for_new_connections(self):
        rules = layouts.smartnat_rules(50)
        mangle, nat = rules.split("COMMIT\n")[:2]

        self.assertEqual(mangle.count("-A SNM-PREROUTING -m set --match-set"), 50)
        self.assertEqual(nat.count("-A SNM-PREROUTING -d 203.0.113.1/32 -m set --match-set DNAT-"), 50)
        sets = layouts.smartnat_sets(50)
        self.assertEqual(sets.count("create "), 100)
        self.assertTrue(all(len(line.split()[1]) <= 31 for line in sets.splitlines()), "names the kernel takes")

    def test_rules_in_parts_are_the_same_rules(self):
        text = layouts.smartnat_rules(7)

        whole, parts = list(layouts.parts(text, 1000)), list(layouts.parts(text, 4))

        self.assertEqual("".join(whole), text)
        rules = [line for part in parts for line in part.splitlines() if line.startswith("-A")]
        self.assertEqual(rules, [line for line in text.splitlines() if line.startswith("-A")])
        self.assertGreater(len(parts), len(whole))
        self.assertEqual(sum(part.count(":SNM-PREROUTING") for part in parts), 2)

    def test_one_document_changes_when_one_mapping_changes(self):
        before, after = layouts.documents(50).splitlines(), layouts.documents(50, changed=25).splitlines()

        self.assertEqual(len([1 for old, new in zip(before, after) if old != new]), 1)


class Figures(unittest.TestCase):
    def test_ratios_are_those_within_a_round(self):
        rounds = {**way("plain", [100, 200, 400]), **way("durward-1", [120, 250, 500]), **way("durward-10000", [125, 240, 500])}

        summary = plane.summarise(established(), rounds)

        self.assertEqual(summary["ratios"]["plain"], {"ratio": 1.25, "min": 1.2, "max": 1.25, "target": 1.30, "met": True})
        self.assertEqual(summary["of_plain"]["durward-1"]["ratio"], 1.25)
        self.assertIn("<= 1.30 met", plane.table(established(), summary))

    def test_a_round_that_lost_a_packet_refuses_the_ratio(self):
        rounds = {**way("plain", [100, 100]), **way("durward-10000", [125, None], errors="3 of 9 packets did not arrive")}

        summary = plane.summarise(established(), rounds)

        self.assertIn("did not arrive", summary["ratios"]["plain"]["refused"])
        self.assertIn("did not arrive", plane.table(established(), summary))
        self.assertTrue(report.missed({"established": summary}))

    def test_smartnat_must_be_thirty_times_dearer(self):
        for figure, met in ((3_100, True), (2_900, False)):
            rounds = {**way("plain", [90]), **way("smartnat-legacy-1000", [figure]), **way("durward-10000", [100])}

            summary = plane.summarise(established(), rounds)

            self.assertEqual(summary["ratios"]["smartnat-legacy-1000"]["met"], met)

    def test_a_missing_packet_is_noticed(self):
        said = '{"packets": 10, "established_ns": 1, "new_ns": 2, "connection_ns": 3, "error": null}'
        for arrived, errors in ((10, 0), (9, 1)):
            counts = iter([5, 5 + arrived])
            pod = types.SimpleNamespace(received=lambda _, counts=counts: next(counts))
            partner = types.SimpleNamespace(call=lambda _: said)
            one = types.SimpleNamespace(target=("203.0.113.1", 1), worlds=types.SimpleNamespace(pod=pod, partner=partner))

            found = plane.one_round(one, "bench-load", 0, 0, plane.QUICK)

            self.assertEqual([each.sample.errors for each in found.values()], [errors] * 3)

    def test_a_late_change_is_a_missed_target(self):
        steps = [{"step": "one changed", "mappings": 10_000, "p50_ms": 5.1, "p99_ms": 6.0, "cut_ms": 7.0, "cpu_ms": 4.0, "target_ms": 5}]

        self.assertEqual(plane.missed({}, steps), ["one changed: 5.1 ms, target 5"])
        process = {"mappings": 1, "resident_bytes": 1, "idle_percent": 0, "ready_seconds": 0, "document_ms": {"p50": 1, "p99": 2}}
        self.assertIn("MISSED", plane.times(steps, process))


class Kernel(unittest.TestCase):
    def test_a_new_generation_is_found_among_other_messages(self):
        message = lambda kind, body: struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body
        datagram = message(0xA0C, b"12345678") + message(plane.NEW_GENERATION, b"1234")

        self.assertEqual(plane.kinds(datagram), [0xA0C, plane.NEW_GENERATION])

    def test_p99_is_near_the_worst_of_a_hundred(self):
        found = plane.spread([1] * 99 + [1000])

        self.assertEqual(found["p50"], 1)
        self.assertGreater(found["p99"], 1)


if __name__ == "__main__":
    unittest.main()
