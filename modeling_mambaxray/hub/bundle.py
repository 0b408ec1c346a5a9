"""One code file out of several modules, for repositories that load without this package.

transformers runs a repository's code from single files. Several files that import each other give every class twice,
so a class goes into one file with all that its module imports from this package.
"""

import ast
import functools
import importlib.util
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .auto_classes import registered_models

_LINE_LENGTH = 120


class BundleError(ValueError):
    """A module that can't go into a bundle. The message names the place and how to mend it."""


@dataclass(frozen=True)
class _Import:
    """`import module` (without a name), `from module import name`, either of them `as alias`."""

    module: str
    name: str | None
    alias: str | None

    @property
    def binds(self) -> str:
        return self.alias or self.name or self.module.partition(".")[0]


@dataclass(frozen=True)
class _Module:
    """What a bundle takes from a module.

    Attributes:
        name: full name.
        docstring: of the module.
        body: source without the imports, the docstring and `__all__`.
        imports: of other packages.
        takes: what it imports from modules of this package, as pairs of their full name and the name.
        public: names in its `__all__`.
        defines: names that it binds besides imports.
    """

    name: str
    docstring: str
    body: str
    imports: tuple[_Import, ...]
    takes: tuple[tuple[str, str], ...]
    public: tuple[str, ...]
    defines: frozenset[str]


@functools.cache
def class_code(cls: type, parts: frozenset[type] = frozenset()) -> str:
    """The text of the file that holds a class with all that it needs, and starts with licence and version.

    What the file's models are made of is registered with the Auto classes at its end.

    Args:
        cls: the class.
        parts: further models that one of its configurations is made of, and that its code does not name.

    Raises:
        BundleError: as `bundle`.
    """
    beside = sorted(part.__module__ for part in parts)
    included = set(modules_of(cls.__module__, beside))
    registrations = sorted(
        (auto_class, config_class.__name__, model_class.__name__)
        for auto_class, registered in registered_models()
        for config_class, model_class in registered.items()
        if config_class.__module__ in included and getattr(model_class, "__module__", None) in included
    )
    package = cls.__module__.partition(".")[0]
    header = (
        "SPDX-License-Identifier: Apache-2.0\n"
        f"{cls.__name__} of {package} {sys.modules[package].__version__}, with all that it needs, so that it loads "
        "without that package:\n"
        "from_pretrained(..., trust_remote_code=True). Made by save_pretrained: change the package, not this file.\n"
        "Research software, not a medical device."
    )
    footer = ["# A model finds its parts by their configurations."]
    footer += [
        f"{auto_class}.register({config}, {model}, exist_ok=True)" for auto_class, config, model in registrations
    ]
    return bundle(
        cls.__module__,
        header,
        "\n".join(footer) if registrations else "",
        {("transformers", auto_class) for auto_class, _, _ in registrations},
        beside,
    )


def bundle(
    module: str,
    header: str,
    footer: str = "",
    footer_imports: Iterable[tuple[str, str]] = (),
    beside: Iterable[str] = (),
) -> str:
    """The source of one file that holds a module and all modules of its package that it needs, in their order.

    What a module needs are its relative imports. One inside a `try` is optional: the bundle goes without it, as if it
    had failed. Private names that two modules use differently get the module's name behind them.

    Args:
        module: full name of the module.
        header: comment at the start, without `#`.
        footer: statements at the end.
        footer_imports: what they need, as pairs of a module and a name.
        beside: full names of further modules that the file holds, with all that these need.

    Raises:
        BundleError: two modules give one public name two meanings, or a relative import is of a form that has no
            equivalent in one file.
    """
    modules = _modules_for(module, beside)
    imports = {found for each in modules.values() for found in each.imports}
    imports |= {_Import(source, name, None) for source, name in footer_imports}
    bodies = _without_clashes(list(modules.values()), imports)
    parts = []
    for each in modules.values():
        title = f"# {each.name.rpartition('.')[2]} "
        parts.append(f"{title}{'-' * (_LINE_LENGTH - len(title))}\n{_comment(each.docstring)}\n\n{bodies[each.name]}")
    names = sorted({name for each in modules.values() for name in each.public})
    parts.append(f"{footer}\n\n__all__ = [\n" + "".join(f'    "{name}",\n' for name in names) + "]\n")
    start = f"{_comment(header)}\n\n{_write_imports(imports)}\n\n"
    return start + "\n\n\n".join(part.strip("\n") for part in parts) + "\n"


def modules_of(module: str, beside: Iterable[str] = ()) -> list[str]:
    """Full names of the modules that `bundle` puts together, in their order."""
    return list(_modules_for(module, beside))


def _modules_for(module: str, beside: Iterable[str]) -> dict[str, _Module]:
    modules: dict[str, _Module] = {}
    for name in (*beside, module):
        _collect(name, modules)
    return modules


def _collect(name: str, modules: dict[str, _Module], pending: tuple[str, ...] = ()) -> None:
    """Adds a module behind all that it needs."""
    if name in modules:
        return
    if name in pending:
        raise BundleError(f"modules that import each other can't be one file: {' -> '.join((*pending, name))}")
    module = _read(name)
    for needed, _ in module.takes:
        _collect(needed, modules, (*pending, name))
    modules[name] = module


def _read(name: str) -> _Module:
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BundleError(f"{name} has no source file")
    source = Path(spec.origin).read_text(encoding="utf-8")
    tree = ast.parse(source)
    reader = _Reader(name, spec.parent or "", source)
    reader.read(tree)
    body = reader.rewritten()
    return _Module(
        name,
        ast.get_docstring(tree) or "",
        body,
        tuple(reader.imports),
        tuple(reader.takes),
        tuple(reader.public),
        frozenset(_defined(ast.parse(body).body)),
    )


class _Reader:
    """Goes through a module's statements, notes what they import and which lines a bundle has in their place."""

    def __init__(self, name: str, package: str, source: str):
        self.name, self.package, self.lines = name, package, source.splitlines()
        self.imports: list[_Import] = []
        self.takes: list[tuple[str, str]] = []
        self.public: list[str] = []
        self._changes: list[tuple[ast.stmt, list[str]]] = []

    def read(self, tree: ast.Module) -> None:
        for index, node in enumerate(tree.body):
            is_docstring = index == 0 and isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            if is_docstring:
                self._replace(node)
            elif isinstance(node, ast.Assign) and _targets(node) == ["__all__"]:
                self.public = ast.literal_eval(node.value)
                self._replace(node)
            elif isinstance(node, ast.Import | ast.ImportFrom):
                self._read_import(node)
                self._replace(node)
            else:
                self._read_inside(node)

    def _read_import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            if isinstance(node, ast.Import):
                self.imports.append(_Import(alias.name, None, alias.asname))
            elif not node.level:
                self.imports.append(_Import(node.module or "", alias.name, alias.asname))
            elif node.module is None or alias.asname is not None or alias.name == "*":
                raise BundleError(
                    f"{self.name}, line {node.lineno}: {ast.unparse(node)} has no equivalent in one file; import the "
                    "names themselves, as they are called"
                )
            else:
                module = importlib.util.resolve_name("." * node.level + node.module, self.package)
                self.takes.append((module, alias.name))

    def _read_inside(self, node: ast.AST) -> None:
        """Relative imports of a statement's inside; those of other packages stay where they are."""
        if isinstance(node, ast.Try) and any(_is_relative(inner) for inner in node.body):
            handler = next((h for h in node.handlers if h.type is None or "ImportError" in ast.unparse(h.type)), None)
            if handler is None or handler.name is not None:
                raise BundleError(
                    f"{self.name}, line {node.lineno}: an optional import needs `except ImportError`, without a name "
                    "for the error, which does not occur in one file"
                )
            self._replace(node, self._text_of(handler, node.col_offset))
            return
        if _is_relative(node):
            self._read_import(node)
            self._replace(node)
            return
        for inner in ast.iter_child_nodes(node):
            self._read_inside(inner)

    def _text_of(self, handler: ast.ExceptHandler, indent: int) -> list[str]:
        """The handler's body with its comments, at another indentation."""
        if all(isinstance(node, ast.Pass) for node in handler.body):
            return []
        lines = textwrap.dedent("\n".join(self.lines[handler.lineno : handler.end_lineno])).strip("\n")
        return [" " * indent + line if line else line for line in lines.splitlines()]

    def _replace(self, node: ast.stmt, lines: Iterable[str] = ()) -> None:
        self._changes.append((node, list(lines)))

    def rewritten(self) -> str:
        lines = list(self.lines)
        for node, instead in sorted(self._changes, key=lambda change: -change[0].lineno):
            lines[node.lineno - 1 : node.end_lineno] = instead
        # What was between two statements that are gone leaves no hole.
        return re.sub(r"\n{4,}", "\n\n\n", "\n".join(lines)).strip("\n")


def _is_relative(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.level > 0


def _targets(node: ast.AST) -> list[str]:
    """Names that a statement assigns to."""
    targets = {ast.Assign: "targets", ast.AnnAssign: "target", ast.AugAssign: "target"}.get(type(node))
    if targets is None:
        return []
    found = getattr(node, targets)
    every = found if isinstance(found, list) else [found]
    return [name.id for target in every for name in ast.walk(target) if isinstance(name, ast.Name)]


def _defined(body: Iterable[ast.stmt]) -> Iterator[str]:
    """Names that statements bind in their module."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.If | ast.Try | ast.With | ast.For | ast.While):
            for block in ("body", "orelse", "finalbody"):
                yield from _defined(getattr(node, block, ()))
        else:
            yield from _targets(node)


def _without_clashes(modules: list[_Module], imports: set[_Import]) -> dict[str, str]:
    """The modules' sources, with private names that mean several things told apart."""
    taken: dict[str, str] = {}
    for found in sorted(imports, key=lambda each: (each.module, each.name or "")):
        what = f"import of {found.module}{f'.{found.name}' if found.name else ''}"
        if found.name is None and found.alias is None:
            what = f"import of {found.binds}"  # `import a.b` and `import a.c` bind the same `a`
        if taken.setdefault(found.binds, what) != what:
            raise BundleError(f"{found.binds} is both {taken[found.binds]} and {what}; rename one of them")
    bodies = {module.name: module.body for module in modules}
    renamed: dict[tuple[str, str], str] = {}
    for module in modules:
        for name in sorted(module.defines):
            if name not in taken:
                taken[name] = module.name
            elif taken[name] in bodies and (same := _same_line(name, module.body, bodies[taken[name]])):
                bodies[module.name] = bodies[module.name].replace(same, "", 1)
            elif name.startswith("_") and not name.startswith("__"):
                renamed[module.name, name] = f"{name}_of_{module.name.rpartition('.')[2]}"
            else:
                raise BundleError(f"{name} is defined in {taken[name]} and in {module.name}; rename one of them")
    for module in modules:
        for old in {*module.takes, *((module.name, name) for name in module.defines)} & renamed.keys():
            bodies[module.name] = re.sub(rf"(?<![\w.]){old[1]}\b", renamed[old], bodies[module.name])
    return {name: re.sub(r"\n{4,}", "\n\n\n", body) for name, body in bodies.items()}


def _same_line(name: str, *bodies: str) -> str | None:
    """The line by which all of these give a name the same value, such as their logger; None when there is none."""
    lines = {match and match[0] for match in (re.search(rf"^{name} = .*\n", body, re.MULTILINE) for body in bodies)}
    return lines.pop() if len(lines) == 1 else None


def _comment(text: str) -> str:
    return "\n".join(f"# {line}".rstrip() for line in text.splitlines())


def _write_imports(imports: set[_Import]) -> str:
    """Sorted: the standard library before other packages, whole modules before names."""

    def is_standard(module: str) -> bool:
        return module.partition(".")[0] in sys.stdlib_module_names

    groups = []
    for standard in (True, False):
        own = [found for found in imports if is_standard(found.module) == standard]
        whole = sorted({(f.module, f.alias) for f in own if f.name is None}, key=lambda pair: pair[0].lower())
        lines = [f"import {module}" + (f" as {alias}" if alias else "") for module, alias in whole]
        for module in sorted({found.module for found in own if found.name is not None}, key=str.lower):
            names = {(f.name or "", f.alias) for f in own if f.module == module and f.name is not None}
            plain = sorted((name for name, alias in names if alias is None), key=_import_order)
            lines += [_from_import(module, plain)] if plain else []
            renamed = sorted((pair for pair in names if pair[1] is not None), key=lambda pair: _import_order(pair[0]))
            lines += [f"from {module} import {name} as {alias}" for name, alias in renamed]
        groups.append("\n".join(lines))
    return "\n\n".join(group for group in groups if group)


def _import_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then the rest."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[0].isupper() else 2
    return kind, name.lower()


def _from_import(module: str, names: list[str]) -> str:
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= _LINE_LENGTH:
        return line
    return f"from {module} import (\n" + "".join(f"    {name},\n" for name in names) + ")"


__all__ = ["BundleError", "bundle", "class_code", "modules_of"]
