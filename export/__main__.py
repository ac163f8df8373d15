"""`python -m export`: official checkpoints, or seeded random weights, into a bundle."""

from __future__ import annotations

import argparse
import os
import sys
from contextlib import closing
from pathlib import Path

from alref_edge.bundle import Bundle
from alref_edge.cli.console import one_line
from alref_edge.errors import AlrefError, InputError
from alref_edge.files import PartialFolder, unwound_by_signals
from export.bundle import ComponentSpec, add_to_bundle, read_defaults
from export.precision import PRECISIONS


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m export",
        description="Export a network into a bundle. Without a checkpoint, --seed makes random weights: such a bundle "
        "is named untrained.",
    )
    commands = parser.add_subparsers(dest="component", required=True)

    def command(name: str, help_: str, variants: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help_)
        sub.add_argument("--variant", required=True, help=variants)
        sub.add_argument("--bundle", required=True, type=Path, help="folder of the bundle, new or standing")
        sub.add_argument("--checkpoint", type=Path, help="the official weights")
        sub.add_argument("--seed", type=int, help="seed of random weights, where there is no checkpoint")
        sub.add_argument(
            "--precision", nargs="+", default=["float32"], choices=PRECISIONS, help="of the graphs; float32 if left out"
        )
        sub.add_argument("--notes", help="one line that the bundle's users see; kept from before if left out")
        sub.add_argument(
            "--defaults", type=Path, help='JSON, {"rvos": {...}, "avs": {...}}: the settings that a bundle wants'
        )
        return sub

    command("sam2", "SAM 2 and 2.1 (.pt)", "sam2_tiny, sam2_small, sam2_base_plus, sam2_large, sam2.1_..., sam2.1_nano")
    grounding = command("grounding_dino", "Grounding DINO (.pth or transformers folder)", "swin_t, swin_b, nano")
    grounding.add_argument("--folder", type=Path, help="a transformers folder, instead of a checkpoint")
    grounding.add_argument(
        "--vocab", type=Path, help="vocab.txt of the text encoder (of bert-base-uncased, officially)"
    )
    beats = command("beats", "BEATs, fine-tuned (.pt)", "as20k, as2m, as20k_nano, as2m_nano")
    beats.add_argument(
        "--ontology", type=Path, help="AudioSet's ontology.json, which names the labels of an official checkpoint"
    )
    language = command("languagebind", "LanguageBind's audio and text towers (official folders)", "vit_l14, nano")
    language.add_argument("--folder", type=Path, help="folder of LanguageBind_Audio or LanguageBind_Audio_FT")
    language.add_argument(
        "--image-folder", type=Path, help="folder of LanguageBind_Image, in whose space categories are compared"
    )
    yamnet = command("yamnet", "YAMNet (Keras .h5)", "yamnet, nano")
    yamnet.add_argument("--class-map", type=Path, help="yamnet_class_map.csv, if scores are to have names")
    return parser


def _export(arguments: argparse.Namespace, folder: Path) -> ComponentSpec:
    weights = {"checkpoint": arguments.checkpoint, "seed": arguments.seed, "precisions": arguments.precision}
    if arguments.component == "sam2":
        from export.sam2 import export_sam2

        return export_sam2(arguments.variant, folder, **weights)
    if arguments.component == "beats":
        from export.beats import export_beats

        return export_beats(arguments.variant, folder, ontology=arguments.ontology, **weights)
    if arguments.component == "yamnet":
        from export.yamnet import export_yamnet

        return export_yamnet(arguments.variant, folder, class_map=arguments.class_map, **weights)
    if arguments.component == "languagebind":
        from export.languagebind import export_languagebind

        if weights.pop("checkpoint") is not None:
            raise InputError("LanguageBind is published as a folder.", mend="give it with --folder.")
        return export_languagebind(
            arguments.variant, folder, folder=arguments.folder, image_folder=arguments.image_folder, **weights
        )
    from export.grounding_dino import export_grounding_dino

    return export_grounding_dino(arguments.variant, folder, folder=arguments.folder, vocab=arguments.vocab, **weights)


def _exported(arguments: argparse.Namespace) -> tuple[Bundle, ComponentSpec]:
    arguments.bundle.mkdir(parents=True, exist_ok=True)
    with closing(PartialFolder(Path(os.path.realpath(arguments.bundle)))) as beside:
        component = _export(arguments, beside.folder)
        defaults = None if arguments.defaults is None else read_defaults(arguments.defaults)
        return add_to_bundle(arguments.bundle, component, notes=arguments.notes, defaults=defaults), component


def main(argv: list[str] | None = None) -> int:
    """Run the command line; 0 when the bundle was written and verified."""
    arguments = _parser().parse_args(argv)
    try:
        with unwound_by_signals():
            bundle, component = _exported(arguments)
    except AlrefError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    size = sum(entry.size for path, entry in bundle.manifest.files.items() if path.startswith(component.name + "/"))
    state = "trained" if bundle.manifest.trained else "UNTRAINED"
    precisions = ", ".join(component.forms["standard"])
    print(f"{bundle.root}: {component.name} {component.variant} {precisions}, {size / 1e6:.1f} MB, {state}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
