"""Reasoning and tracking side by side: 20 sentences on 10 clips in one queue, beside clip after clip.

The LLM is a server on loopback that only waits and then answers, one question at a time, so long in all as the tracker
works: what overlapping gains where LLM and tracker are equally fast. `--endpoint` measures a real one as it is.
"""

from __future__ import annotations

import argparse
import json
import queue
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Scene, SceneSource, make_scene
from alref_edge.mllm import ClientSettings, Endpoint, MllmClient, Questioner, Templates
from alref_edge.pipeline import MllmSelector, Pipeline, RvosResult, RvosRun
from benchmarks.timing import compare, environment

_SENTENCES = 2
_GOAL = 1.5


def main(argv: list[str]) -> int:
    """Time both ways and print JSON; 0 when overlapping is as much faster as asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overlap", description=__doc__)
    parser.add_argument("--bundle", type=Path, help="the shipped one if left out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--clips", type=int, default=10, help="each has two sentences")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--in-flight", type=int, default=4)
    parser.add_argument("--endpoint", help="a real server; its key in ALREF_MLLM_API_KEY")
    parser.add_argument("--llm-pixels", type=int, default=172_032)
    parser.add_argument("--out", type=Path, help="also write the JSON to a file")
    arguments = parser.parse_args(argv)

    scenes = [scene for scene in map(make_scene, range(arguments.clips)) if len(scene.expressions) >= _SENTENCES]
    with Pipeline.from_bundle(arguments.bundle, arguments.device, threads=arguments.threads) as pipeline:
        if arguments.endpoint:
            report = _measure(pipeline, scenes, Endpoint.at(arguments.endpoint), arguments)
        else:
            with _Waiting() as server:
                server.delay_s, tracking_s = _delay(pipeline, scenes, server, arguments)
                report = _measure(pipeline, scenes, Endpoint.at(server.url), arguments)
                report["server"] = {"delay_s": server.delay_s, "tracking_s": tracking_s, "order": "one at a time, FIFO"}
    text = json.dumps(report, indent=1)
    print(text)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")
    return 0 if arguments.endpoint or report["speed_up"] >= _GOAL else 1


def _measure(
    pipeline: Pipeline, scenes: Sequence[Scene], endpoint: Endpoint, arguments: argparse.Namespace
) -> dict[str, Any]:
    last: dict[str, list[RvosRun]] = {}

    def overlapping() -> None:
        with _selector(endpoint, arguments) as selector:
            last["overlapping"] = list(pipeline.rvos_many(_jobs(scenes), selector=selector))

    def one_by_one() -> None:
        with _selector(endpoint, arguments) as selector:
            last["one_by_one"] = [pipeline.rvos(*job, selector=selector) for job in _jobs(scenes)]

    timing = compare(overlapping, one_by_one, runs=arguments.runs)
    return {
        "program": "overlap",
        "clips": len(scenes),
        "sentences": len(scenes) * _SENTENCES,
        "frames": sum(scene.num_frames for scene in scenes),
        "bundle": pipeline.bundle.manifest.name,
        "in_flight": arguments.in_flight,
        "overlapping_s": timing.ours_s,
        "one_by_one_s": timing.theirs_s,
        "speed_up": timing.ratio,
        "interval_95": [timing.ratio_low, timing.ratio_high],
        "masks_equal": all(map(_equal, last["overlapping"], last["one_by_one"])),
        "questions": sum(int(results[0].run.reasoning["questions"]) for results in last["overlapping"]),
        "wait_share": {name: _wait_share(runs) for name, runs in last.items()},
        "wait_share_by_clip": [results[0].run.wait_share for results in last["overlapping"]],
        "environment": environment(("onnxruntime", "numpy", "httpx")),
    }


def _delay(
    pipeline: Pipeline, scenes: Sequence[Scene], server: _Waiting, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Seconds that a question has to take for all to take as long as tracking, and how long that is.

    Measured on the decisions that the server gives, without waiting; once to warm up, then three times.
    """
    spent = []
    for _ in range(4):
        before = server.answered
        with _selector(Endpoint.at(server.url), arguments) as selector:
            runs = [pipeline.rvos(*job, selector=selector) for job in _jobs(scenes)]
        reports = [results[0].run for results in runs]
        spent.append(sum(report.elapsed_s - report.timings_s["wait"] for report in reports))
        asked = server.answered - before
    tracking_s = float(np.median(spent[1:]))
    return tracking_s / asked, tracking_s


@contextmanager
def _selector(endpoint: Endpoint, arguments: argparse.Namespace) -> Iterator[MllmSelector]:
    """A selector with a client of its own and no cache, so that every run asks anew."""
    with MllmClient(endpoint, settings=ClientSettings(in_flight=arguments.in_flight)) as client:
        yield MllmSelector(client, Questioner(Templates.load(), arguments.llm_pixels))


def _jobs(scenes: Sequence[Scene]) -> Iterator[tuple[SceneSource, list[str]]]:
    return ((SceneSource(scene), [each.text for each in scene.expressions[:_SENTENCES]]) for scene in scenes)


def _equal(one: Sequence[RvosResult], other: Sequence[RvosResult]) -> bool:
    return all(
        np.array_equal(a, b)
        for ours, theirs in zip(one, other, strict=True)
        for (_, a), (_, b) in zip(ours.masks(), theirs.masks(), strict=True)
    )


def _wait_share(runs: Sequence[Sequence[RvosResult]]) -> float:
    """The share of all time in which the tracker waited for pivots."""
    reports = [results[0].run for results in runs]
    return sum(report.timings_s["wait"] for report in reports) / sum(report.elapsed_s for report in reports)


class _Waiting:
    """A server with the API of an LLM's, which answers one question at a time, each after `delay_s`: frame 1, box 1."""

    def __init__(self) -> None:
        self.delay_s = 0.0
        self.answered = 0
        turns: queue.Queue[threading.Event] = queue.Queue()
        threading.Thread(target=self._serve, args=(turns,), daemon=True).start()

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self._send({"data": [{"id": "waiting"}]})

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                schema = asked["response_format"]["json_schema"]["schema"]
                answer = {
                    name: [""] * part["minItems"] if part["type"] == "array" else 1 if part["type"] == "integer" else ""
                    for name, part in schema["properties"].items()
                }
                turn = threading.Event()
                turns.put(turn)
                turn.wait()
                message = {"role": "assistant", "content": json.dumps(answer)}
                self._send({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": {}})

            def _send(self, value: object) -> None:
                body = json.dumps(value).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def _serve(self, turns: queue.Queue[threading.Event]) -> None:
        """First come, first served."""
        while True:
            turn = turns.get()
            time.sleep(self.delay_s)
            self.answered += 1
            turn.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self) -> _Waiting:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
