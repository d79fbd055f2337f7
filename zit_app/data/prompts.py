"""Prompts that have nothing to do with a data set: what must stay as it is while the data set is learnt."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from zit_app.core import paths
from zit_app.core.errors import ZitError

SMALL = 256  # pixels: models that draw no more know the pocket model's few words only
_COMMON = 0.25  # share of the prompts from which on a word ("emoji", "white") says nothing about the subject
# What long captions are full of: without this list they would leave few prompts that share no word with them.
_FUNCTION_WORDS = frozenset(
    re.findall(
        r"\w+",
        """
        about above across after against all along also among and another any are around away because been
        before behind being below beneath beside between beyond both but can could down during each either every
        few for from had has have her here him his how inside into its itself just like many more most much near
        next not off one onto other our out outside over own seen several she showing shows side some such than
        that the their them then there these they this those through too toward towards two under until upon
        very was were what when where which while who whose with within without would you your
        """,
    )
)


def shipped_prompts(pixels: int, named: str = "") -> Path:
    """The file that settings name, else the list that ships for models that draw pictures of so many pixels a side:
    English and Chinese, one a line."""
    if named:
        return Path(named).expanduser()
    return paths.assets() / "prompts" / ("pocket.txt" if pixels <= SMALL else "general.txt")


def own_prompts(pixels: int, named: str = "") -> Path:
    """As `shipped_prompts`, for the model's own pictures beside a data set.

    The pocket model's are of the flat style alone, to whose word the demo's stickers are taught.
    """
    if named:
        return Path(named).expanduser()
    return paths.assets() / "prompts" / ("own_pocket.txt" if pixels <= SMALL else "general.txt")


def read_prompts(path: Path) -> list[str]:
    """The prompts of a text file, one a line. Raises ZitError when it cannot be read or holds none."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ZitError(f"{path} cannot be read as text.", "Give a UTF-8 file, one prompt a line.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise ZitError(f"{path} holds no prompt.", "Write one prompt a line.")
    return prompts


def unrelated(prompts: Sequence[str], captions: Iterable[str], own: Iterable[str] = ()) -> list[str]:
    """The prompts that share no telling word with any caption; all of them when that leaves none.

    Of ``own``, the captions of pictures that the model drew itself, only the style is learnt, so the same things in
    other words may stay as they are: those prompts alone are left out that have every word of such a caption, while
    others are left.

    Words are runs of three letters and more, in Chinese two neighbouring characters. Function words ("with", "behind")
    tell nothing, nor does a word of more than a quarter of the prompts.
    """
    counts = Counter(word for prompt in prompts for word in _words(prompt))
    common = {word for word, count in counts.items() if count > _COMMON * len(prompts)}
    taken = {word for caption in captions for word in _words(caption)} - common
    apart = [prompt for prompt in prompts if not _words(prompt) & taken]
    asked = [words for caption in own if (words := _words(caption))]
    unasked = [prompt for prompt in apart if not any(words <= _words(prompt) for words in asked)]
    return unasked or apart or list(prompts)


def _words(text: str) -> set[str]:
    runs = re.findall(r"[\u4e00-\u9fff]+", text)
    pairs = {run[i : i + 2] for run in runs for i in range(len(run) - 1)}
    letters = re.findall(r"[^\W\d_]{3,}", re.sub(r"[\u4e00-\u9fff]", " ", text.lower()))
    return pairs | set(letters) - _FUNCTION_WORDS
