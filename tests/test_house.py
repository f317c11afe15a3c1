"""Rules of the source code: order of folders, sizes of files and functions, repetition, types, style, docstrings.

Each test fails with a sentence that says what to do. docs/development.md explains the rules.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.miniature import ROOT
from tests.repetition import find_repetition

PACKAGE = ROOT / "fastreid"
SOURCES = sorted(PACKAGE.rglob("*.py"))

# Order of the folders

# A folder imports only from lines above its own; folders on one line do not import each other.
ORDER = [
    ["utils", "structures"],
    ["layers", "config"],
    ["retrieval"],
    ["data"],
    ["rendering"],
    ["modeling"],
    ["solver", "labeling"],
    ["evaluation"],
    ["methods"],
    ["generation"],
    ["engine"],
    ["encoder", "search", "export", "cli"],
]
LEVEL = {folder: number for number, folders in enumerate(ORDER) for folder in folders}

# File or folder below fastreid/, what it imports, why it may.
DOORS = {
    ("utils/compute_dist.py", "retrieval"): "fast-reid's module path for build_dist",
    ("utils/visualizer.py", "evaluation"): "fast-reid's module path for Visualizer",
    ("modeling/meta_arch/__init__.py", "methods"): "fast-reid's module path for Baseline, MGN and build_model",
    ("modeling/meta_arch/baseline.py", "methods"): "fast-reid's module path for Baseline",
    ("modeling/meta_arch/mgn.py", "methods"): "fast-reid's module path for MGN",
    ("modeling/model.py", "methods"): "build_model registers the methods when it is called",
    ("config/method_config.py", "methods"): "get_cfg adds the keys of the methods, whose configs import no model",
}


def imported_folders(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, folder of fastreid/) of every import in `source`, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{absolute(node, module)}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Call) and "import_module" in ast.unparse(node.func):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
        else:
            continue
        for name in names:
            top, _, rest = name.partition(".")
            if top == "fastreid" and rest:
                yield node.lineno, rest.partition(".")[0]


def absolute(node: ast.ImportFrom, module: str) -> str:
    """The module that a `from … import` names, `module` being the importing package."""
    if not node.level:
        return node.module or ""
    parents = module.split(".")[: len(module.split(".")) - node.level + 1]
    return ".".join([*parents, node.module] if node.module else parents)


def imports_against_the_order() -> Iterator[tuple[str, int, str, str]]:
    """(file, line, folder, imported folder) of each import that the order forbids."""
    for file in SOURCES:
        path = file.relative_to(PACKAGE)
        folder = path.parts[0].removesuffix(".py")
        if folder == "__init__":
            continue
        package = ".".join(["fastreid", *path.parent.parts])
        for line, imported in imported_folders(file.read_text(encoding="utf-8"), package):
            if imported in LEVEL and imported != folder and LEVEL[imported] >= LEVEL[folder]:
                yield path.as_posix(), line, folder, imported


def test_every_folder_has_its_place():
    folders = {path.name.removesuffix(".py") for path in PACKAGE.iterdir() if path.suffix in ("", ".py")}
    unknown = folders - LEVEL.keys() - {"__init__", "__pycache__"}
    assert not unknown, f"add {', '.join(sorted(unknown))} to ORDER in {__file__} and to docs/development.md"


def test_folders_import_upwards_only():
    wrong = [
        f"fastreid/{file}:{line}: {folder} imports {imported}"
        for file, line, folder, imported in imports_against_the_order()
        if (file, imported) not in DOORS
    ]
    advice = "imports against the order of folders; move what both need to a folder above (docs/development.md):"
    assert not wrong, "\n".join([advice, *wrong])


def test_every_door_is_in_use():
    used = {(file, imported) for file, _, _, imported in imports_against_the_order()}
    unused = [file for file, imported in DOORS if (file, imported) not in used]
    assert not unused, f"remove from DOORS in {__file__}, as they import nothing against the order: {unused}"


def test_the_page_has_the_same_order():
    page = (ROOT / "docs/development.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```order\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    assert [line.split() for line in block.splitlines()] == ORDER


@pytest.mark.parametrize(
    ("source", "folder"),
    [
        ("from fastreid.engine import hooks", "engine"),
        ("def f():\n    import fastreid.engine.hooks", "engine"),
        ("from fastreid import engine", "engine"),
        ("from ..engine import hooks", "engine"),
        ("from .. import engine", "engine"),
        ("import importlib\nimportlib.import_module('fastreid.engine')", "engine"),
    ],
)
def test_every_form_of_import_is_seen(source, folder):
    assert [found for _, found in imported_folders(source, "fastreid.utils")] == [folder]


# Sizes

MAX_LINES, MAX_FUNCTION = 400, 60

# Files with more lines, with the number that they may have and the reason.
LONG_FILES = {"tests/config/test_fastreid_keys.py": (625, "a row for each of the 131 keys of fast-reid")}
LONG_FUNCTIONS: dict[str, tuple[int, str]] = {}


def measured_files() -> list[Path]:
    """All source files but the project that stands for a user's of fast-reid."""
    folders = ("fastreid", "tools", "benchmarks", "tests")
    found = [
        file for folder in folders for suffix in ("py", "pyx", "h") for file in (ROOT / folder).rglob(f"*.{suffix}")
    ]
    return sorted(file for file in found if "external_project" not in file.parts)


def functions_of(file: Path) -> Iterator[tuple[str, int]]:
    """(name, lines) of the functions in a file of Python, Cython or C."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".py":
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node.name, node.end_lineno - node.lineno + 1
        return
    for block in (cython_blocks if file.suffix == ".pyx" else c_blocks)(text.splitlines()):
        if found := re.search(r"\b(?!__attribute__|target)(\w+)\(", " ".join(block)):
            yield found[1], len(block)


def cython_blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines of each function, from its definition to the last line that is indented."""
    block: list[str] = []
    for line in [*lines, "end"]:
        if line[:1].isalpha() and block:
            yield block[: max(number for number, text in enumerate(block) if text.strip()) + 1]
            block = []
        if block or re.match(r"(def|cdef|cpdef)\b.*\(", line):
            block.append(line)


def c_blocks(lines: list[str]) -> Iterator[list[str]]:
    """Lines of each block that begins at the margin and ends with a brace there; declarations are left out."""
    block: list[str] = []
    for line in lines:
        if block or re.match(r"(?![A-Z_]+\()[a-zA-Z_]", line):  # not a macro
            block.append(line)
        if line.startswith("}"):
            yield block
            block = []
        elif line.endswith(";") and not any("{" in text for text in block):
            block = []


def test_files_are_short():
    wrong = []
    for file in measured_files():
        name, lines = file.relative_to(ROOT).as_posix(), file.read_text(encoding="utf-8").count("\n")
        allowed, _ = LONG_FILES.get(name, (MAX_LINES, ""))
        if lines > allowed:
            wrong.append(f"{name} has {lines} lines, {allowed} are allowed")
    assert not wrong, "\n".join(["split these files; each probably does two things:", *wrong])


def test_functions_are_short():
    wrong = []
    for file in measured_files():
        for function, lines in functions_of(file):
            name = f"{file.relative_to(ROOT).as_posix()}:{function}"
            allowed, _ = LONG_FUNCTIONS.get(name, (MAX_FUNCTION, ""))
            if lines > allowed:
                wrong.append(f"{name} has {lines} lines, {allowed} are allowed")
    assert not wrong, "\n".join(["split these functions:", *wrong])


def test_exceptions_are_needed():
    unneeded = [name for name in LONG_FILES if (ROOT / name).read_text(encoding="utf-8").count("\n") <= MAX_LINES]
    long = {
        f"{file.relative_to(ROOT).as_posix()}:{name}"
        for file in measured_files()
        for name, n in functions_of(file)
        if n > MAX_FUNCTION
    }
    unneeded += LONG_FUNCTIONS.keys() - long
    assert not unneeded, (
        f"remove from LONG_FILES and LONG_FUNCTIONS in {__file__}, as they are short enough: {unneeded}"
    )


def test_functions_of_every_language_are_measured(tmp_path):
    (tmp_path / "a.py").write_text("def short():\n    pass\n\n\ndef long():\n" + "    pass\n" * 70)
    cython = "cdef int short() nogil:\n    return 1\n\n\ndef long(a,\n    b):\n" + "    pass\n" * 70
    (tmp_path / "a.pyx").write_text(cython)
    (tmp_path / "a.h").write_text(
        "static int tiny(int a) {\n  return a;\n}\n\nstatic inline void\nlong(int a) {\n" + "  a;\n" * 70 + "}\n"
    )
    assert dict(functions_of(tmp_path / "a.py")) == {"short": 2, "long": 71}
    assert dict(functions_of(tmp_path / "a.pyx")) == {"short": 2, "long": 72}
    assert dict(functions_of(tmp_path / "a.h")) == {"tiny": 3, "long": 73}


# Repetition

MAX_REPETITION = 0.01


def test_code_is_not_repeated():
    found = find_repetition(SOURCES)
    assert found.share <= MAX_REPETITION, "\n".join(
        [f"{found.share:.2%} of the lines are repeated; make functions of these:", *found.places]
    )


def test_repetition_is_found(tmp_path):
    block = "".join(f"    step_{number}()\n" for number in range(6))
    (tmp_path / "a.py").write_text(f"import a\n\n\ndef first():\n{block}\n\ndef other():\n    return 1\n")
    (tmp_path / "b.py").write_text(f"import a\n\n\ndef second():\n    # not compared\n{block}")
    found = find_repetition([tmp_path / "a.py", tmp_path / "b.py"])
    assert len(found.places) == 12 and found.share == 12 / 16
    (tmp_path / "b.py").write_text(f"def second():\n{block}".replace("step_3", "another"))
    assert find_repetition([tmp_path / "a.py", tmp_path / "b.py"]).places == []


# Types and style


@pytest.mark.slow
def test_types_are_right():
    folders = ["fastreid", "tools"]
    done = subprocess.run([sys.executable, "-m", "mypy", *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"correct these types (mypy {' '.join(folders)}):\n{done.stdout}{done.stderr}"


def test_ruff_has_no_complaint():
    for command in (["check", "--output-format", "concise"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, f"correct these (ruff {' '.join(command)} .):\n{done.stdout[-5000:]}{done.stderr}"


# Docstrings

SECTIONS = "Args|Returns|Raises|Yields|Attributes|Example|Examples|Note"


def documented(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:
    """The functions and classes of a module that have a docstring, with it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and (
            text := ast.get_docstring(node)
        ):
            yield node, text


def section(docstring: str, name: str) -> list[str]:
    """The names that a section of a docstring describes, as "name:", "name (type):" or "a, b:"."""
    found = re.search(rf"^{name}:\n((?:(?:    .*)?\n?)+)", docstring, re.MULTILINE)
    if not found:
        return []
    rows = re.findall(r"^    (\S[^:\n]*):", found[1], re.MULTILINE)
    return [
        name.strip().lstrip("*").partition(" ")[0] for row in rows for name in re.sub(r"\(.*?\)", "", row).split(",")
    ]


def parameters(node: ast.AST) -> set[str]:
    """Names of the parameters of a function, or of what constructs a class; fields of a dataclass count."""
    if isinstance(node, ast.ClassDef):
        fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign)}
        makers = [
            item for item in node.body if isinstance(item, ast.FunctionDef) and item.name in ("__init__", "__new__")
        ]
        return fields.union(*map(parameters, makers))
    arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
    return {argument.arg for argument in arguments if argument}


def unknown_arguments(source: str) -> Iterator[str]:
    for node, docstring in documented(ast.parse(source)):
        for name in section(docstring, "Args"):
            if name not in parameters(node):
                yield f"{node.lineno}: {node.name} has no parameter {name!r}"


def one_line_sections(source: str) -> Iterator[str]:
    for node, docstring in documented(ast.parse(source)):
        if found := re.search(rf"^(?:{SECTIONS}): \S.*", docstring, re.MULTILINE):
            yield f"{node.lineno}: {node.name}: {found[0][:60]}"


@pytest.mark.parametrize(
    ("check", "advice"),
    [
        (unknown_arguments, "Args: names what is no parameter; rename it or remove the line:"),
        (one_line_sections, "write the text of a section on the lines below it, indented:"),
    ],
)
def test_docstrings_agree_with_signatures(check, advice):
    found = {file: check(file.read_text(encoding="utf-8")) for file in SOURCES}
    wrong = [f"{file.relative_to(ROOT).as_posix()}:{text}" for file, texts in found.items() for text in texts]
    assert not wrong, "\n".join([advice, *wrong])


DOCSTRING = '''
def load(path, *rest, strict=True, **kwargs):
    """Load.

    Args:
        path: Where: a file.
            More of it.
        *rest, strict (bool): Others.
        {name}: Text.

    Raises:
        OSError: no file.
    """
'''


def test_a_wrong_name_in_a_docstring_is_found():
    assert list(unknown_arguments(DOCSTRING.format(name="kwargs"))) == []
    assert list(unknown_arguments(DOCSTRING.format(name="paths"))) == ["2: load has no parameter 'paths'"]
    docstring = '    """A.\n\n    Args:\n        {}: Text.\n    """\n'
    of_class = f"class A:\n{docstring}    size: int\n    def __init__(self, path): ...\n"
    assert [list(unknown_arguments(of_class.format(name))) for name in ("size", "path")] == [[], []]
    assert len(list(unknown_arguments(of_class.format("paths")))) == 1
    assert len(list(one_line_sections('def f(a):\n    """F.\n\n    Args: a number.\n    """'))) == 1


# Imports of packages

HEAVY = ("matplotlib", "peft", "diffusers.models.unets", "scipy.stats", "sklearn", "jinja2.environment", "faiss")


@pytest.mark.parametrize("modules", ["fastreid", "fastreid.engine, fastreid.evaluation"])
def test_packages_that_few_runs_need_are_imported_late(modules):
    script = f"import sys, {modules}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    loaded = sorted(set(HEAVY) & set(done.stdout.split()))
    assert not loaded, f"import {loaded} inside the functions that need them: every command waits for it"
