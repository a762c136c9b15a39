"""`python -m gruppo`: the command line."""

import sys

from gruppo.cli.main import main

sys.exit(main())
