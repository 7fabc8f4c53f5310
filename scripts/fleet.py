#!/usr/bin/env python3
"""Migrates the databases of all tenants of an inventory: `scripts/fleet.py --help`."""

import signal

if __name__ == "__main__":
    # Until `run_process` handles them, a signal must not show a traceback.
    for _number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(_number, signal.SIG_DFL)

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from scripts.in_venv import require

require("psycopg")

from lib.cli.fleet import main
from lib.cli.process import run_process

if __name__ == "__main__":
    run_process(main)
