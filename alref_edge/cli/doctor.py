"""`alref-edge doctor` and `alref-edge bundle`: what is installed, and whether it is whole."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from alref_edge.cli.console import add_command, echo, print_json
from alref_edge.cli.options import AsJson, Debug

_bundle = typer.Typer(help="Bundles: folders of exported networks.", no_args_is_help=True, rich_markup_mode=None)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    add_command(app, doctor)
    add_command(_bundle, bundle_verify, "verify")
    app.add_typer(_bundle, name="bundle")


def doctor(
    bundle: Annotated[Path | None, typer.Option(help="A bundle to verify; the shipped one if left out.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what is installed, what works, and what is missing; exits 0 if videos can be run."""
    from alref_edge.doctor import examine

    report = examine(bundle)
    if as_json:
        print_json(report.to_json())
    else:
        echo(*report.lines())
    if not report.can_run:
        raise typer.Exit(1)


def bundle_verify(
    folder: Annotated[Path, typer.Argument(help="The bundle's folder.")], as_json: AsJson = False, debug: Debug = False
) -> None:
    """Compare a bundle with its manifest, file by file, hash by hash."""
    from alref_edge.bundle import Bundle

    bundle = Bundle.open(folder)
    manifest = bundle.manifest
    if as_json:
        components = {
            name: {"variant": entry.variant, "precisions": list(entry.precisions), "licence": entry.licence}
            for name, entry in manifest.components.items()
        }
        facts = {"name": manifest.name, "sha256": bundle.sha256, "trained": manifest.trained, "components": components}
        print_json(facts)
        return
    echo(f"{manifest.name}: whole, {len(manifest.files)} files, {bundle.sha256}")
    for name, entry in manifest.components.items():
        echo(f"  {name}: {entry.variant}, {', '.join(entry.precisions)}, {entry.licence}")
    if not manifest.trained:
        echo("  UNTRAINED: random weights")
