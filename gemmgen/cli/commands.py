"""The commands' names, arguments and help; the work is done in the modules they import when they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import gemmgen
from gemmgen.cli.options import parse_dims

app = typer.Typer(
    name="gemmgen",
    help="Compile declarative specs of matrix multiplications to GPU kernels.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
cache_app = typer.Typer(help="Look at the kernel cache, or empty it.", no_args_is_help=True)
app.add_typer(cache_app, name="cache")

Spec = Annotated[str, typer.Argument(help="A spec file, or the name of a shipped spec (see `gemmgen specs`).")]
Target = Annotated[str | None, typer.Option("--target", "-t", help="Architecture (see `gemmgen targets`).")]
Dims = Annotated[list[str], typer.Option("--dim", "-d", metavar="NAME=SIZE", help="Size of a dimension; repeatable.")]
Tuned = Annotated[
    Path | None, typer.Option("--tuned", metavar="FILE", help="Schedules that `gemmgen tune` found, to be used first.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"gemmgen {gemmgen.__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    """Compile declarative specs of matrix multiplications to GPU kernels."""


@app.command("compile")
def compile_(
    spec: Spec,
    target: Target = None,
    dim: Dims = [],  # noqa: B006 (typer reads the default and never changes it)
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder to write to.")] = Path(
        "build/kernels"
    ),
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Kernels compiled at a time.")] = None,
    tuned: Tuned = None,
    json: Json = False,
) -> None:
    """Write CUDA, PTX, cubin and a launch manifest.

    One kernel if M is given, else every kernel of the plan; for the spec's targets unless --target picks one.
    """
    from gemmgen.cli.compile_command import compile_command

    compile_command(spec, target, parse_dims(dim), out, jobs, tuned, json)


@app.command()
def run(
    spec: Spec,
    target: Target = None,
    dim: Dims = [],  # noqa: B006 (typer reads the default and never changes it)
    seed: Annotated[int, typer.Option(help="Seed of the random inputs.")] = 0,
    tuned: Tuned = None,
    json: Json = False,
) -> None:
    """Compile, run on random inputs, check against an FP32 reference, and time.

    Without a GPU the kernels are compiled for the spec's targets and nothing is executed.
    """
    from gemmgen.cli.run_command import run_command

    if not run_command(spec, target, parse_dims(dim), seed, tuned, json):
        raise typer.Exit(1)


@app.command("verify")
def verify_(
    spec: Spec,
    target: Target = None,
    dim: Dims = [],  # noqa: B006 (typer reads the default and never changes it)
    seeds: Annotated[int, typer.Option(min=1, help="Launches per schedule, each seed with fresh inputs.")] = 1,
    schedule: Annotated[str | None, typer.Option(help="fifo | random | adversarial; all three when left out.")] = None,
    numerics: Annotated[str, typer.Option(help="hardware | fp32: how tensor cores add.")] = "hardware",
    sms: Annotated[int, typer.Option(min=1, help="SMs that the grid is made for.")] = 4,
    scales: Annotated[str, typer.Option(help="mn | k: the order in which row scales lie.")] = "mn",
    json: Json = False,
) -> None:
    """Run the kernel's PTX on the emulator: values against an FP32 reference, and races, fences, barriers, deadlocks.

    Dimensions that are left out get a small problem with a tail in each. Needs no GPU.
    """
    from gemmgen.cli.verify_command import verify_command

    if not verify_command(spec, target, parse_dims(dim), seeds, schedule, numerics, sms, scales, json):
        raise typer.Exit(1)


@app.command()
def emulate(
    ptx: Annotated[Path, typer.Argument(help="A PTX file, gemmgen's or not.")],
    launch: Annotated[Path, typer.Option("--launch", "-l", help="A launch file (docs/emulator.md).")],
    seed: Annotated[int | None, typer.Option(help="Instead of the launch file's.")] = None,
    schedule: Annotated[str | None, typer.Option(help="Instead of the launch file's.")] = None,
    numerics: Annotated[str | None, typer.Option(help="Instead of the launch file's.")] = None,
    json: Json = False,
) -> None:
    """Run a PTX file on the emulator as a launch file says, and print what was found."""
    from gemmgen.cli.verify_command import emulate_command

    overrides = {"seed": seed, "schedule": schedule, "numerics": numerics}
    if not emulate_command(ptx, launch, overrides, json):
        raise typer.Exit(1)


@app.command("inspect")
def inspect_(
    spec: Spec,
    stage: Annotated[
        str,
        typer.Option(
            "--stage",
            "-s",
            help="spec | schedule | tile | async | target | cuda | ptx | sass | resources, or a pass's name.",
        ),
    ] = "schedule",
    target: Target = None,
    dim: Dims = [],  # noqa: B006 (typer reads the default and never changes it)
    json: Json = False,
) -> None:
    """Print one stage on the way from a spec to a kernel.

    Without --dim M=…, schedule and resources cover the whole plan, other stages its kernel for the largest M.
    """
    from gemmgen.cli.inspect_command import inspect_command

    inspect_command(spec, stage, target, parse_dims(dim), json)


@app.command()
def explain(
    spec: Spec,
    target: Target = None,
    dim: Dims = [],  # noqa: B006 (typer reads the default and never changes it)
    scales: Annotated[str, typer.Option(help="mn | any: the order in which row scales lie.")] = "mn",
    tuned: Tuned = None,
    json: Json = False,
) -> None:
    """Print which kernel of the plan serves a shape, and why: predicted time, runners-up, what each resource does.

    A model predicts all of it; on a GPU of the target the kernel's time is measured as well.
    """
    from gemmgen.cli.explain_command import explain_command

    if not explain_command(spec, target, parse_dims(dim), scales, tuned, json):
        raise typer.Exit(1)


@app.command("tune")
def tune_(
    spec: Spec,
    target: Target = None,
    dim: Annotated[
        list[str],
        typer.Option("--dim", "-d", metavar="NAME=SIZE", help="Size of a dimension; M may have several: M=1,64,4096."),
    ] = [],  # noqa: B006 (typer reads the default and never changes it)
    budget: Annotated[str, typer.Option(metavar="TIME", help="For all M together: 90s, 5m or 1h.")] = "60s",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write, or to add to.")
    ] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Kernels compiled at a time.")] = None,
    json: Json = False,
) -> None:
    """Search the schedules for a shape on this machine's GPU, and keep the fastest in a file for --tuned.

    Every candidate's values are checked before it is timed. Ctrl-C and the end of the time keep what was found.
    """
    from gemmgen.cli.tune_command import tune_command

    status = tune_command(spec, target, dim, budget, out, jobs, json)
    if status:
        raise typer.Exit(status)


@app.command()
def opt(
    file: Annotated[str, typer.Argument(help="A file of IR text; - reads standard input.")] = "-",
    passes: Annotated[
        list[str],
        typer.Option("--passes", "-p", metavar="PASS[,PASS]", help="Passes in order, options in braces; repeatable."),
    ] = [],  # noqa: B006 (typer reads the default and never changes it)
    list_passes: Annotated[bool, typer.Option("--list", help="List the passes and exit.")] = False,
    locations: Annotated[bool, typer.Option(help="Print where each op came from.")] = False,
    json: Json = False,
) -> None:
    """Apply passes to IR text; the verifier runs before the first and after each."""
    from gemmgen.cli.opt_command import list_passes_command, opt_command

    if list_passes:
        list_passes_command(json)
    else:
        opt_command(file, passes, locations, json)


@app.command()
def targets(json: Json = False) -> None:
    """List the architectures."""
    from gemmgen.cli.info_commands import targets_command

    targets_command(json)


@app.command()
def specs(json: Json = False) -> None:
    """List the shipped specs."""
    from gemmgen.cli.info_commands import specs_command

    specs_command(json)


@app.command()
def schema(json: Json = False) -> None:
    """Print the JSON schema of the spec language."""
    from gemmgen.cli.info_commands import schema_command

    schema_command()


@cache_app.command("info")
def cache_info(json: Json = False) -> None:
    """Print where the cache is and what it holds."""
    from gemmgen.cli.info_commands import cache_info_command

    cache_info_command(json)


@cache_app.command("clear")
def cache_clear(json: Json = False) -> None:
    """Delete every cached kernel."""
    from gemmgen.cli.info_commands import cache_clear_command

    cache_clear_command(json)
