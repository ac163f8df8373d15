"""The page's part about `python -m benchmarks gpu`: targets, where the time of graphs goes, floors, all samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from alref_edge.report.charts import bars
from alref_edge.report.markup import Html, element
from benchmarks.gpu.record import all_rows
from benchmarks.gpu.targets import TARGETS, UNITS, beside_official, ratio_of_medians, told, with_interval
from benchmarks.gpu.work import Ceiling, given_ceiling
from benchmarks.report_plots import bullet, bullet_keys, facts, number, pair, pair_keys, strip, table

_COMMAND = "python -m benchmarks gpu --bundle SKELETON --device cuda --out DIR"
_VERDICTS = {"goal": "goal reached", "accepted": "accepted", "short": "short of it", "due": "due"}
_GOOD = ("goal", "accepted")
_SHOWN_OPERATORS = 8


def merged(results: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The parts of all runs on a GPU; of parts that several runs have, those of the last by name."""
    parts = {
        name: part
        for result in results.values()
        if result["program"] == "gpu"
        for name, part in result["parts"].items()
        if part["subject"]["device"] != "cpu"
    }
    return {"program": "gpu", "parts": parts}


def sections(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Html]:
    """The targets, then each run."""
    yield _targets(all_rows(merged(results)))
    for name, result in results.items():
        if result["program"] == "gpu":
            yield from _run(name, result)


def _targets(rows: Mapping[str, Mapping[str, Any]]) -> Html:
    cells, classes = [], {}
    for line, target in enumerate(TARGETS):
        figure, official, unit = target.figure(rows), target.official_figure(rows), UNITS[target.unit]
        verdict = "due" if figure is None else target.verdict(figure[0])
        cells.append(
            (
                target.what,
                told(target.before, unit),
                told(target.official_before if official is None else official[0], unit),
                "-" if figure is None else with_interval(figure, unit),
                f"{target.accepted:g}{unit}",
                f"{target.goal:g}{unit}",
                bullet(
                    measured=None if figure is None else figure[0],
                    before=target.before,
                    accepted=target.accepted,
                    goal=target.goal,
                ),
                _badge(verdict),
            )
        )
        if verdict == "due":
            classes[line] = "due"
    return element(
        "section",
        element("h2", "Targets on a GPU (SAM 2.1 large, float16, frames of 960x540)"),
        table(("", "before", "official", "measured", "accepted", "goal", "", ""), cells, classes=classes),
        bullet_keys(),
        element("p", "What is due: ", element("code", _COMMAND), class_="soft"),
    )


def _badge(verdict: str) -> Html:
    kind = "badge good" if verdict in _GOOD else "badge bad" if verdict == "short" else "badge"
    return element("span", _VERDICTS[verdict], class_=kind)


def _run(name: str, result: Mapping[str, Any]) -> Iterator[Html]:
    parts: Mapping[str, Any] = result["parts"]
    environment: dict[str, Any] = next((part["environment"] for part in parts.values() if "environment" in part), {})
    ceiling = _ceiling(parts, environment)
    yield element("h2", name, class_="part")
    yield element("section", element("h2", "Machine"), facts(_machine(environment, ceiling)))
    rows = all_rows(result)
    profiled = {key: row for key, row in rows.items() if "operations" in row.get("profile", {})}
    if profiled:
        yield _floors(profiled, ceiling)
        yield _breakdown(profiled)
    if pairs := list(beside_official(rows)):
        yield _beside(pairs, rows)
    yield _samples(rows)
    noted = [
        f"{part['subject']['variant']}: {warning}" for part in parts.values() for warning in part.get("warnings", ())
    ]
    noted += [
        f"{part['subject']['part']}: {what}: {why}" for part in parts.values() for what, why in part["failures"].items()
    ]
    noted += [f"{part['subject']['part']}: skipped: {part['skipped']}" for part in parts.values() if "skipped" in part]
    if noted:
        listed = element("ul", *(element("li", each) for each in noted))
        yield element("section", element("h2", "To be taken with care"), listed, class_="warnings")


def _ceiling(parts: Mapping[str, Any], environment: Mapping[str, Any]) -> Ceiling | None:
    for part in parts.values():
        if measured := part["facts"].get("ceiling"):
            return Ceiling(measured["tflops"], measured["gb_s"], measured["source"])
    return given_ceiling((environment.get("gpu") or {}).get("name"))


def _machine(environment: Mapping[str, Any], ceiling: Ceiling | None) -> dict[str, str]:
    found = {
        "processor": f"{environment.get('processor')}, {environment.get('cores')} cores",
        "packages": ", ".join(f"{name} {version}" for name, version in environment.get("packages", {}).items()),
    }
    if gpu := environment.get("gpu"):
        found["GPU"] = f"{gpu['name']}, driver {gpu.get('driver')}, {gpu.get('memory_mib')} MiB"
        found["clocks"] = f"{gpu.get('sm_mhz')} of {gpu.get('sm_mhz_most')} MHz, memory {gpu.get('memory_mhz')} MHz"
    if ceiling is not None:
        products = ", ".join(f"{kind} {tflops:.3g} TFLOP/s" for kind, tflops in ceiling.tflops.items())
        found["ceilings"] = f"{products}, memory {ceiling.gb_s:.4g} GB/s ({ceiling.source})"
    return found


def _floors(profiled: Mapping[str, Mapping[str, Any]], ceiling: Ceiling | None) -> Html:
    cells = []
    for name, row in profiled.items():
        profile = row["profile"]
        kind = next((each for each in ("float16", "tf32") if each in name), "float32")
        floor = None
        if ceiling is not None and kind in ceiling.tflops:
            size = profile["weight_bytes"] + profile["fed_bytes"]
            floor = ceiling.floor_ms(profile["operations"], size, kind)
        kernels = profile["device_ms"]
        cells.append(
            (
                name,
                f"{number(profile['operations'] / 1e9)}",
                f"{number(profile['weight_bytes'] / 1e6)}",
                f"{number(profile['bytes_through'] / 1e6)}",
                "-" if floor is None else f"{floor:.3g} ms",
                "-" if kernels is None else f"{kernels:.3g} ms",
                f"{row['median']:.3g} ms",
                "-" if floor is None else f"{number(row['median'] / floor)}x",
                profile["launches"] or "-",
                profile["nodes"],
                profile["nodes_elsewhere"],
            )
        )
    head = ("graph", "GFLOP", "weights, MB", "through nodes, MB", "floor", "kernels", "call", "call / floor",
            "launches", "nodes", "not on the device")  # fmt: skip
    return element(
        "section",
        element("h2", "Graphs and their floors"),
        table(head, cells),
        element(
            "p",
            "Floor: the products at the ceiling, or weights and inputs read once, whichever is slower. Through nodes: "
            "what all nodes read and write, were none of it kept near the processors.",
            class_="soft",
        ),
    )


def _breakdown(profiled: Mapping[str, Mapping[str, Any]]) -> Html:
    charts: list[Html] = []
    for name, row in profiled.items():
        profile = row["profile"]
        shown = profile.get("ms_by_operator") or profile.get("ms_by_kernel")
        if shown:
            charts += [element("h3", f"{name} ({profile['source']})"), bars(_most(shown), "ms", {})]
            details = [
                element("details", element("summary", f"by {what}"), bars(_most(profile[key]), "ms", {}))
                for what, key in (("kernel", "ms_by_kernel"), ("node", "ms_by_node"))
                if key in profile and profile[key] is not shown
            ]
            charts += details
    return element("section", element("h2", "Where a call's time goes"), *charts)


def _most(values: Mapping[str, float]) -> dict[str, float]:
    """The greatest few, and the rest as one."""
    ordered = sorted(((name, value) for name, value in values.items() if name != "others"), key=lambda each: -each[1])
    rest = sum(value for _, value in ordered[_SHOWN_OPERATORS:]) + values.get("others", 0.0)
    return {**dict(ordered[:_SHOWN_OPERATORS]), **({"others": rest} if rest else {})}


def _beside(pairs: Sequence[tuple[str, str]], rows: Mapping[str, Mapping[str, Any]]) -> Html:
    cells = []
    for ours, theirs in pairs:
        ratio, low, high = ratio_of_medians(rows[theirs]["samples"], rows[ours]["samples"])
        one, other = rows[ours]["median"], rows[theirs]["median"]
        cells.append(
            (ours, f"{number(one)} ms", f"{number(other)} ms", pair(one, other), f"{ratio:.2f} [{low:.2f}, {high:.2f}]")
        )
    return element(
        "section",
        element("h2", "Beside the official code"),
        table(("", "ours", "official", "", "times as fast"), cells),
        pair_keys("official"),
    )


def _samples(rows: Mapping[str, Mapping[str, Any]]) -> Html:
    cells: Sequence[Sequence[object]] = [
        (
            name,
            f"{number(row['median'])} {row['unit']} [{', '.join(map(number, row['interval_95']))}]",
            len(row["samples"]),
            strip(row["samples"], row["median"]),
            f"{row['scatter']:.0%}",
            _memory(row),
        )
        for name, row in rows.items()
    ]
    head = ("row", "median [95 %]", "samples", "from 0 to the slowest", "scatter", "memory")
    return element("section", element("h2", "Every row"), table(head, cells))


def _memory(row: Mapping[str, Any]) -> str:
    gpu = row.get("gpu_memory_mib")
    host = row.get("peak_host_mb")
    parts = [f"{gpu} MiB GPU" if gpu else "", f"{host} MB host" if host else ""]
    return ", ".join(part for part in parts if part) or "-"
