"""Every sentence of an error that a person of the app can meet has its Chinese."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from zit_app.core.errors import ZitError, did_you_mean
from zit_app.ui.text import Words, pattern_of
from zit_app.ui.text_zh_errors import ERRORS

ROOT = Path(__file__).resolve().parents[1] / "zit_app"
# Said on the terminal only: the command line, what prepares the program, the builder of the pocket model.
ELSEWHERE = (
    "cli.py",
    "commands/",
    "core/flags.py",
    "engine/pocket/",
    "model/adapter_merging.py",
    "model/adapter_writing.py",
    "service/hub_adapters.py",
    "service/serving.py",
    "service/setup.py",
    "service/torch_source.py",
    "service/uv.py",
    "ui/api_server.py",
    "ui/launch.py",
)


def test_every_error_of_the_app_is_known_in_chinese() -> None:
    asked = {text: place for place, text in templates()}
    missing = [f"{place}: {text}" for text, place in asked.items() if text not in ERRORS]
    assert missing == []


def test_no_translation_is_left_over_and_each_has_all_its_places() -> None:
    asked = {text for _, text in templates()}
    assert [text for text in ERRORS if text not in asked] == []
    for english, chinese in ERRORS.items():
        places = sorted(re.findall(r"\{(\d+)\}", chinese))
        assert places == [str(i) for i in range(english.count("{}"))], english


def test_an_error_is_told_in_the_language_of_the_page() -> None:
    error = ZitError("There are no pictures in /data/cats.", "Choose or fill a dataset first.")
    assert Words("zh").error(error) == "/data/cats 中没有图片。 请先选择或填充一个数据集。"
    assert Words("en").error(error) == str(error)
    assert Words("zh").message(did_you_mean("anchr", ["anchor"])) == "您是指 'anchor' 吗？"
    inner = "The checkpoint /x/step_5 is damaged: /x/step_5/lora.safetensors is cut short: its end is missing."
    assert Words("zh").message(inner) == "检查点 /x/step_5 已损坏：/x/step_5/lora.safetensors 不完整：缺少结尾。"


def test_the_more_exact_pattern_goes_first() -> None:
    """A sentence with more fixed words must not be swallowed by one with fewer."""
    for english in ERRORS:
        said = english.replace("{}", "x")
        first = next(other for other in sorted(ERRORS, key=weight, reverse=True) if pattern_of(other).fullmatch(said))
        assert first == english, (first, english)


def weight(template: str) -> int:
    return len(template.replace("{}", ""))


def templates() -> Iterator[tuple[str, str]]:
    """Place and template of every sentence in a `ZitError(...)`: `{}` stands for what is filled in."""
    for file in sorted(ROOT.rglob("*.py")):
        where = file.relative_to(ROOT).as_posix()
        if where.startswith(ELSEWHERE):
            continue
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for function in [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]:
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "ZitError":
                    for argument in call.args[:2]:
                        for text in sentences(argument, function):
                            yield f"{where}:{call.lineno}", text
    yield from (("core/errors.py", text) for text in explained())


def explained() -> list[str]:
    """What `explain` and `did_you_mean` say, which are no ZitErrors themselves."""
    tree = ast.parse((ROOT / "core" / "errors.py").read_text(encoding="utf-8"))
    found = []
    for function in tree.body:
        if isinstance(function, ast.FunctionDef) and function.name in ("explain", "did_you_mean"):
            for returned in [node for node in ast.walk(function) if isinstance(node, ast.Return)]:
                parts = returned.value.elts if isinstance(returned.value, ast.Tuple) else [returned.value]
                found += [text for part in parts if part for text in sentences(part, function)]
    return found


def sentences(node: ast.expr, function: ast.FunctionDef) -> list[str]:
    """The templates of an expression; none for what comes from a table or from another error."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.JoinedStr):
        parts = [str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values]
        text = "".join(parts)
        return [text] if any(letter.isalpha() for letter in text) else []
    if isinstance(node, ast.IfExp):
        return sentences(node.body, function) + sentences(node.orelse, function)
    if isinstance(node, ast.Name):
        assigned = [
            each.value
            for each in ast.walk(function)
            if isinstance(each, ast.Assign) and any(getattr(target, "id", "") == node.id for target in each.targets)
        ]
        return [text for value in assigned for text in sentences(value, function)]
    return []
