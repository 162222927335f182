"""Print the oldest version of every requirement that pyproject.toml allows, as constraints for pip."""

import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    from pip._vendor import tomli as tomllib

project = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text())["project"]
for requirement in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
    if match := re.match(r"([\w.-]+)\s*>=\s*([\d.]+)", requirement):
        print(f"{match[1]}=={match[2]}")
