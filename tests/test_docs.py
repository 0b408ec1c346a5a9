"""What the documentation links, imports and asks its readers to run is in the repository."""

import ast
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
import typer
from repository import LAYERS, ROOT

from mambaxray.cli import app
from mambaxray.train.bench_grid import load_bench
from mambaxray.train.recipe import load_recipe

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
EACH_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)

# Options of other programs that the text names by themselves.
OTHER_OPTIONS = {"--trust-remote-code", "--reference"}
# Folders of data that an example's reader has, which have the name of one of ours.
EXAMPLE_PATHS = {"data/iu_xray", "data/chexpert_plus", "data/mimic"}

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_PATH = re.compile(rf"(?<![\w/.])((?:{'|'.join(LAYERS)}|tests|benchmarks|docs)/[\w./-]+)(?![\w<*…])")


def blocks(page: Path, *languages: str) -> list[str]:
    """The code blocks of a page in some languages."""
    return [code for language, code in _BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The links of a page that stay within the repository."""
    return re.findall(r"\]\((?!https?://)([^)\s]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(page: Path) -> Iterator[list[str]]:
    """The arguments of each `mambaxray …` in the shell blocks of a page."""
    for block in blocks(page, "", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            if found := re.search(r"(?:^|-m |--no-python )mambaxray(?:\.cli)? (.*)", line):
                yield shlex.split(found[1], comments=True)


def leaves(group: typer.core.TyperGroup, above: str = "mambaxray") -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command of the command line, by its full name."""
    for name, command in group.commands.items():
        if isinstance(command, typer.core.TyperGroup):
            yield from leaves(command, f"{above} {name}")
        else:
            yield f"{above} {name}", command


COMMAND_LINE = typer.main.get_command(app)


def parse(arguments: list[str]) -> dict[str, object]:
    """What the command line would hand a command, which is not run; raises what it would report."""
    command, context = COMMAND_LINE, COMMAND_LINE.make_context("mambaxray", list(arguments))
    while isinstance(command, typer.core.TyperGroup):
        name, command, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        context = command.make_context(name, rest, parent=context)
    return context.params | {"command": context.command_path.removeprefix("mambaxray ")}


@EACH_PAGE
def test_every_link_leads_to_a_file_and_a_heading(page):
    targets = [(page.parent / link.partition("#")[0], link) if link[0] != "#" else (page, link) for link in links(page)]
    assert [link for target, link in targets if not target.exists()] == []
    with_anchor = [(target, link.partition("#")[2]) for target, link in targets if "#" in link]
    assert [anchor for target, anchor in with_anchor if anchor not in anchors(target)] == []


@pytest.mark.parametrize("wrong", ["generate a.png --modle m", "prepare iu-xray", "bench nothing", "generate a.png"])
def test_a_command_that_does_not_parse_is_found(wrong):
    with pytest.raises(Exception, match=r"No such|Missing"):
        parse(wrong.split())


@EACH_PAGE
def test_every_command_parses_and_names_a_recipe_or_bench_that_is_there(page):
    for arguments in commands(page):
        given = parse(arguments)
        recipe = str(given.get("recipe", ""))
        if recipe and recipe != "RECIPE" and not recipe.endswith(".yaml"):
            assert load_recipe(recipe, given["overrides"] or []).stage == given["command"]
        if given["command"] == "bench run":
            load_bench(given["bench"])


@EACH_PAGE
def test_every_option_in_the_text_is_one_of_the_command_line(page):
    options = [option for _, command in leaves(COMMAND_LINE) for option in command.params] + COMMAND_LINE.params
    every = {name for option in options for name in [*option.opts, *option.secondary_opts]} | {"--help"} | OTHER_OPTIONS
    spans = re.findall(r"`((?:--|mambaxray )[^`]*)`", prose(page))
    assert {name for span in spans for name in re.findall(r"(?<!\S)--[a-z][\w-]*", span)} - every == set()


@EACH_PAGE
def test_every_file_of_the_repository_that_is_named_is_there(page):
    named = {name.rstrip(".") for name in _PATH.findall(page.read_text(encoding="utf-8"))} - EXAMPLE_PATHS
    assert {name for name in named if not (ROOT / name).exists()} == set()


@EACH_PAGE
def test_every_snippet_is_python_and_imports_what_is_there(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("mambaxray"):
                module = import_module(str(node.module))
                assert [name.name for name in node.names if not hasattr(module, name.name)] == []
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "mambaxray":
                assert hasattr(import_module("mambaxray"), node.attr)


def test_the_page_on_the_command_line_has_every_command():
    page = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    assert [name for name, _ in leaves(COMMAND_LINE) if name not in page] == []


def test_every_page_and_every_result_is_linked_from_a_page():
    linked = {(page.parent / link.partition("#")[0]).resolve() for page in PAGES for link in links(page)}
    pages = {page for page in PAGES if page != README}
    assert pages - linked == set()
    assert set((ROOT / "benchmarks" / "results").iterdir()) - linked == set()
