"""Opens the app; with words after it, the same program as `zit`."""

import sys

from zit_app.cli import main

if __name__ == "__main__":
    sys.exit(main())
