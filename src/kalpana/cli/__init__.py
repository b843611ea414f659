"""The command line: arguments in, a request out; progress drawn, pictures written. What can be asked stands in request.py.

Heavy modules are imported inside the commands, so that ``kalpana --help`` is quick. Paths go to stdout, all else to stderr; a mistake
is one line and exit code 2, Ctrl-C is 130.
"""

from __future__ import annotations

from kalpana.cli.main import app as app
