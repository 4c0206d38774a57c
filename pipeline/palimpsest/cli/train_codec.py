"""`palimpsest train-codec`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli import console
from palimpsest.cli.console import explained, print_json
from palimpsest.cli.options import Json, Preset, Set
from palimpsest.cli.progress import LiveLine, TrainingRows


def train_codec(
    preset: Preset = "codec-cpu",
    overrides: Set = None,
    reader: Annotated[bool, typer.Option("--reader", help="Tune the cell reader alone, on tokens of a frozen encoder.")] = False,
    export: Annotated[Path | None, typer.Option(help="Only write the checkpoint of the training state to this folder.")] = None,
    as_json: Json = False,
) -> None:
    """Train the embedded codec; resumes from its last saved state.

    The folder `out` gets the state, the log, curves.png and, every `evaluate_every` steps, how much of held-out pages is read.
    With --reader, --export measures errors by character and by word, and refuses weights that read any class worse.

    palimpsest train-codec codec-cpu --set text=codec_text.jsonl --set out=training/codec

    palimpsest train-codec codec-cpu --set out=training/codec --export pipeline/palimpsest/codecs/embedded/weights
    """
    console.needs_lab()
    from palimpsest.lab.training import train_reader
    from palimpsest.lab.training.train_codec import load_config, train

    with explained():
        if reader:
            tuning = train_reader.load_config(preset, overrides or ())
            if export:
                print_json(train_reader.export_reader(tuning, export))
                return
            with LiveLine("training", enabled=not as_json) as live:
                train_reader.train_reader(tuning, TrainingRows(live, as_json))
            return
        config = load_config(preset, overrides or ())
        if export:
            from palimpsest.lab.training.export_codec import export as write

            print_json(write(Path(config.out) / "state.pt", export))
            return
        with LiveLine("training", enabled=not as_json) as live:
            train(config, TrainingRows(live, as_json))
