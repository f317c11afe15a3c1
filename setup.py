"""Build and install fastreid; rank evaluation and resizing (Cython) are compiled if there is a C compiler."""

import re
import sys
import warnings
from pathlib import Path

from setuptools import Extension, find_packages, setup

ROOT = Path(__file__).resolve().parent


# The compiler must not fuse or reorder sums, so that results have the same bits everywhere.
FLAGS = {
    "linux": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-fopenmp"],
    "darwin": ["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"],  # its compiler has no OpenMP
}.get(sys.platform, ["/O2", "/fp:strict"])

# Folder, module, headers.
EXTENSIONS = [
    (
        "fastreid/retrieval/rank_cylib",
        "rank_cy",
        ["products", "kernels", "counting", "neighbors", "coarse", "bytes", "histogram"],
    ),
    ("fastreid/data/resize_cylib", "resize_cy", ["resize"]),
]


def requirements() -> list[str]:
    """Return the lines of requirements.txt."""
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def version() -> str:
    """Return the version of the package."""
    text = (ROOT / "fastreid" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)[1]


def extensions() -> list[Extension]:
    """Return the extensions for rank evaluation and resizing; without Cython, log a warning and return none."""
    try:
        from Cython.Build import cythonize
    except ImportError:
        warnings.warn("Cython is missing: rank evaluation and resizing will be slower", stacklevel=1)
        return []
    modules = cythonize([extension(*row) for row in EXTENSIONS], build_dir="build")
    for module in modules:  # set here, because cythonize makes new objects
        module.optional = True  # without a compiler there is a warning, and a fallback at run time
    return modules


def extension(folder: str, name: str, headers: list[str]) -> Extension:
    """Return the extension of `folder`/`name`.pyx."""
    return Extension(
        f"{folder.replace('/', '.')}.{name}",
        [f"{folder}/{name}.pyx"],
        include_dirs=[folder],
        depends=[f"{folder}/{header}.h" for header in headers],
        extra_compile_args=FLAGS,
        extra_link_args=[flag for flag in FLAGS if flag == "-fopenmp"],
    )


setup(
    version=version(),
    packages=find_packages(include=["fastreid", "fastreid.*"]),
    package_data={
        "fastreid.methods.sd_reid": ["*.yml"],
        "fastreid.data.resize_cylib": ["*.pyx", "*.h"],
        "fastreid.retrieval.rank_cylib": ["*.pyx", "*.pxd", "*.h"],
        "fastreid.evaluation.report": ["*.j2", "*.css"],
        "fastreid.generation": ["*.j2"],
    },
    install_requires=requirements(),
    ext_modules=extensions(),
)
