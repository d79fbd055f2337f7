"""What a guest may ask for, checked where it counts: behind the page, whatever the page let through."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest

from tests.guest_home import make_model, make_run
from zit_app.core import paths, queue
from zit_app.core.compare_settings import load_comparison
from zit_app.core.generate_settings import load_generation
from zit_app.core.run import Run
from zit_app.data.wildcards import resolved
from zit_app.service import guests, runs
from zit_app.service.guests import LIMITS, Refused, Shot
from zit_app.service.throttle import ALL, EACH, WINDOW_SECONDS, LoginThrottle

ANNA, BERT = "a" * 16, "b" * 16
SHOT = Shot("named")


@pytest.fixture
def home(home: Path) -> Path:
    make_model(home)
    make_model(home, "slow", steps=50)
    make_model(home, "huge", pixels=2048)
    return home


def make_lora(home: Path, name: str) -> Path:
    file = home / "loras" / f"{name}.safetensors"
    file.parent.mkdir(exist_ok=True)
    header = json.dumps({"__metadata__": {"modelspec.trigger_phrase": "zt"}}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header)
    return file


def draw(guest: str = ANNA, **other: Any) -> Run:
    given = {"shot": SHOT, "prompt": "a cat", "count": 2, "seed": 5, "loras": [], **other}
    return guests.submit_pictures(guest, **given)


def test_what_is_allowed_is_queued_with_the_models_own_values_filled_in(home: Path) -> None:
    settings, job = load_generation(draw().folder / "settings.toml")
    assert job.model == "named"
    assert (settings.prompts, settings.count, settings.seed) == (("a cat",), 2, 5)
    assert (settings.width, settings.height, settings.steps) == (256, 256, 8)
    slow, _ = load_generation(draw(shot=Shot("slow")).folder / "settings.toml")
    assert slow.steps == LIMITS.steps  # the model's own 50 are too many


def test_a_guests_prompt_is_drawn_as_it_is_written(home: Path) -> None:
    settings, _ = load_generation(draw(prompt="a {red|blue} __secret__").folder / "settings.toml")
    assert resolved(settings.prompts[0], 0) == resolved(settings.prompts[0], 1) == "a {red|blue} __secret__"


@pytest.mark.parametrize(
    ("key", "wish"),
    [
        ("empty", {"prompt": " \n"}),
        ("empty", {"prompt": None}),
        ("empty", {"prompt": 7}),
        ("empty", {"prompt": "\ud800\x00\x1b"}),
        ("prompt", {"prompt": "x" * (LIMITS.prompt + 1)}),
        ("count", {"count": LIMITS.count + 1}),
        ("count", {"count": 0}),
        ("count", {"count": 1.5}),
        ("count", {"count": True}),
        ("count", {"count": "1"}),
        ("count", {"count": float("inf")}),
        ("count", {"count": float("nan")}),
        ("seed", {"seed": -1}),
        ("seed", {"seed": 1 << 80}),
        ("model", {"shot": Shot("nowhere")}),
        ("model", {"shot": Shot(None)}),
        ("side", {"shot": Shot("named", 1 << 30, 16)}),
        ("side", {"shot": Shot("named", -16, 16)}),
        ("sixteen", {"shot": Shot("named", 100, 256)}),
        ("pixels", {"shot": Shot("named", 1040, 1024)}),
        ("pixels", {"shot": Shot("huge")}),
        ("steps", {"shot": Shot("named", steps=LIMITS.steps + 1)}),
        ("lora", {"loras": [("../../secret.safetensors", 1)]}),
        ("lora", {"loras": [(5, 1)]}),
    ],
)
def test_what_is_too_much_is_refused_and_leaves_nothing(home: Path, key: str, wish: dict[str, Any]) -> None:
    with pytest.raises(Refused) as refused:
        draw(**wish)
    assert refused.value.key == key
    assert not paths.guest_runs().exists() and queue.order() == []


def test_a_model_and_a_lora_are_names_of_the_list_and_never_paths(home: Path) -> None:
    file = make_lora(home, "style")
    (name,) = guests.offered_loras()
    settings, _ = load_generation(draw(loras=[("", 1), (name, 0.5)]).folder / "settings.toml")
    assert [(use.file, use.weight) for use in settings.loras] == [(str(file), 0.5)]
    assert "style" not in name and "/" not in name
    for wish in ({"loras": [(str(file), 1)]}, {"shot": Shot(str(home / "models" / "named"))}):
        with pytest.raises(Refused):
            draw(**wish)
    for weight in (2.5, -3, float("nan"), "1", None):
        with pytest.raises(Refused, match="weight"):
            draw(loras=[(name, weight)])


def test_a_comparison_has_its_limits_too(home: Path) -> None:
    make_lora(home, "style")
    (name,) = guests.offered_loras()
    sides: dict[str, list[tuple[Any, Any]]] = {"A": [("", 1)], "B": [(name, 0.5)]}
    run = guests.submit_comparison(ANNA, SHOT, "a cat\n\na dog", 3, sides)
    settings = load_comparison(run.folder / "settings.toml")
    assert (settings.prompts, settings.seeds) == (("a cat", "a dog"), (0, 1, 2))
    assert [(one.name, one.steps) for one in settings.variants] == [("A", 8), ("B", 8)]
    assert guests.loras_of(run.folder) == {"A": "", "B": "style × 0.5"}
    with pytest.raises(Refused, match="same"):
        guests.submit_comparison(ANNA, SHOT, "a cat", 3, {"A": [("", 1)], "B": [("", 2)]})
    for prompts, seeds, key in (("a\nb\nc", 2, "prompts"), ("a", 5, "count"), ("", 2, "empty"), (None, 2, "empty")):
        with pytest.raises(Refused, match=key):
            guests.submit_comparison(ANNA, SHOT, prompts, seeds, sides)


def test_a_guest_has_few_requests_waiting_and_all_guests_not_many(home: Path) -> None:
    first = draw()
    draw()
    with pytest.raises(Refused, match="pending"):
        draw()
    draw(BERT)
    queue.cancel(first)
    draw()
    for number in range(LIMITS.pending_all - 3):
        draw(f"{number:016x}")
    with pytest.raises(Refused, match="busy"):
        draw("f" * 16)


def test_the_owner_goes_first(home: Path) -> None:
    def own(name: str) -> Path:
        run = Run.create("generate", name, "a = 1\n")
        queue.enqueue(run)
        return run.folder

    anna, one, bert, two = draw().folder, own("one"), draw(BERT).folder, own("two")
    assert [run.folder for run in queue.order()] == [one, two, anna, bert]
    (home / "queue.json").unlink()  # lost, and rebuilt from the folders
    assert [run.folder for run in queue.order()] == [one, two, anna, bert]
    assert [view.kind for view in runs.waiting()] == ["generate", "generate", "guest", "guest"]
    assert [view.folder for view in runs.list_runs("generate")] == [two, one]


def test_guests_see_and_stop_only_their_own(home: Path) -> None:
    mine, theirs = draw(), draw(BERT)
    assert [run.view.folder for run in guests.runs_of(ANNA)] == [mine.folder]
    guests.stop(ANNA)
    assert (mine.state(), theirs.state()) == ("stopped", "queued")
    guests.stop(None)
    assert theirs.state() == "stopped"


def test_only_pictures_that_lie_in_a_guests_own_run_are_found(home: Path) -> None:
    mine, theirs, cell = make_run(ANNA), make_run(BERT), make_run("c" * 16, "cells/A/00_1.png")
    folder = mine.parent
    (folder / "link.png").symlink_to(theirs)
    (folder / ".part.png").write_bytes(b"half")
    (folder / "cells").symlink_to(cell.parent.parent)
    (paths.guest_runs() / f"20260101-000001_{ANNA}-00000000").symlink_to(theirs.parent)
    assert guests.picture(ANNA, folder.name, "0000_1.png") == mine
    assert guests.picture("c" * 16, cell.parents[2].name, "cells/A/00_1.png") == cell
    for run, name in (
        (folder.name, "link.png"),
        (folder.name, ".part.png"),
        (folder.name, "cells/A/00_1.png"),
        (folder.name, "settings.toml"),
        (folder.name, f"../{theirs.parent.name}/0000_1.png"),
        (folder.name, str(theirs)),
        (theirs.parent.name, "0000_1.png"),
        (f"20260101-000001_{ANNA}-00000000", "0000_1.png"),
        (f"../guest/{folder.name}", "0000_1.png"),
        ("", "0000_1.png"),
    ):
        assert guests.picture(ANNA, run, name) is None, (run, name)


def test_wrong_passwords_are_counted_by_address_and_in_all() -> None:
    clock = [0.0]
    throttle = LoginThrottle(lambda: clock[0])
    for _ in range(EACH):
        assert throttle.wait("one") == 0
        throttle.wrong("one")
        clock[0] += 1
    assert throttle.wait("one") == WINDOW_SECONDS - EACH  # until the first of them is forgotten
    assert throttle.wait("two") == 0
    for number in range(ALL - EACH):
        throttle.wrong(f"address {number}")
    assert throttle.wait("a new one") > 0
    clock[0] += WINDOW_SECONDS
    assert throttle.wait("one") == throttle.wait("a new one") == 0
