"""Fetch, unpack and check the datasets: `python data_prep/prepare.py --help`, and README.md in this folder."""

import sys

from npt.data.cli import prepare_command

if __name__ == "__main__":
    sys.exit(prepare_command())
