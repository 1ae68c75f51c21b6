"""``python -m textenv`` is the ``textenv`` command."""

import sys

from textenv.cli.main import main

sys.exit(main())
