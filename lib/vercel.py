"""On Vercel: the application that both files of `api/` hand to its runtime."""

# ruff: noqa: E402 - the collector must be off before anything else is imported
import gc

gc.disable()  # looking for garbage among what is imported takes a sixth of a cold start, and finds none

import os

from lib.web.routes import create_app
from lib.web.service import Service

app = create_app(Service(os.environ))
gc.freeze()
gc.enable()
