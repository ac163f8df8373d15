"""An LLM's server under load: requests and tokens per second and latency, one request at a time and many at once.

Each request asks for the pivot frame of a synthetic scene: first with a strip of its own each, so that no cache knows
it; then many sentences about one strip, as a video's sentences are asked. Rounds go through all loads in turn.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from alref_edge.datasets.synthetic import Scene, make_scene
from alref_edge.mllm import ClientSettings, Endpoint, MllmClient, Question, Questioner, Reply, Templates
from alref_edge.mllm.serving.model_folder import pixel_budget
from alref_edge.mllm.serving.server import MllmServer, ServerSettings
from alref_edge.mllm.strips import PIXEL_BUDGET
from benchmarks.timing import bootstrap_median, environment, processor_time

ROWS = {"own": "a strip of its own each", "shared": "one strip, many sentences"}
SAMPLED = range(0, 50, 10)
PERCENTILES = (50, 90, 99)
# A percentile is told where so many samples lie beyond it.
_BEYOND = 3
_MAX_TOKENS = 1024
_TIMEOUT_S = 600.0


@dataclass(frozen=True)
class Batch:
    """Some requests that were asked with so many in flight.

    Attributes:
        wall_s: from the first question to the last reply.
        processor_s: seconds on a processor in that time, of this program and of a server that it started.
        latency_s: of each request, from being sent to being answered.
        prompt_tokens, completion_tokens: of each request.
        unusable: requests whose answer could not be used, after one repair attempt.
        repaired: requests that took the repair attempt.
    """

    wall_s: float
    processor_s: float
    latency_s: list[float]
    prompt_tokens: list[int]
    completion_tokens: list[int]
    unusable: int
    repaired: int

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latency_s) / self.wall_s


def main(argv: list[str]) -> int:
    """Measure, print a table and write the samples; 0 when many at once gain at least what is asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks mllm", description=__doc__)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--model", type=Path, help="folder of a model, for which a server is started")
    where.add_argument("--endpoint", help="URL of a server that runs already")
    parser.add_argument("--python", help="that of the environment with vLLM; ALREF_VLLM_PYTHON if left out")
    parser.add_argument("--log", type=Path, help="file for the server's output")
    parser.add_argument("--in-flight", type=int, nargs="+", default=[1, 8, 32], help="the first is compared with")
    parser.add_argument("--requests", type=int, default=8, help="of a round, at least; and at least two per in flight")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pixels", type=int, help="of a strip; as the model's folder has it, if left out")
    parser.add_argument(
        "--characters",
        type=int,
        default=64,
        help="of each text in an answer, at most: random weights fill it; 0: as the pipeline asks",
    )
    parser.add_argument("--at-least", type=float, default=3.0, help="the gain that is asked for, each strip its own")
    parser.add_argument("--json", type=Path, help="file for the samples")
    arguments = parser.parse_args(argv)
    if min(arguments.in_flight) < 1 or arguments.rounds < 1 or arguments.requests < 1 or arguments.characters < 0:
        parser.error("counts are 1 or more")
    if len(set(arguments.in_flight)) < len(arguments.in_flight):
        parser.error("--in-flight names each load once")

    with _server(arguments) as (endpoint, facts):
        most = None if arguments.model is None else pixel_budget(arguments.model)
        pixels = arguments.pixels or min(PIXEL_BUDGET, most or PIXEL_BUDGET)
        asker = Asker(pixels, arguments.characters)
        measured = measure(endpoint, asker, arguments.in_flight, arguments.requests, arguments.rounds)
    report = {
        "program": "mllm",
        "server": facts,
        "pixels": pixels,
        "characters": arguments.characters,
        "max_tokens": _MAX_TOKENS,
        "rows": {row: summary(each, arguments.in_flight) for row, each in measured.items()},
        "environment": environment(("httpx", "numpy", "pillow")),
    }
    print(table(report["rows"]))
    if arguments.json:
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")
    gains = [each["gain"]["median"] for each in report["rows"]["own"].values() if "gain" in each]
    return 0 if not gains or max(gains) >= arguments.at_least else 1


class Asker:
    """Makes questions, no two of which are equal.

    Args:
        pixels: of a strip, at most.
        characters: of each text in an answer, at most; 0: as the pipeline asks.
    """

    def __init__(self, pixels: int, characters: int) -> None:
        self._questioner = Questioner(Templates.load(), pixels)
        self._characters = characters
        self._seeds = count()

    def own(self, number: int) -> list[Question[int]]:
        """So many questions about a scene each."""
        return [self._question(self._strip(scene), scene, 0) for scene in self._scenes(number)]

    def shared(self, number: int) -> list[Question[int]]:
        """So many questions about one scene."""
        (scene,) = self._scenes(1)
        strip = self._strip(scene)
        return [self._question(strip, scene, index) for index in range(number)]

    def _scenes(self, number: int) -> Iterator[Scene]:
        for _ in range(number):
            yield make_scene(next(self._seeds), num_frames=SAMPLED.stop)

    def _strip(self, scene: Scene) -> bytes:
        return self._questioner.stacked([scene.frame(index) for index in SAMPLED])

    def _question(self, strip: bytes, scene: Scene, index: int) -> Question[int]:
        texts = [each.text for each in scene.expressions]
        again, which = divmod(index, len(texts))
        sentence = texts[which] + (f", asked {again + 1} times" if again else "")
        question = self._questioner.pivot_frame(strip, len(SAMPLED), sentence)
        return replace(question, schema=shortened(question.schema, self._characters)) if self._characters else question


def shortened(schema: Any, characters: int) -> Any:
    """The schema with texts of at most so many characters."""
    if isinstance(schema, dict):
        return {
            key: min(value, characters) if key == "maxLength" else shortened(value, characters)
            for key, value in schema.items()
        }
    return schema


def measure(
    endpoint: Endpoint, asker: Asker, loads: Sequence[int], requests: int, rounds: int
) -> dict[str, dict[int, list[Batch]]]:
    """Ask in rounds; after a warm-up, which does not count.

    Returns:
        For each of `ROWS`, the batches of each load, one a round.
    """
    kinds: dict[str, Callable[[int], list[Question[int]]]] = {"own": asker.own, "shared": asker.shared}
    measured: dict[str, dict[int, list[Batch]]] = {row: {load: [] for load in loads} for row in ROWS}
    run(endpoint, asker.own(2 * max(loads)), max(loads))
    for turn in range(rounds):
        for row, make in kinds.items():
            for load in loads if turn % 2 == 0 else loads[::-1]:
                measured[row][load].append(run(endpoint, make(max(requests, 2 * load)), load))
    return measured


def run(endpoint: Endpoint, questions: Sequence[Question[int]], in_flight: int) -> Batch:
    """Ask these, with so many in flight."""
    settings = ClientSettings(in_flight=in_flight, max_tokens=_MAX_TOKENS, timeout_s=_TIMEOUT_S)
    with MllmClient(endpoint, settings=settings) as client:
        _ = client.model  # asked for, and a connection opened, before the clock starts
        start, used_s = time.perf_counter(), processor_time()
        replies: list[Reply[int]] = [each.result() for each in [client.submit(question) for question in questions]]
        wall_s, processor_s = time.perf_counter() - start, processor_time() - used_s
    return Batch(
        wall_s=wall_s,
        processor_s=processor_s,
        latency_s=[reply.seconds for reply in replies],
        prompt_tokens=[reply.prompt_tokens for reply in replies],
        completion_tokens=[reply.completion_tokens for reply in replies],
        unusable=sum(not reply.usable for reply in replies),
        repaired=sum(reply.repaired for reply in replies),
    )


def summary(batches: dict[int, list[Batch]], loads: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Figures and samples of each load; the gain is over the first one, round by round."""
    base = [batch.rate for batch in batches[loads[0]]]
    figures: dict[str, dict[str, Any]] = {}
    for load in loads:
        done = batches[load]
        seconds = sum(batch.wall_s for batch in done)
        latency_s = [each for batch in done for each in batch.latency_s]
        entry: dict[str, Any] = {
            "requests": len(latency_s),
            "requests_per_s": len(latency_s) / seconds,
            "prompt_tokens_per_s": sum(sum(batch.prompt_tokens) for batch in done) / seconds,
            "completion_tokens_per_s": sum(sum(batch.completion_tokens) for batch in done) / seconds,
            "processor_s_per_request": sum(batch.processor_s for batch in done) / len(latency_s),
            "latency_s": percentiles(latency_s),
        }
        if load != loads[0]:
            ratios = np.array([batch.rate for batch in done]) / base
            low, high = bootstrap_median(ratios)
            entry["gain"] = {"median": float(np.median(ratios)), "interval_95": [low, high], "over": loads[0]}
        figures[str(load)] = {**entry, "rounds": [asdict(batch) for batch in done]}
    return figures


def percentiles(samples: Sequence[float]) -> dict[str, float]:
    """Those of `PERCENTILES` that the samples are enough for."""
    enough = [each for each in PERCENTILES if len(samples) * (100 - each) >= 100 * _BEYOND]
    return {f"p{each}": float(np.percentile(samples, each)) for each in enough}


def table(rows: dict[str, dict[str, dict[str, Any]]]) -> str:
    """Lines for a person."""
    lines = []
    for row, loads in rows.items():
        lines.append(
            f"{ROWS[row]:<27}{'requests/s':>11}{'prompt tok/s':>14}{'answer tok/s':>14}{'cpu, s':>8}"
            + "".join(f"{f'p{each}, s':>8}" for each in PERCENTILES)
            + "  gain, 95 %"
        )
        for load, each in loads.items():
            latency = "".join(
                f"{each['latency_s'][name]:>8.2f}" if name in each["latency_s"] else f"{'-':>8}"
                for name in (f"p{number}" for number in PERCENTILES)
            )
            gain = each.get("gain")
            gained = "" if gain is None else "{:.2f} [{:.2f}, {:.2f}]".format(gain["median"], *gain["interval_95"])
            lost = sum(batch["unusable"] for batch in each["rounds"])
            lines.append(
                f"  {f'{load} in flight':<25}{each['requests_per_s']:>11.2f}{each['prompt_tokens_per_s']:>14.0f}"
                f"{each['completion_tokens_per_s']:>14.0f}{each['processor_s_per_request']:>8.2f}{latency}  {gained}"
                + (f"  ({lost} unusable)" if lost else "")
            )
    return "\n".join(line.rstrip() for line in lines)


@contextmanager
def _server(arguments: argparse.Namespace) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """The server, and what is to be known of it."""
    if arguments.endpoint:
        endpoint = Endpoint.at(arguments.endpoint)
        yield endpoint, {"endpoint": endpoint.url}
        return
    settings = ServerSettings(in_flight=max(arguments.in_flight))
    start = time.perf_counter()
    with MllmServer(arguments.model, settings, arguments.python, arguments.log) as server:
        facts = {
            "model": server.model.name,
            "vllm": server.installation.version,
            "on_cpu": server.installation.on_cpu,
            "settings": {name: value for name, value in asdict(settings).items() if name != "api_key"},
            "start_s": time.perf_counter() - start,
        }
        yield server.endpoint, facts
