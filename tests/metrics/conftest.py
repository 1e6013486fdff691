"""Lets the tests of this folder import its two helper modules, oracle and worlds."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
