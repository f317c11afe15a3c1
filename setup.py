"""Build and install fastreid; the Cython rank evaluation is compiled where a C compiler exists."""

import re
import sys
import warnings
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements() -> list[str]:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    text = (ROOT / "fastreid" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def extensions() -> list[Extension]:
    """The compiled rank evaluation; none, with a warning, where Cython is missing."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        warnings.warn("Cython is missing: rank evaluation will use NumPy, slower", stacklevel=1)
        return []
    rank = Extension(
        "fastreid.evaluation.rank_cylib.rank_cy",
        ["fastreid/evaluation/rank_cylib/rank_cy.pyx"],
        extra_compile_args=[] if sys.platform == "win32" else ["-O3"],
    )
    modules = cythonize([rank], build_dir="build")
    for module in modules:  # not above: cythonize makes new objects and forgets it
        module.optional = True  # no compiler: a warning, and the NumPy fallback at run time
    return modules


setup(
    version=version(),
    packages=find_packages(include=["fastreid", "fastreid.*"]),
    package_data={
        "fastreid.config": ["*.yml"],
        "fastreid.evaluation.rank_cylib": ["*.pyx"],
        "fastreid.evaluation.report": ["*.j2", "*.css"],
    },
    install_requires=requirements(),
    ext_modules=extensions(),
)
