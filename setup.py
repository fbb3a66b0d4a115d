"""What pyproject.toml cannot say: the stubs for type checkers are made as seqmix is built."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

sys.path.insert(0, str(Path(__file__).parent))
from seqmix._stubs import write_stubs


class BuildWithStubs(build_py):
    def run(self) -> None:
        write_stubs()
        super().run()


setup(cmdclass={"build_py": BuildWithStubs})
