"""`zit lora …`: what is in adapter files, and making others of them."""

import argparse
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zit_app.core.errors import ZitError
from zit_app.core.flags import usage
from zit_app.core.generate_settings import parse_lora
from zit_app.core.library import base_of, find_adapter, trigger_of
from zit_app.core.models import find_model
from zit_app.core.progress import Progress

if TYPE_CHECKING:
    from zit_app.model.adapter_files import Adapter
    from zit_app.model.adapter_merging import Made

SHOWN = 5  # keys named of those that are not understood


def inspect_command(arguments: argparse.Namespace) -> None:
    """Show what is in an adapter file, and what of it fits a model."""
    from zit_app.model.adapter_files import read_adapter
    from zit_app.model.adapter_stack import misfits
    from zit_app.model.transformer_weights import blank_transformer

    adapter = read_adapter(find_adapter(arguments.file), partly=True)
    strange = misfits(blank_transformer(find_model(arguments.model)), adapter) if arguments.model else []
    known = _described(adapter)
    words = [
        f"{adapter.path}: {known['kinds']} in {adapter.layout}'s layout, {len(adapter.names)} modules",
        f"  ranks      {', '.join(map(str, known['ranks'])) or '–'}; scale alpha/rank {known['scales'] or '–'}",
        f"  stored as  {known['formats']}, {adapter.path.stat().st_size / 1e6:.1f} MB",
        f"  trigger    {known['trigger'] or '– (none noted)'}",
        f"  trained on {known['base'] or '– (not noted)'}, hash {known['base_hash'] or '–'}",
        *(f"  {count:>4} × {name}" for name, count in known["places"].items()),
    ]
    if arguments.model:
        fitting = len(adapter.names) - len(strange)
        words.append(f"  {fitting} of {len(adapter.names)} modules fit {arguments.model}{_such_as(strange)}")
    if adapter.text_encoder:
        words.append(
            f"  {len(adapter.text_encoder)} keys of the text encoder, never used{_such_as(adapter.text_encoder)}"
        )
    if adapter.unmatched:
        words.append(f"  {len(adapter.unmatched)} keys not understood{_such_as(adapter.unmatched)}")
    words += [f"  {key}: {_short(value)}" for key, value in sorted(adapter.metadata.items())]
    Progress(as_json=arguments.json).result(
        "\n".join(words),
        file=adapter.path,
        modules=len(adapter.names),
        layout=adapter.layout,
        misfits=strange,
        text_encoder=adapter.text_encoder,
        unmatched=adapter.unmatched,
        metadata=adapter.metadata,
        **known,
    )


def convert_command(arguments: argparse.Namespace) -> None:
    """Write an adapter in another layout, as a LoRA of a given rank, or without what a model cannot take."""
    from zit_app.model.adapter_files import read_adapter
    from zit_app.model.adapter_merging import Made, merged, only
    from zit_app.model.adapter_stack import misfits
    from zit_app.model.transformer_weights import blank_transformer

    _check_out(arguments.out)
    adapter = read_adapter(find_adapter(arguments.file), partly=bool(arguments.fitting))
    left = list(adapter.unmatched)
    if arguments.fitting:
        strange = misfits(blank_transformer(find_model(arguments.fitting)), adapter)
        adapter, left = only(adapter, set(adapter.names) - set(strange)), left + strange
    made = merged([(adapter, 1.0)], arguments.rank, _base(arguments.model)) if arguments.rank else Made(adapter)
    _write(made, arguments, left_out=[*left, *adapter.text_encoder])


def merge_command(arguments: argparse.Namespace) -> None:
    """Add adapters up, into one file or into the weights of a model."""
    from zit_app.model.adapter_files import read_adapter
    from zit_app.model.adapter_merging import merged

    _check_out(arguments.out)
    limited = next((use.file for use in arguments.files if use.first > 1 or use.last), None)
    if limited:
        raise ZitError(f"{limited}: a merged adapter acts in every step.", "Write FILE or FILE@WEIGHT.")
    uses = [(read_adapter(find_adapter(use.file)), use.weight) for use in arguments.files]
    if arguments.into:
        _into_model(uses, arguments)
    else:
        _write(merged(uses, arguments.rank, _base(arguments.model)), arguments)


def extract_command(arguments: argparse.Namespace) -> None:
    """Make a LoRA of the difference between a fine-tuned transformer and its base."""
    from zit_app.model.adapter_merging import extracted
    from zit_app.model.transformer_weights import TransformerWeights

    _check_out(arguments.out)
    base_folder = find_model(arguments.base)
    progress = Progress(as_json=arguments.json)
    progress.stage("Decomposing")
    given = Path(arguments.tuned)
    tuned = TransformerWeights(given if given.exists() else find_model(arguments.tuned))
    made = extracted(tuned, TransformerWeights(base_folder), arguments.rank, arguments.norms, progress.step)
    made.adapter.metadata["ss_sd_model_name"] = base_folder.name
    _write(made, arguments, left_out=list(made.left_out))


def _into_model(uses: "list[tuple[Adapter, float]]", arguments: argparse.Namespace) -> None:
    """A copy of a model's folder with the adapters in its weights."""
    from zit_app.model.adapter_merging import merged_weight
    from zit_app.model.adapter_stack import check_fit
    from zit_app.model.transformer_weights import TransformerWeights, blank_transformer, copy_with

    folder, progress = find_model(arguments.into), Progress(as_json=arguments.json)
    for adapter, _ in uses:
        check_fit(blank_transformer(folder), adapter)
    progress.stage("Merging")
    weights = TransformerWeights(folder)
    copy_with(folder, arguments.out, weights, lambda key, weight: merged_weight(key, weight, uses), progress.step)
    progress.result(f"{arguments.out}: {folder.name} with {len(uses)} adapters merged in.", out=arguments.out)


def _write(made: "Made", arguments: argparse.Namespace, left_out: list[str] | None = None) -> None:
    from zit_app.model.adapter_writing import write_adapter

    write_adapter(arguments.out, made.adapter, arguments.layout)
    words = [f"{arguments.out}: {len(made.adapter.names)} modules in {arguments.layout}'s layout"]
    exact = made.error == 0
    words.append("  exact" if exact else f"  misses {100 * made.error:.2f} % of the change (Frobenius norm)")
    if left_out:
        words.append(f"  left out: {len(left_out)}{_such_as(left_out)}")
    Progress(as_json=arguments.json).result(
        "\n".join(words),
        out=arguments.out,
        modules=len(made.adapter.names),
        error=round(made.error, 8),
        left_out=left_out or [],
    )


def _described(adapter: "Adapter") -> dict[str, Any]:
    """What there is to say of an adapter, for people and for programs."""
    from zit_app.model.adapter_changes import Dora, Hadamard, Kron, LowRank, tensors_of

    changes = list(adapter.modules.values())
    kinds = Counter(f"DoRA of {one.inner.kind}" if isinstance(one, Dora) else one.kind for one in changes)
    inner = [one.inner if isinstance(one, Dora) else one for one in changes]
    scales = sorted({round(one.scale, 6) for one in inner if isinstance(one, LowRank | Kron | Hadamard)})
    formats = Counter(str(t.dtype).removeprefix("torch.") for one in changes for t in tensors_of(one))
    base, base_hash = base_of(adapter.metadata)
    return {
        "kinds": ", ".join(f"{kind} × {count}" if len(kinds) > 1 else kind for kind, count in kinds.items())
        or "biases",
        "ranks": sorted({one.rank for one in inner if isinstance(one, LowRank)}),
        "scales": ", ".join(f"{scale:g}" for scale in scales[:SHOWN]) + (" …" if len(scales) > SHOWN else ""),
        "formats": ", ".join(formats),
        "trigger": trigger_of(adapter.metadata),
        "base": base,
        "base_hash": base_hash,
        "places": dict(Counter(_place(name) for name in adapter.names)),
    }


def _place(name: str) -> str:
    """A module without the number of its block."""
    return ".".join(part for part in name.split(".", 2) if not part.isdigit()) if name.count(".") > 1 else name


def _such_as(keys: "list[str] | tuple[str, ...]") -> str:
    from zit_app.model.adapter_names import shown

    return f", such as {', '.join(shown(key) for key in keys[:SHOWN])}" if keys else ""


def _short(text: str) -> str:
    from zit_app.model.adapter_names import shown

    return shown(text)


def _base(model: str) -> "Any":
    """The weights of the model that a DoRA was trained on, if one is named."""
    from zit_app.model.transformer_weights import TransformerWeights

    return TransformerWeights(find_model(model)) if model else None


def _rank(text: str) -> int:
    rank = int(text)
    if rank < 1:
        raise ZitError(f"A LoRA of rank {rank} does not exist.", "Give a rank such as 16.")
    return rank


def _check_out(path: Path) -> None:
    if path.exists():
        raise ZitError(f"{path} exists already.", "Choose another name.")


def add(command: Callable[..., Any], group: Callable[[str, str], Any]) -> None:
    """Register the commands; ``command(function, name, group)`` and ``group(name, about)`` are the parser's."""
    lora = group("lora", "Adapter files.")
    file = {"metavar": "FILE", "help": "adapter file, or its name in the library"}
    inspect = command(inspect_command, "inspect", lora)
    inspect.add_argument("file", **file)
    inspect.add_argument("--model", metavar="M", default="", help="also tell what fits this model")

    convert = command(convert_command, "convert", lora)
    convert.add_argument("file", **file)
    convert.add_argument("out", metavar="OUT", type=Path, help="file to write")
    convert.add_argument("--fitting", metavar="M", default="", help="leave out what this model cannot take")
    _writing(convert, 0)

    merge = command(merge_command, "merge", lora)
    merge.add_argument("files", metavar="FILE[@WEIGHT]", nargs="+", type=usage(parse_lora), help="adapters to add up")
    merge.add_argument("--out", type=Path, required=True, help="file to write, with --into a folder")
    merge.add_argument("--into", metavar="M", default="", help="write a copy of this model with the adapters in it")
    _writing(merge, 0)

    extract = command(extract_command, "extract", lora)
    extract.add_argument("tuned", metavar="TUNED", help="fine-tuned model: name, folder or single file")
    extract.add_argument("--base", metavar="M", required=True, help="the model that it was tuned from")
    extract.add_argument("--out", type=Path, required=True, help="file to write")
    extract.add_argument("--norms", action="store_true", help="take changes of norms and biases along, as differences")
    _writing(extract, 64)


def _writing(parser: argparse.ArgumentParser, rank: int) -> None:
    parser.add_argument(
        "--layout", choices=("comfyui", "diffusers"), default="comfyui", help="names of the keys (default: comfyui)"
    )
    parser.add_argument(
        "--rank",
        type=usage(_rank),
        default=rank,
        help="rank of the LoRA" + (f" (default: {rank})" if rank else "; without it nothing is approximated"),
    )
    if not rank:
        parser.add_argument("--model", metavar="M", default="", help="the model under a DoRA, needed with --rank")
