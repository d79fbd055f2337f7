"""Ways to compute attention, by the names that diffusers knows them by, and which of them are installed."""

from dataclasses import dataclass
from importlib.util import find_spec

from zit_app.core.errors import ZitError


@dataclass(frozen=True)
class BackEnd:
    """What one needs: a graphics card, a package. What is not exact changes pictures."""

    card: bool = False
    package: str = ""
    exact: bool = True


BACK_ENDS = {
    "native": BackEnd(),  # torch chooses among the next four
    "_native_math": BackEnd(),
    "_native_flash": BackEnd(),
    "_native_efficient": BackEnd(card=True),
    "_native_cudnn": BackEnd(card=True),
    "flash": BackEnd(card=True, package="flash_attn"),
    "_flash_3": BackEnd(card=True, package="flash_attn_3"),
    "xformers": BackEnd(card=True, package="xformers"),
    "sage": BackEnd(card=True, package="sageattention", exact=False),  # 8-bit products
}


def installed(card: bool) -> list[str]:
    """The back ends that this machine has, with or without a graphics card; packages are looked for, not imported."""
    return [
        name
        for name, one in BACK_ENDS.items()
        if (card or not one.card) and (not one.package or find_spec(one.package) is not None)
    ]


def check_installed(name: str, card: bool) -> None:
    """Raises ZitError for a back end that this machine lacks."""
    if name not in installed(card):
        known = ", ".join(installed(card))
        raise ZitError(f"The attention back end {name} is not installed here.", f"Choose auto or one of: {known}.")
