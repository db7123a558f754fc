"""Steer: extract a behaviour's steering vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from palimpsest.cli._app import Device, Dtype, Json, Model, Seed, app, possible, refuse_absent


@app.command()
def steer(
    behaviour: Annotated[str, typer.Argument(help="A behaviour's name (see `palimpsest list`) or YAML file.")],
    out: Annotated[
        Path, typer.Option("--out", callback=possible, help="The file to write: safetensors, one tensor for each block.")
    ],
    model: Model = "pocket",
    gguf: Annotated[
        Path | None, typer.Option("--gguf", callback=possible, help="Also write a control vector for llama.cpp.")
    ] = None,
    method: Annotated[str, typer.Option("--method", help="mean, pca or logistic.")] = "mean",
    made_from: Annotated[
        str,
        typer.Option("--from", help="Pairs of answers, or instruction: prompts with and without the behaviour's instruction."),
    ] = "answers",
    layer: Annotated[int | None, typer.Option("--layer", help="Only after this block, counted from 0; all by default.")] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    seed: Seed = 0,
    json: Json = False,
) -> None:
    """Extract a behaviour's steering vectors from contrastive pairs, and say how consistent they are."""
    refuse_absent(model)
    from palimpsest.console import Live, as_json, say, table
    from palimpsest.store import vector_file
    from palimpsest.vectors import extract

    def problems() -> list[str]:
        return vector_file.gguf_problems(gguf, None if layer is None else [layer])

    with Live(watched=not json) as live:
        live.begin("checking")
        found = extract(
            behaviour,
            model,
            method=method,
            made_from=made_from,
            layer=layer,
            device=device,
            dtype=dtype,
            seed=seed,
            progress=live,
            also=problems,
        )
    vector_file.write(out, found.vectors)
    left_out = vector_file.write_gguf(gguf, found.vectors, found.model_type) if gguf else []
    if json:
        as_json(dict(found.vectors.facts))
        return
    table(found.columns, found.rows, title=f"{found.pairs} pairs, cosines of the mean difference")
    say("Left out: with the direction of all other templates. Random signs: mean and middle 95% of draws.", style="dim")
    say(f"wrote {out}")
    if gguf:
        without = f" (without block {left_out[0]}, after which llama.cpp can't add)" if left_out else ""
        say(f"wrote {gguf}{without}; llama.cpp adds it at every token")
