"""Command-line interface: parses arguments into a request, shows progress, writes files.

request.py defines the fields of a request. Heavy modules are imported inside the commands, so that
``kalpana --help`` is fast. Paths go to stdout, everything else to stderr. An error is one line and
exit code 2; Ctrl-C is exit code 130.
"""

from __future__ import annotations

from kalpana.cli.main import app as app
