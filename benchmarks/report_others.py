"""The page's part about the other programs: graphs beside PyTorch, memory over a long video, whole pipelines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from alref_edge.report.markup import Html, element
from benchmarks.report_plots import curve, number, pair, pair_keys, table


def sections(results: Mapping[str, Mapping[str, Any]]) -> Iterator[Html]:
    """A section a program."""
    of = {
        program: {name: result for name, result in results.items() if result["program"] == program}
        for program in ("components", "memory", "reference", "sharing", "overlap", "mllm")
    }
    if of["components"]:
        yield _components(of["components"])
    for name, result in of["memory"].items():
        yield _memory(name, result)
    rows = [
        *((name, *_reference(result)) for name, result in of["reference"].items()),
        *((name, *_sharing(result)) for name, result in of["sharing"].items()),
        *((name, *_overlap(result)) for name, result in of["overlap"].items()),
    ]
    if rows:
        yield element("section", element("h2", "Whole pipelines"), table(("result", "what", "figure", "seconds"), rows))
    for name, result in of["mllm"].items():
        yield _mllm(name, result)


def _components(results: Mapping[str, Mapping[str, Any]]) -> Html:
    rows = [
        (
            name,
            f"{number(1e3 * float(np.median(row['ours_s'])))} ms",
            f"{number(1e3 * float(np.median(row['theirs_s'])))} ms",
            pair(float(np.median(row["ours_s"])), float(np.median(row["theirs_s"]))),
            f"{row['ratio']:.2f} [{row['ratio_low']:.2f}, {row['ratio_high']:.2f}]",
        )
        for result in results.values()
        for name, row in result["rows"].items()
    ]
    return element(
        "section",
        element("h2", "Each graph beside its PyTorch module, on a CPU"),
        table(("graph", "ours", "PyTorch", "", "times as fast"), rows),
        pair_keys("PyTorch"),
    )


def _memory(name: str, result: Mapping[str, Any]) -> Html:
    swept, points = 0, []
    for (stage, done, mb), following in zip(result["samples"], [*result["samples"][1:], None], strict=True):
        if stage in ("forward", "backward"):
            points.append((swept + done, mb))
            if following is not None and following[0] != stage:
                swept += done
    return element(
        "section",
        element("h2", f"Resident memory over {result['frames']} frames ({name})"),
        curve(points, unit="MB", label="resident memory, frame by frame", along="frame"),
        element("p", f"From frame 200 to the end {result['growth_mb']} MB more.", class_="soft"),
    )


def _reference(result: Mapping[str, Any]) -> tuple[str, str, str]:
    equal = "EQUAL" if result["equal"] else "NOT EQUAL"
    return (
        "ours beside the official structure",
        f"{equal}, {result['ratio']:.2f} times as fast",
        f"{result['ours_s']:.2f}, {result['official_s']:.2f}",
    )


def _sharing(result: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = result["interval_95"]
    return (
        f"{result['sentences']} sentences together beside apart",
        f"{result['together_over_apart']:.2f} [{low:.2f}, {high:.2f}] of the time",
        f"{np.median(result['together_s']):.2f}, {np.median(result['apart_s']):.2f}",
    )


def _overlap(result: Mapping[str, Any]) -> tuple[str, str, str]:
    low, high = result["interval_95"]
    return (
        "reasoning beside tracking, beside one after the other",
        f"{result['speed_up']:.2f} [{low:.2f}, {high:.2f}] times as fast",
        f"{np.median(result['overlapping_s']):.2f}, {np.median(result['one_by_one_s']):.2f}",
    )


def _mllm(name: str, result: Mapping[str, Any]) -> Html:
    rows = [
        (
            strips,
            in_flight,
            f"{load['requests_per_s']:.3g}",
            f"{load['completion_tokens_per_s']:.4g}",
            f"{load['latency_s']['p50']:.3g} s",
        )
        for strips, loads in result["rows"].items()
        for in_flight, load in loads.items()
    ]
    return element(
        "section",
        element("h2", f"The LLM's server under load ({name})"),
        table(("strips", "in flight", "requests/s", "answer tokens/s", "median wait"), rows),
    )
