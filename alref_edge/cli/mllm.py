"""`alref-edge mllm`: the server of the multimodal LLM."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, echo, print_json, say
from alref_edge.cli.options import AsJson, Debug, Verbose
from alref_edge.errors import MllmError

_mllm = typer.Typer(help="The local multimodal LLM, which vLLM serves.", no_args_is_help=True, rich_markup_mode=None)

_POLL_S = 0.5


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(_mllm, serve)
    app.add_typer(_mllm, name="mllm")


@_mllm.callback()
def _group() -> None:
    pass


def serve(
    model: Annotated[
        Path | None,
        typer.Option(
            help="The model's folder; nothing is fetched. The shipped one, for generated scenes, if left out."
        ),
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="The Python that has vLLM; ALREF_VLLM_PYTHON's, or this one, if left out.")
    ] = None,
    host: Annotated[str, typer.Option(help="A loopback address, for --port.")] = "127.0.0.1",
    port: Annotated[
        int | None,
        typer.Option(help="Listen on this TCP port, 0: a free one; on a UNIX socket of this user's if left out."),
    ] = None,
    tensor_parallel: Annotated[int, typer.Option(help="GPUs that the model is spread over.")] = 1,
    context: Annotated[
        int | None, typer.Option(help="Most tokens of a prompt and its answer; up to 8192 if left out.")
    ] = None,
    memory_share: Annotated[
        float | None, typer.Option(help="Of a GPU's memory (0.9); on a CPU of the free memory, for the cache (0.25).")
    ] = None,
    quantization: Annotated[
        str | None, typer.Option(help="vLLM's name of a method; as the model's folder says if left out.")
    ] = None,
    dtype: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    max_images: Annotated[int, typer.Option(help="Most images of one request.")] = 1,
    in_flight: Annotated[int, typer.Option(help="Most requests that are worked on at once.")] = 32,
    start_timeout: Annotated[float, typer.Option(help="Seconds until it must have answered.")] = 900.0,
    log: Annotated[Path | None, typer.Option(help="File for vLLM's output; in the user's folder if left out.")] = None,
    as_json: AsJson = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Serve a multimodal LLM on this machine until interrupted; `alref-edge rvos ... --selector mllm` finds it."""
    from alref_edge.bundle import shipped
    from alref_edge.mllm.endpoint import ServerState, remove_state, write_state
    from alref_edge.mllm.serving.server import MllmServer, ServerSettings

    settings = ServerSettings(
        host=host,
        port=port,
        tensor_parallel=tensor_parallel,
        context=context,
        memory_share=memory_share,
        quantization=quantization,
        dtype=dtype,
        max_images=max_images,
        in_flight=in_flight,
        start_timeout_s=start_timeout,
    )
    server = MllmServer(model or shipped("nano_mllm"), settings, python, log)
    vllm = server.installation
    kind = "CPU" if vllm.on_cpu else "GPU"
    say(f"vLLM {vllm.version} ({kind}, {vllm.python}) loads {server.model.path}; log: {server.log}")
    try:
        with server:
            pid, endpoint = server.pid or 0, server.endpoint
            file = write_state(ServerState(endpoint.url, endpoint.api_key, endpoint.model or "", pid, time.time()))
            try:
                if as_json:
                    print_json({"url": endpoint.url, "model": endpoint.model, "pid": pid, "key_file": str(file)})
                else:
                    echo(
                        f"{endpoint.model} answers at {endpoint.url}",
                        'alref-edge rvos VIDEO --text "..." --selector mllm   finds it by itself',
                        f"Ctrl+C ends it. Its key is in {file}, which this user alone can read.",
                    )
                while server.wait(_POLL_S) is None:
                    pass
                raise MllmError(
                    "vLLM's server has ended by itself.",
                    got=f"exit status {server.status()}; its log ends: {' | '.join(server.tail(2))}",
                    mend=f"read why, and start it again. The log: {server.log}",
                )
            finally:
                remove_state(pid)
    except (KeyboardInterrupt, SystemExit):
        say("The server has ended.")
