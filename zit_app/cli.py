"""The command line `zit`: one file a command in `commands`, libraries imported only where a command needs them."""

import argparse
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

from zit_app.commands import (
    app,
    bench_attention,
    bench_cache,
    bench_train,
    cache,
    caption,
    catalogue,
    check,
    compare,
    demo,
    doctor,
    evaluate,
    generate,
    lora,
    models,
    plan,
    pocket,
    serve,
    train,
    update,
)
from zit_app.commands.words import FAILED, STOPPED, WRONG_USAGE
from zit_app.core.errors import explain
from zit_app.core.flags import Parser, WrongUsage
from zit_app.core.quiet import quiet


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

    app.add(command)
    generate.add(command)
    cache.add(command)
    train.add(command)
    compare.add(command)
    caption.add(command)
    evaluate.add(command)
    check.add(command)
    plan.add(command)
    catalogue.add(command)
    bench = group("bench", "Measure this machine.")
    bench_attention.add(command, bench)
    bench_cache.add(command, bench)
    bench_train.add(command, bench)
    serve.add(command)
    doctor.add(command)
    update.add(command)
    models.add(command, group)
    lora.add(command, group)
    demo.add(command)
    pocket.add(command, group)
    return parser


if __name__ == "__main__":
    sys.exit(main())
