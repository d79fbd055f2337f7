"""The command line `zit`: one function a command, libraries imported only where a command needs them."""

import argparse
import dataclasses
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from zit_app.commands import bench_cache, catalogue, check, lora, models, pocket, serve, update
from zit_app.core.cache_settings import CacheSettings, cache_toml
from zit_app.core.compare_settings import CompareSettings, Variant, compare_toml, parse_seeds, parse_variant
from zit_app.core.errors import ZitError, explain
from zit_app.core.flags import Parser, WrongUsage, fields, setting_flag, usage
from zit_app.core.generate_settings import GenerateSettings, LoraUse, parse_lora, parse_size
from zit_app.core.library import find_adapter
from zit_app.core.models import find_model, list_models
from zit_app.core.progress import Progress
from zit_app.core.quiet import quiet
from zit_app.core.run import Run, find_run
from zit_app.core.train_settings import TrainJob, job_toml, load_preset, load_train_settings, preset_names
from zit_app.core.workers import card_for_command

FAILED, WRONG_USAGE, STOPPED = 1, 2, 130  # 130 is what a shell reports for Ctrl-C


def main(words: Sequence[str] | None = None) -> int:
    """Run one command, without words the app; returns the exit code: 0 only on success, 2 on wrong usage."""
    words = (sys.argv[1:] if words is None else list(words)) or ["app"]
    debug = "--debug" in words
    if not debug:
        quiet()
    try:
        arguments = _parser().parse_args(words)
        return int(arguments.run(arguments) or 0)
    except WrongUsage as error:
        return _render(str(error), "", words, WRONG_USAGE)
    except KeyboardInterrupt:
        return _render("Stopped.", "", words, STOPPED)
    except BrokenPipeError:  # the reader of our output has gone: `zit … | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        if debug:
            traceback.print_exc()
        return _render(*explain(error), words, FAILED)


def _render(what: str, remedy: str, words: Sequence[str], code: int) -> int:
    print(f"{what} {remedy}".rstrip(), file=sys.stderr, flush=True)
    if "--json" in words:
        print(json.dumps({"error": what, "remedy": remedy}, ensure_ascii=False), flush=True)
    return code


# ---------------------------------------------------------------- commands


def app_command(arguments: argparse.Namespace) -> None:
    """Open the app in the browser (also without any words)."""
    password = arguments.password or os.environ.get("ZIT_PASSWORD", "")
    if arguments.reach == "network" and not password:
        raise WrongUsage("zit app --listen needs a password: --password or ZIT_PASSWORD, at least 12 letters.")
    if arguments.password and not arguments.reach:
        raise WrongUsage("zit app: a password is for --listen or --share; the app itself is open on this machine only.")

    from zit_app.service.sharing import check_password
    from zit_app.ui.launch import launch

    check_password(password)
    launch(arguments.port, arguments.browser, arguments.reach, password)


def generate_command(arguments: argparse.Namespace) -> None:
    """Draw pictures."""
    given = {name: getattr(arguments, name) for name in fields(GenerateSettings) if name in arguments}
    width, height = arguments.size
    given["image"] = str(Path(given["image"]).absolute()) if given["image"] else ""
    given |= {"prompts": _prompts(arguments), "loras": tuple(arguments.lora), "width": width, "height": height}
    settings, model = GenerateSettings(**given), _model(arguments.model)

    from zit_app.engine.generate import generate

    progress = Progress(as_json=arguments.json)
    with card_for_command(None, progress.note):
        begun = time.perf_counter()
        pictures = generate(settings, model, arguments.out, progress)
    seconds = time.perf_counter() - begun
    words = "\n".join([*map(str, pictures), f"{len(pictures)} pictures in {seconds:.1f} s"])
    folder = progress.run.folder if progress.run else None
    progress.result(words, pictures=pictures, run=folder, seconds=round(seconds, 3))


def cache_command(arguments: argparse.Namespace) -> int:
    """Encode pictures and captions once, before training."""
    settings = CacheSettings(
        dataset=str(_folder(arguments.dataset)),
        model=_model(arguments.model),
        **{name: getattr(arguments, name) for name in ("resolution", "batch_size", "only", "trigger_word")},
    )

    from zit_app.engine.jobs import cache_run

    run = Run.create("cache", arguments.dataset.name, cache_toml(settings))
    progress = Progress(run, arguments.json)
    with card_for_command(run.folder, progress.note):
        cache = cache_run(run, progress)
    skipped = [{"name": entry.name, "reason": entry.reason} for entry in cache.skipped]
    progress.result(
        cache.summary,
        pictures=len(cache.samples),
        built_latents=cache.built_latents,
        built_texts=cache.built_texts,
        skipped=skipped,
        run=run.folder,
    )
    return 0 if cache.complete else STOPPED


def train_command(arguments: argparse.Namespace) -> int:
    """Train a LoRA, or go on with a run."""
    run = find_run("train", arguments.resume) if arguments.resume else _new_training(arguments)
    progress = Progress(run, arguments.json)

    from zit_app.engine.launching import train_run

    def stop(number: int, frame: Any) -> None:
        """First Ctrl-C: save a checkpoint and end. A second one ends at once."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        run.request(stop=True)
        progress.note("Stopping after this step; once more stops at once.")

    with card_for_command(run.folder, progress.note):
        before = signal.signal(signal.SIGINT, stop)
        try:
            adapter = train_run(run, progress)
        finally:
            signal.signal(signal.SIGINT, before)
    status = run.status()
    words = f"Trained: {adapter}" if adapter else f"Stopped. Go on with: zit train --resume {run.folder}"
    progress.result(words, adapter=adapter, run=run.folder, state=run.state(), step=status.get("step"))
    return 0 if adapter else STOPPED


def _new_training(arguments: argparse.Namespace) -> Run:
    if not (arguments.preset or arguments.config):
        raise WrongUsage("zit train needs --preset or --config. See zit train --help.")
    if arguments.preset:
        settings = load_preset(arguments.preset, arguments.set)
    else:
        settings = load_train_settings(arguments.config, arguments.set)
    source = "prompts" if settings.dataset.drawn else "dataset"
    missing = [f"--{name}" for name in (source, "model") if getattr(arguments, name) is None]
    if missing:
        raise WrongUsage(f"zit train needs {' and '.join(missing)}. See zit train --help.")
    preset, prompts = arguments.preset or str(arguments.config), ""
    if settings.dataset.drawn:
        _lines(arguments.prompts)  # an error now and not after the model was loaded
        prompts, dataset = str(arguments.prompts.absolute()), ""
    else:
        dataset = str(_folder(arguments.dataset))
    job = TrainJob(_model(arguments.model), dataset, preset, prompts)
    name = arguments.name or (Path(dataset).name if dataset else Path(preset).stem)
    return Run.create("train", name, job_toml(settings, job), arguments.out)


def compare_command(arguments: argparse.Namespace) -> int:
    """Draw the same prompts and seeds in several ways and measure how much seeds vary."""
    width, height = arguments.size
    models = {variant.model: _model(variant.model) for variant in arguments.variant if variant.model}
    settings = CompareSettings(
        model=_model(arguments.model),
        prompts=tuple(prompt for given in arguments.prompts for prompt in _texts(given)),
        seeds=arguments.seeds,
        variants=tuple(
            dataclasses.replace(variant, model=models.get(variant.model, ""), loras=_found(variant.loras))
            for variant in arguments.variant or [Variant("base")]
        ),
        width=width,
        height=height,
        precision=arguments.precision,
    )
    run = _comparison(settings, arguments.out)
    progress = Progress(run, arguments.json)

    from zit_app.engine.compare import compare

    with card_for_command(run.folder, progress.note):
        table = compare(settings, run, progress)
    if table is None:
        return STOPPED
    lines = [
        f"{name:<20} distance {_figure(row['distance'])}  deviation {_figure(row['deviation'])}"
        for name, row in table.items()
    ]
    grid = run.folder / "grid.png"
    progress.result("\n".join([*lines, str(grid)]), variants=table, grid=grid, run=run.folder)
    return 0


def _comparison(settings: CompareSettings, out: Path | None) -> Run:
    """A new run, or the one in `out` when it compares the same: it goes on with the cells that are missing."""
    toml = compare_toml(settings)
    if out is not None and (out / "settings.toml").is_file() and (out / "settings.toml").read_text("utf-8") == toml:
        return Run.open(out)
    return Run.create("compare", settings.prompts[0], toml, out)


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _texts(given: str) -> tuple[str, ...]:
    """The lines of a file, or the words themselves when they name none."""
    path = Path(given)
    return _lines(path) if path.is_file() else (given,)


def _found(loras: tuple[LoraUse, ...]) -> tuple[LoraUse, ...]:
    """Adapters by absolute path, so that a comparison can go on from anywhere. Raises ZitError for unknown ones."""
    return tuple(dataclasses.replace(use, file=str(find_adapter(use.file).absolute())) for use in loras)


def doctor_command(arguments: argparse.Namespace) -> int:
    """Examine this machine."""
    from zit_app.service.doctor import examine, page

    checks = examine()
    healthy = all(one.remedy == "" for one in checks)
    Progress(as_json=arguments.json).result(page(checks), ok=healthy, checks=[vars(one) for one in checks])
    return 0 if healthy else FAILED


def demo_command(arguments: argparse.Namespace) -> int:
    """Train a LoRA on 24 pictures with the pocket model and draw before and after."""
    from zit_app.engine.demo import run_demo

    with card_for_command(None, Progress(as_json=arguments.json).note):
        files = run_demo(arguments.json)
    words = f"Before and after: {files['picture']}" if "picture" in files else f"Stopped: {files['run']}"
    Progress(as_json=arguments.json).result(words, **files)
    return 0 if "picture" in files else STOPPED


# ---------------------------------------------------------------- words


def _model(text: str) -> str:
    """A model's name as it is, a folder as an absolute path, so that a run finds it again; both exist."""
    folder = find_model(text)
    return text if text in {model.name for model in list_models()} else str(folder.absolute())


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise ZitError(f"There is no folder {path}.", "Check the path.")
    return path.absolute()


def _prompts(arguments: argparse.Namespace) -> tuple[str, ...]:
    return (arguments.prompt,) if arguments.prompts is None else _lines(arguments.prompts)


def _lines(path: Path) -> tuple[str, ...]:
    """The prompts of a file, one a line."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ZitError(f"{path} cannot be read as text.", "Give a UTF-8 file, one prompt a line.") from error
    prompts = tuple(line.strip() for line in lines if line.strip())
    if not prompts:
        raise ZitError(f"{path} holds no prompt.", "Write one prompt a line.")
    return prompts


def _parser() -> Parser:
    common = Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="print one JSON object as the last line")
    common.add_argument("--debug", action="store_true", help="show tracebacks and what libraries have to say")
    parser = Parser(prog="zit", description="Train and use LoRAs for Z-Image-Turbo.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(run: Callable[[argparse.Namespace], int | None], name: str, among: Any = commands) -> Parser:
        about = str(run.__doc__)
        added: Parser = among.add_parser(name, help=about, description=about, parents=[common])
        added.set_defaults(run=run)
        return added

    def group(name: str, about: str) -> Any:
        added = commands.add_parser(name, help=about, description=about)
        return added.add_subparsers(title="commands", metavar="COMMAND", required=True)

    app = command(app_command, "app")
    app.add_argument("--port", type=int, default=9198, help="port on this machine (default: 9198)")
    app.add_argument("--no-browser", dest="browser", action="store_false", help="serve without opening a page")
    reach = app.add_mutually_exclusive_group()
    for flag, value, about in (
        ("--listen", "network", "open the guest page (draw and compare) on this network; needs a password"),
        ("--share", "internet", "open the guest page by a link on the internet; makes a password unless one is given"),
    ):
        reach.add_argument(flag, dest="reach", action="store_const", const=value, help=about)
    app.add_argument("--password", default="", help="of the guest page; or ZIT_PASSWORD, which others cannot see")
    _generate_flags(command(generate_command, "generate"))
    _cache_flags(command(cache_command, "cache"))
    _train_flags(command(train_command, "train"))
    _compare_flags(command(compare_command, "compare"))
    check.add(command)
    catalogue.add(command)
    bench_cache.add(command, group("bench", "Measure this machine."))
    serve.add(command)
    command(doctor_command, "doctor")
    update.add(command)
    models.add(command, group)
    lora.add(command, group)
    command(demo_command, "demo")
    pocket.add(command, group)
    return parser


def _generate_flags(parser: Parser) -> None:
    _model_flag(parser, required=True)
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help="what the picture shows")
    prompt.add_argument("--prompts", metavar="FILE", type=Path, help="a file with one prompt a line")
    known = fields(GenerateSettings)
    setting_flag(parser, known["negative_prompt"], "--negative")
    parser.add_argument(
        "--lora",
        metavar="FILE[@WEIGHT[@FIRST-LAST]]",
        type=usage(parse_lora),
        action="append",
        default=[],
        help="adapter (file, or name in the library), its weight, the denoising steps it acts in; may be repeated",
    )
    for name in ("steps", "guidance", "sigmas", "seed", "count", "precision", "text_precision", "max_sequence_length"):
        setting_flag(parser, known[name])
    setting_flag(parser, known["solver"], "--sampler")
    for name in ("image", "strength"):
        setting_flag(parser, known[name])
    _size_flag(parser)
    parser.add_argument("--out", type=Path, help="PNG file or folder; default: the run's own folder")


def _cache_flags(parser: Parser) -> None:
    parser.add_argument("dataset", type=Path, help="folder of pictures and captions")
    _model_flag(parser, required=True)
    for name in ("resolution", "batch_size", "only", "trigger_word"):
        setting_flag(parser, fields(CacheSettings)[name])


def _compare_flags(parser: Parser) -> None:
    _model_flag(parser, required=True)
    parser.add_argument(
        "--prompts", metavar="FILE_OR_TEXT", nargs="+", required=True, help="prompts, or files with one prompt a line"
    )
    parser.add_argument(
        "--seeds",
        type=usage(parse_seeds),
        default=CompareSettings().seeds,
        help="such as 0-15 or 1,4,8-11 (default 0-3)",
    )
    parser.add_argument(
        "--variant",
        metavar="NAME=SPEC",
        type=usage(parse_variant),
        action="append",
        default=[],
        help="what to compare; SPEC: model=M;lora=FILE[@WEIGHT[@FIRST-LAST]];steps=N;guidance=G, a bare LoRA file, or "
        "nothing; may be repeated",
    )
    _size_flag(parser)
    setting_flag(parser, fields(CompareSettings)["precision"])
    parser.add_argument("--out", type=Path, help="run folder; default: a new one under the home folder")


def _train_flags(parser: Parser) -> None:
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--preset", metavar="NAME", help=", ".join(preset_names()))
    source.add_argument("--config", metavar="FILE", type=Path, help="settings as TOML")
    source.add_argument("--resume", metavar="RUN", help="folder or name of a run to go on with")
    parser.add_argument("--dataset", type=Path, help="folder of pictures and captions")
    parser.add_argument(
        "--prompts", metavar="FILE", type=Path, help="prompts, one a line, for presets that need no pictures"
    )
    _model_flag(parser, required=False)
    parser.add_argument(
        "--set", metavar="TABLE.KEY=VALUE", action="append", default=[], help="change one setting; may be repeated"
    )
    parser.add_argument("--name", help="name of the run; default: the dataset's")
    parser.add_argument("--out", type=Path, help="run folder; default: a new one under the home folder")


def _size_flag(parser: Parser) -> None:
    parser.add_argument(
        "--size",
        metavar="WxH",
        type=usage(parse_size),
        default=(0, 0),
        help="pixels, multiples of 16; default: the model's own",
    )


def _model_flag(parser: Parser, required: bool) -> None:
    known = "a name of zit models list, a diffusers folder, a .safetensors or .gguf file"
    parser.add_argument("--model", metavar="M", required=required, help=known)


if __name__ == "__main__":
    sys.exit(main())
