"""What the figures say: medians, ranges and ratios, as a table and as JSON.

A ratio is given only when neither side had an error in any round; otherwise the reason stands in its place.
"""

import json
from statistics import median


def summarise(workload, rounds, subject):
    """rounds: proxy name -> [Outcome]; returns the summary that is printed and stored."""
    proxies = {name: one(outcomes) for name, outcomes in rounds.items()}
    ratios = {}
    for name in proxies:
        if name not in (subject, "direct") and subject in proxies:
            ratios[name] = ratio(workload, proxies[subject], proxies[name], subject, name)
    summary = {
        "sentence": workload.sentence, "unit": workload.unit, "proxies": proxies, "subject": subject, "ratios": ratios,
    }
    if workload.limit and subject == "durward" and subject in proxies and proxies[subject]["median"] is not None:
        summary["limit"] = {"at_most": workload.limit, "met": proxies[subject]["median"] <= workload.limit}
    return summary


def one(outcomes):
    broken = [outcome.sample for outcome in outcomes if outcome.sample.errors]
    figures = [outcome.figure for outcome in outcomes]
    measured = not broken and bool(figures)
    return {
        "rounds": [stored(outcome) for outcome in outcomes],
        "figures": figures,
        "median": median(figures) if measured else None,
        "min": min(figures) if measured else None,
        "max": max(figures) if measured else None,
        "user": median([outcome.user for outcome in outcomes]) if measured else None,
        "system": median([outcome.system for outcome in outcomes]) if measured else None,
        "p50_ms": middle([outcome.sample.p50_ms for outcome in outcomes]),
        "p99_ms": middle([outcome.sample.p99_ms for outcome in outcomes]),
        "rate": median([rate(outcome.sample) for outcome in outcomes]),
        "errors": sum(sample.errors for sample in broken),
        "error": broken[0].error if broken else None,
        "notes": sorted({note for outcome in outcomes for note in outcome.notes}),
    }


def stored(outcome):
    return {
        "figure": outcome.figure, "user": outcome.user, "system": outcome.system, **vars(outcome.sample),
    }


def middle(values):
    known = [value for value in values if value is not None]
    return median(known) if known else None


def rate(sample):
    """Requests per second; gigabits per second for pass-through, which has no requests; a count when untimed."""
    if not sample.seconds:
        return float(sample.requests)
    if sample.p50_ms is None and sample.bytes:
        return sample.bytes * 8 / 1e9 / sample.seconds
    return sample.requests / sample.seconds


def ratio(workload, subject, peer, subject_name, peer_name):
    for name, side in ((subject_name, subject), (peer_name, peer)):
        if side["median"] is None:
            return {"refused": f"{name} had {side['errors']} errors: {side['error']}"}
    if min(peer["figures"]) <= 0:
        return {"refused": f"{peer_name} has no figure"}
    # both sides of a pair ran within one round, so a machine that slows down meanwhile hardly shows
    paired = [a / b for a, b in zip(subject["figures"], peer["figures"])]
    found = {"ratio": median(paired), "min": min(paired), "max": max(paired)}
    target = workload.targets.get(peer_name)
    if target is not None and subject_name.startswith("durward"):
        found |= {"target": target, "met": found["ratio"] <= target}
    return found


def table(workload, summary):
    """The summary as lines for people."""
    subject = summary["subject"]
    head = ["proxy", summary["unit"], "[min..max]", "user", "sys", "p50 ms", "p99 ms", workload.rate, f"{subject}/peer", "[min..max]", "target"]
    rows = [head] + [row(name, proxy, summary) for name, proxy in summary["proxies"].items()]
    return block(f"{workload.name}: {summary['sentence']}", rows, remarks(summary))


def block(title, rows, remarks=()):
    """A title, aligned rows with the first as their head, and remarks."""
    widths = [max(len(cells[column]) for cells in rows) for column in range(len(rows[0]))]
    lines = [title]
    for cells in rows:
        first, rest = cells[0].ljust(widths[0]), [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:])]
        lines.append("  " + "  ".join([first, *rest]).rstrip())
    return "\n".join([*lines, *remarks]) + "\n"


def row(name, proxy, summary):
    found = summary["ratios"].get(name, {})
    return [
        name,
        "errors" if proxy["median"] is None else number(proxy["median"]),
        "" if proxy["median"] is None else f"[{number(proxy['min'])}..{number(proxy['max'])}]",
        number(proxy["user"]) if proxy["user"] else "",
        number(proxy["system"]) if proxy["system"] else "",
        number(proxy["p50_ms"]),
        number(proxy["p99_ms"]),
        f"{proxy['rate']:.1f}" if proxy["rate"] < 100 else f"{proxy['rate']:.0f}",
        f"{found['ratio']:.2f}" if "ratio" in found else ("refused" if found else ""),
        f"[{found['min']:.2f}..{found['max']:.2f}]" if "ratio" in found else "",
        verdict(found),
    ]


def verdict(found):
    if "target" not in found:
        return ""
    return f"<= {found['target']:.2f} {'met' if found['met'] else 'MISSED'}"


def number(value):
    if value is None:
        return ""
    return f"{value:.1f}" if value >= 100 else f"{value:.2f}" if value >= 10 else f"{value:.3f}"


def remarks(summary):
    lines = []
    for name, proxy in summary["proxies"].items():
        if proxy["errors"]:
            lines.append(f"  ! {name}: {proxy['errors']} errors ({proxy['error']}); no figure and no ratio")
        lines += [f"  - {name}: {note}" for note in proxy["notes"]]
    if summary.get("steal", 0) > 0.02:
        lines.append(f"  - the host took {summary['steal']:.0%} of the CPU time away: latency and rates say little")
    if "limit" in summary:
        word = "met" if summary["limit"]["met"] else "MISSED"
        lines.append(f"  target for durward: <= {summary['limit']['at_most']:g} {summary['unit']}: {word}")
    return lines


def missed(summaries):
    """Targets that were missed or could not be judged, as sentences."""
    found = []
    for name, summary in summaries.items():
        for peer, each in summary["ratios"].items():
            if each.get("met") is False:
                found.append(f"{name}: {each['ratio']:.2f} x {peer}, target {each['target']:.2f}")
            elif "refused" in each:
                found.append(f"{name}: no ratio to {peer}: {each['refused']}")
        if summary.get("limit", {}).get("met") is False:
            found.append(f"{name}: over {summary['limit']['at_most']:g} {summary['unit']}")
    return found


def write(path, document):
    path.write_text(json.dumps(document, indent=1) + "\n")
